"""Covariance and correlation without the checks of their weights, which read values that a capture does not have.

``torch.cov`` is made of simpler operators before ``torch.export`` (torch 2.13) sees it, and its checks end the capture with
"DataDependentOutputException: aten.equal". Inside :class:`UncheckedStatistics` these functions stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def _cov(
    x: torch.Tensor, *, correction: int = 1, fweights: torch.Tensor | None = None, aweights: torch.Tensor | None = None
) -> torch.Tensor:
    rows = x.reshape(1, -1) if x.dim() < 2 else x
    weights = [w for w in (fweights, aweights) if w is not None]
    total: Any = rows.shape[1]
    weight: torch.Tensor | None = None
    if weights:
        weight = weights[0] if len(weights) == 1 else weights[0] * weights[1]
        total = weight.sum()
    mean = (rows if weight is None else rows * weight).sum(1, keepdim=True) / total
    apart = rows - mean
    products = torch.mm(apart, (apart if weight is None else apart * weight).mT)
    freedom = total - correction
    if weight is not None and aweights is not None and correction:
        freedom = total - correction * (weight * aweights).sum() / total
    freedom = torch.clamp(freedom, min=0) if isinstance(freedom, torch.Tensor) else max(freedom, 0)
    return (products / freedom).squeeze()


def _corrcoef(x: torch.Tensor) -> torch.Tensor:
    c = _cov(x)
    if c.dim() == 0:
        return c / c
    deviation = torch.sqrt(torch.diagonal(c))
    return torch.clamp(c / deviation.unsqueeze(1) / deviation, -1, 1)


_UNCHECKED: Mapping[Any, Callable[..., torch.Tensor]] = {
    torch.cov: _cov,
    torch.Tensor.cov: _cov,
    torch.corrcoef: _corrcoef,
    torch.Tensor.corrcoef: _corrcoef,
}


class UncheckedStatistics(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return _UNCHECKED.get(func, func)(*args, **(kwargs or {}))
