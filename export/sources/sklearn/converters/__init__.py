"""Converters of scikit-learn's estimators, one file a kind; importing this registers them all."""

from onnxferry.export.sources.sklearn.converters import (
    calibration,
    composed,
    decomposition,
    encoders,
    linear,
    neighbors,
    preprocessing,
    probabilistic,
    quantiles,
    text,
    trees,
)

__all__ = [
    "calibration",
    "composed",
    "decomposition",
    "encoders",
    "linear",
    "neighbors",
    "preprocessing",
    "probabilistic",
    "quantiles",
    "text",
    "trees",
]
