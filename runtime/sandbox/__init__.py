"""Untrusted files, opened and run in a confined child process."""

from onnxferry.runtime.moved import old_names

__getattr__ = old_names(__name__)
