"""Text vectorizers, in standard string operators, and the token patterns that they can follow."""

from onnxferry.export.sources.sklearn.converters.text import hashing, vectorizers

__all__ = ["hashing", "vectorizers"]
