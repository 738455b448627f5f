"""Compares the speed of a model with ONNX Runtime, OpenVINO and PyTorch, each in a process of its own."""
