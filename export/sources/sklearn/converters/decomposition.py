"""Projections: each is a product with fixed numbers, and little around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.linear import dense
from onnxferry.export.sources.sklearn.converters.registry import TRANSFORM, Input, converts, matrix, unsupported
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor


@converts(TRANSFORM, "_BasePCA")
def _pca(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    components = np.asarray(model.components_, np.float64)
    found = matrix(graph, x) @ components.T - np.asarray(model.mean_, np.float64).reshape(1, -1) @ components.T
    if not model.whiten:
        return found
    scale = np.sqrt(model.explained_variance_)
    eps = np.finfo(np.float64).eps
    return found / np.where(scale < eps, eps, scale)


@converts(TRANSFORM, "TruncatedSVD")
def _svd(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return matrix(graph, x) @ np.asarray(model.components_, np.float64).T


@converts(TRANSFORM, "GaussianRandomProjection", "SparseRandomProjection")
def _random_projection(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return matrix(graph, x) @ dense(model.components_).T


@converts(TRANSFORM, "FastICA")
def _ica(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    if model.whiten:
        found = found - np.asarray(model.mean_, np.float64)
    return found @ np.asarray(model.components_, np.float64).T


@converts(TRANSFORM, "FactorAnalysis")
def _factors(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    weights = np.asarray(model.components_, np.float64)
    scaled = weights / model.noise_variance_
    covariance = np.linalg.inv(np.eye(len(weights)) + scaled @ weights.T)
    answer: Tensor = (matrix(graph, x) - np.asarray(model.mean_)) @ (scaled.T @ covariance)
    return answer


@converts(TRANSFORM, "SparsePCA", "MiniBatchSparsePCA")
def _sparse_pca(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    weights = np.asarray(model.components_, np.float64)
    inverse = np.linalg.inv(weights @ weights.T + model.ridge_alpha * np.eye(len(weights)))
    return (matrix(graph, x) - np.asarray(model.mean_)) @ (weights.T @ inverse)


@converts(TRANSFORM, "NeighborhoodComponentsAnalysis")
def _components(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return matrix(graph, x) @ np.asarray(model.components_, np.float64).T


@converts(TRANSFORM, "LinearDiscriminantAnalysis")
def _discriminants(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.solver == "lsqr":
        raise unsupported(model, "transform of the solver 'lsqr', which has none")
    found = matrix(graph, x)
    found = (
        (found - np.asarray(model.xbar_)) @ np.asarray(model.scalings_) if model.solver == "svd" else found @ np.asarray(model.scalings_)
    )
    return found.columns(list(range(model._max_components)))


@converts(TRANSFORM, "FeatureAgglomeration")
def _agglomeration(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.pooling_func is not np.mean:
        raise unsupported(model, "a pooling_func other than numpy.mean")
    labels = np.asarray(model.labels_)
    _, places = np.unique(labels, return_inverse=True)
    weights = np.eye(places.max() + 1)[places]
    answer: Tensor = matrix(graph, x) @ (weights / weights.sum(0))
    return answer


@converts(TRANSFORM, "RBFSampler")
def _rbf_sampler(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x) @ np.asarray(model.random_weights_, np.float64) + np.asarray(model.random_offset_, np.float64)
    return found.unary("Cos") * float((2.0 / model.n_components) ** 0.5)


@converts(TRANSFORM, "SkewedChi2Sampler")
def _skewed_sampler(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    logs = (matrix(graph, x) + float(model.skewedness)).log()
    found = logs @ np.asarray(model.random_weights_, np.float64) + np.asarray(model.random_offset_, np.float64)
    return found.unary("Cos") * float(np.sqrt(2.0) / np.sqrt(model.n_components))


@converts(TRANSFORM, "AdditiveChi2Sampler")
def _additive_sampler(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    step = getattr(model, "sample_interval_", None) or model.sample_interval or {1: 0.8, 2: 0.5, 3: 0.4}[model.sample_steps]
    zero = found.equal(np.float64(0))
    safe = graph.where(zero, graph.constant(1.0), found)
    nothing = graph.constant(0.0)
    parts = [graph.where(zero, nothing, (safe * float(step)).sqrt())]
    for order in range(1, model.sample_steps):
        factor = (safe * float(2 * step / np.cosh(np.pi * order * step))).sqrt()
        angle = safe.log() * float(order * step)
        parts += [graph.where(zero, nothing, factor * angle.unary("Cos")), graph.where(zero, nothing, factor * angle.unary("Sin"))]
    return graph.concat(parts)


@converts(TRANSFORM, "BernoulliRBM")
def _boltzmann(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x) @ np.asarray(model.components_, np.float64).T + np.asarray(model.intercept_hidden_, np.float64)
    return found.sigmoid()


@converts(TRANSFORM, "PolynomialCountSketch")
def _sketch(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """Products of count sketches: circular convolutions, by the matrices of the discrete Fourier transform."""
    found, count = matrix(graph, x), int(model.n_components)
    if count > 1000:
        raise unsupported(model, f"n_components={count}; the limit is 1000")
    if model.coef0 != 0:
        found = graph.concat([found * float(model.gamma) ** 0.5, found.columns([0]) * 0.0 + float(model.coef0) ** 0.5])
    else:
        found = found * float(model.gamma) ** 0.5
    angles = 2 * np.pi * np.outer(np.arange(count), np.arange(count)) / count
    real: Tensor | None = None
    imaginary: Tensor | None = None
    for place, sign in zip(model.indexHash_, model.bitHash_, strict=True):
        weights = np.zeros((len(place), count))
        weights[np.arange(len(place)), place] = sign
        one, two = found @ (weights @ np.cos(angles)), found @ -(weights @ np.sin(angles))
        if real is None or imaginary is None:
            real, imaginary = one, two
        else:
            real, imaginary = real * one - imaginary * two, real * two + imaginary * one
    if real is None or imaginary is None:
        raise unsupported(model, "degree=0")
    return (real @ np.cos(angles) - imaginary @ np.sin(angles)) / float(count)
