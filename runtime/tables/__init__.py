"""Rows of a table for a model's inputs: CSV files, DataFrames, lists, single values."""
