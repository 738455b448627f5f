"""PyTorch modules and exported programs as sources."""
