"""The text generator's graph, with the sampling loop inside."""
