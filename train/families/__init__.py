"""One file a family: config, network, loss, training step, metrics."""
