"""Projects that run an artifact in other languages: ``onnxferry embed``."""
