"""ONNX graphs, whatever they came from: nodes, clean-up, writing, branches, differences."""
