"""The rewrites that optimize tries: quantization, float16, layouts, upsampling."""
