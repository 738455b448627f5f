"""Models of one feature."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.preprocessing import interpolated
from onnxferry.export.sources.sklearn.converters.registry import PREDICT, TRANSFORM, Input, converts, matrix
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor


@converts(PREDICT, "IsotonicRegression")
def _isotonic(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    xs, ys = np.asarray(model.X_thresholds_, np.float64), np.asarray(model.y_thresholds_, np.float64)
    given = matrix(graph, x).as_column()
    found = interpolated(graph, given, xs, ys)
    if model.out_of_bounds == "nan":
        outside = (given < float(xs[0])) | (given > float(xs[-1]))
        found = graph.where(outside, graph.constant(np.nan), found)
    return found.flat()


@converts(TRANSFORM, "IsotonicRegression")
def _isotonic_transform(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _isotonic(graph, model, x)
