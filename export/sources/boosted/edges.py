"""Where the answers of a boosted model change: the thresholds of its trees, by feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxferry.export.sources.boosted.convert import read_catboost, read_lightgbm, read_xgboost
from onnxferry.export.sources.boosted.models import library
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder


def edges(model: Any) -> Mapping[int, np.ndarray]:
    """float64 by place of the feature; codes for categories that are numbers."""
    graph = GraphBuilder(18)
    if library(model) == "lightgbm":
        return read_lightgbm(graph, model).forest.thresholds()
    if library(model) == "xgboost":
        forest = read_xgboost(graph, model).forest
        return forest.thresholds() if forest is not None else {}
    return read_catboost(graph, model).thresholds


def features_of(model: Any) -> tuple[int, tuple[int, ...]]:
    """How many features it takes, and which of them hold categories."""
    graph = GraphBuilder(18)
    if library(model) == "lightgbm":
        lightgbm = read_lightgbm(graph, model)
        return lightgbm.forest.features, lightgbm.categorical
    if library(model) == "xgboost":
        xgboost = read_xgboost(graph, model)
        return xgboost.features, xgboost.categorical
    catboost = read_catboost(graph, model)
    return catboost.features, catboost.categorical
