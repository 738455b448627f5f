"""Training that is watched: a child process with PyTorch, or the record of such a run."""
