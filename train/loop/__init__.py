"""The one training loop, checkpoints, and the moving average of weights. Knows no family."""
