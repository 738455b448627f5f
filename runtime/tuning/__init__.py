"""The search for the fastest way to run a model on this machine, its cache, and the engine that runs so."""
