"""The included models: a folder each, with the model, its variants, its card and a few held-out inputs."""
