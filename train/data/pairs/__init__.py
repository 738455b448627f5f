"""Pairs of texts to translate between: a file of the user's, or the dates that are made from locale data."""
