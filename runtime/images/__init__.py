"""Images in any form to uint8 arrays: files, bytes, PIL images, arrays, folders, IDX files."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
