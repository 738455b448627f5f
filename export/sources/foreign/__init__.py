"""Files that another tool wrote: what their metadata says, names for their axes, other operator sets, and other ONNX Runtimes."""
