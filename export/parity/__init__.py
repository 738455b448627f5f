"""The comparison of a source with its file: inputs to try, tolerances, the report, the explanation of a difference. Knows no framework."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
