"""Text vectorizers, in standard string operators, and the token patterns that they can follow."""

from onnxferry.export.sources.sklearn.converters.text import vectorizers

__all__ = ["vectorizers"]
