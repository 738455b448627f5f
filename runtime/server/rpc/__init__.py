"""The server over gRPC: the messages and the methods."""
