"""The HTTP and gRPC server: the Open Inference Protocol, and plain routes beside it, for any number of models."""
