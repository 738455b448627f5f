"""A user's own .onnx file: its inputs, its confined run, its report."""
