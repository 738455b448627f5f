"""Sessions: opening, threads, checks of inputs, runs, golden samples. ort.py is the only importer of ONNX Runtime."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
