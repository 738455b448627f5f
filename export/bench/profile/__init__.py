"""Where the time of a run goes: by operator, and compared with the machine's own peaks."""
