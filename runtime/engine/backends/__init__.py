"""Back ends beside ONNX Runtime's own CPU and CUDA providers: OpenVINO's runtime, and plugin providers that come as wheels.

Nothing here is imported until one is asked for, or a model is tuned.
"""
