"""The verbs that run a model for its task: classify, generate, sample, reconstruct, evaluate."""
