"""Labelled test sets, scores, the confusion plot."""
