"""The translator's graph, with the decoding loop inside."""
