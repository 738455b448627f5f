"""onnxferry.train: trains the model families. Its checkpoints rebuild their own model, and onnxferry.export takes them."""
