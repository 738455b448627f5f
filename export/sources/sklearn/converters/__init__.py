"""Converters of scikit-learn's estimators, one file a kind; importing this registers them all."""

from onnxferry.export.sources.sklearn.converters import (
    composed,
    decomposition,
    encoders,
    isotonic,
    linear,
    neighbors,
    preprocessing,
    probabilistic,
    text,
    trees,
)

__all__ = ["composed", "decomposition", "encoders", "isotonic", "linear", "neighbors", "preprocessing", "probabilistic", "text", "trees"]
