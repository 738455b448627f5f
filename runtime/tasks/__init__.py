"""Models that know their task: loading.py, and one file a kind of model."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
