"""One file or folder a framework; choose.py decides which one fits a model."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
