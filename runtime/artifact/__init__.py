"""What an artifact says of itself: the contract, how it is stored and compared, variants, signatures, the included models."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
