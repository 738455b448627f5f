"""Models handed over to other servers: Triton's model repository, KServe's manifests, MLServer's settings and a runtime class."""
