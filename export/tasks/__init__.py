"""Tasks put around a model of one's own: an image in front of it, classes with probabilities behind it."""
