"""Logarithms and exponentials that neither lose small numbers nor overflow.

The converter writes ``log1p(x)`` as ``log(1 + x)``, ``expm1(x)`` as ``exp(x) - 1``, ``logsigmoid`` as ``log(sigmoid(x))``, ``logaddexp``
as ``log(exp(a) + exp(b))`` and ``logcumsumexp`` as ``log(cumsum(exp(x)))`` (onnxscript 0.7.2; microsoft/onnxscript issue 281,
pytorch/pytorch issue 1835): 0 for small numbers, infinite beyond 88.

``log1p`` is W. Kahan's: the logarithm of u = 1 + x, times what x lost in u. ``expm1(x)`` is ``tanh(x / 2) * (exp(x) + 1)``, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18

op: Any = opset18

aten = torch.ops.aten


def _log1p(x: Any) -> Any:
    def number(value: float) -> Any:
        return op.Constant(value=ir.tensor(value, dtype=x.dtype))

    u = op.Add(x, number(1.0))
    lost = op.Div(x, op.Sub(u, number(1.0)))
    # 1 + x was rounded to 1: log1p(x) is x. It was rounded to x, or is infinite: nothing was lost.
    y = op.Mul(op.Log(u), op.Where(op.Less(op.Abs(x), number(1e4)), lost, number(1.0)))
    return op.Where(op.Equal(u, number(1.0)), x, y)


def _expm1(x: Any) -> Any:
    def number(value: float) -> Any:
        return op.Constant(value=ir.tensor(value, dtype=x.dtype))

    return op.Mul(op.Tanh(op.Mul(x, number(0.5))), op.Add(op.Exp(x), number(1.0)))


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(x, max=0) - torch.log1p(torch.exp(-torch.abs(x)))


def _log_sigmoid_forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _log_sigmoid(x), x.new_zeros((0,))


def _log_add_exp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    larger = torch.maximum(a, b)
    # Two equal infinities: their difference is not a number.
    distance = torch.where(a == b, torch.zeros_like(larger), torch.abs(a - b))
    return larger + torch.log1p(torch.exp(-distance))


def _log_add_exp2(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    larger = torch.maximum(a, b)
    distance = torch.where(a == b, torch.zeros_like(larger), torch.abs(a - b))
    return larger + torch.log1p(torch.exp2(-distance)) * (1 / math.log(2))


def _log_sum_exp(x: torch.Tensor, dim: Any, keepdim: bool = False) -> torch.Tensor:
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    dims = [dim] if isinstance(dim, int) else list(dim) or list(range(x.dim()))
    if x.dim() == 0:
        return torch.where(torch.isnan(x), x, x)
    largest = torch.amax(x, dims, keepdim=True)
    shift = torch.where(torch.isinf(largest), torch.zeros_like(largest), largest)
    summed = torch.log(torch.sum(torch.exp(x - shift), dims, keepdim=True)) + shift
    if keepdim:
        return summed
    kept = sorted(d % x.dim() for d in dims)
    return torch.squeeze(summed, kept)


def _softplus(x: torch.Tensor, beta: float = 1.0, threshold: float = 20.0) -> torch.Tensor:
    scaled = x * beta
    return torch.where(scaled > threshold, x, torch.log1p(torch.exp(scaled)) / beta)


def _mish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tanh(_softplus(x))


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
}


def _cross_entropy(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """Of one row without a batch, and of targets that are probabilities: ONNX's operator takes neither."""
    axis = 0 if x.dim() == 1 else 1
    if not target.is_floating_point():
        if x.dim() > 1:
            return NotImplemented
        made = aten.cross_entropy_loss(x.unsqueeze(0), target.reshape(1), weight, reduction, ignore_index, label_smoothing)
        return made.reshape(())
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / x.shape[axis]
    each = -torch.log_softmax(x, axis) * target
    if weight is not None:
        each = each * weight.reshape([-1 if i == axis else 1 for i in range(x.dim())])
    rows = each.sum(axis)
    if reduction == 0:
        return rows
    return rows.sum() / rows.numel() if reduction == 1 else rows.sum()


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.cross_entropy_loss.default: _cross_entropy,
    aten.log_sigmoid.default: _log_sigmoid,
    aten.log_sigmoid_forward.default: _log_sigmoid_forward,
    aten.logaddexp.default: _log_add_exp,
    aten.logaddexp2.default: _log_add_exp2,
    aten.logsumexp.default: _log_sum_exp,
    aten.softplus.default: _softplus,
    aten.mish.default: _mish,
}
