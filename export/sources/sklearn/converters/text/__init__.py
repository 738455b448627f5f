"""Text vectorizers."""

from onnxferry.export.sources.sklearn.converters.text import vectorizers

__all__ = ["vectorizers"]
