"""Whole-task graphs of the model families that train/ has, from raw bytes to the answer."""
