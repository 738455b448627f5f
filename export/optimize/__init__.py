"""Variants of a model that are faster or smaller, kept only where they are measured to be and stay within a budget."""
