"""The bounded reader of .onnx files, and random inputs for a model."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
