"""A text classifier to its file: the text cut into words and its answer, as one graph."""
