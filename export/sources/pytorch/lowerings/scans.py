"""Running maxima, minima, products and log-sums along an axis, for which ONNX has no operator.

The converter has none of ``cummax``, ``cummin`` and ``cumprod``, and its ``logcumsumexp`` is ``log(cumsum(exp(x)))`` (onnxscript 0.7.2;
microsoft/onnxscript issue 281), infinite beyond 88. Along an axis of fixed size they are computed by doubling: after step k each
place holds what the last 2**k places give together. Along an open axis every place reduces all up to it: n * n numbers.

``linspace`` between whole numbers counts from both ends in double precision, as ATen does; the converter from the first alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten


def _doubling(parts: tuple[torch.Tensor, ...], dim: int, combine: Callable[..., tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """``combine(earlier, later)`` of all places up to each."""
    size = parts[0].shape[dim]
    step = 1
    while step < size:
        earlier = tuple(part.narrow(dim, 0, size - step) for part in parts)
        later = tuple(part.narrow(dim, step, size - step) for part in parts)
        joined = combine(earlier, later)
        parts = tuple(torch.cat([part.narrow(dim, 0, step), new], dim) for part, new in zip(parts, joined, strict=True))
        step *= 2
    return parts


def _up_to(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` with another axis before ``dim``, by the places of the answer; and which places count for each."""
    places = torch.arange(x.shape[dim])
    counts = places.unsqueeze(0) <= places.unsqueeze(1)
    shape = [1] * (x.dim() + 1)
    shape[dim], shape[dim + 1] = x.shape[dim], x.shape[dim]
    return x.unsqueeze(dim), counts.reshape(shape)


def _fixed(x: torch.Tensor, dim: int) -> bool:
    return isinstance(x.shape[dim], int)


def _log_cum_sum_exp(x: torch.Tensor, dim: int) -> torch.Tensor:
    if x.dim() == 0:
        return x.clone()
    dim %= x.dim()
    if _fixed(x, dim):
        return _doubling((x,), dim, lambda a, b: (torch.logaddexp(a[0], b[0]),))[0]
    spread, counts = _up_to(x, dim)
    return torch.logsumexp(torch.where(counts, spread, float("-inf")), dim + 1)


def _cum_extreme(larger: bool) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def extreme(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dim() == 0:
            return x.clone(), torch.zeros((), dtype=torch.int64)
        dim %= x.dim()
        size = x.shape[dim]
        places = torch.arange(size).reshape([-1 if i == dim else 1 for i in range(x.dim())]).expand(x.shape)

        def later_wins(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            # Of equal ones the later; not-a-number wins, and stays.
            wins = b >= a if larger else b <= a
            return wins | (b != b) if x.is_floating_point() else wins

        if _fixed(x, dim):

            def combine(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                wins = later_wins(a[0], b[0])
                return torch.where(wins, b[0], a[0]), torch.where(wins, b[1], a[1])

            values, indices = _doubling((x, places), dim, combine)
            return values, indices
        spread, counts = _up_to(x, dim)
        # Where a later place does not count, the first stands in its place.
        first = x.narrow(dim, 0, 1).unsqueeze(dim)
        held = torch.where(counts, spread, first)
        values = torch.amax(held, dim + 1) if larger else torch.amin(held, dim + 1)
        same = counts & (spread == values.unsqueeze(dim + 1))
        if x.is_floating_point():
            # Not-a-number wins, which ONNX Runtime's maxima do not know.
            missing = counts & torch.isnan(spread)
            seen = torch.any(missing, dim + 1)
            values = torch.where(seen, float("nan"), values)
            same = missing | (same & ~seen.unsqueeze(dim + 1))
        last = torch.where(same, places.unsqueeze(dim), 0)
        return values, torch.amax(last, dim + 1)

    return extreme


def _cum_prod(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    if dtype is None and not x.is_floating_point():
        dtype = torch.int64
    x = x if dtype is None else x.to(dtype)
    if x.dim() == 0:
        return x.clone()
    dim %= x.dim()
    if _fixed(x, dim):
        return _doubling((x,), dim, lambda a, b: (a[0] * b[0],))[0]
    spread, counts = _up_to(x, dim)
    return torch.prod(torch.where(counts, spread, torch.ones((), dtype=x.dtype)), dim + 1)


def _evenly(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
    if dtype is None or dtype.is_floating_point or dtype.is_complex or not isinstance(steps, int) or steps == 0:
        return NotImplemented
    ends = [x if isinstance(x, torch.Tensor) else torch.full((), x) for x in (start, end)]
    first, last = (x.to(dtype).to(torch.float64) for x in ends)
    if steps == 1:
        return first.reshape(1).to(dtype)
    step = (last - first) / (steps - 1)
    place = torch.arange(steps, dtype=torch.float64)
    return torch.where(place < steps // 2, first + step * place, last - step * (steps - 1 - place)).to(dtype)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.linspace.Tensor_Tensor: _evenly,
    aten.linspace.Tensor_Scalar: _evenly,
    aten.linspace.Scalar_Tensor: _evenly,
    aten.logcumsumexp.default: _log_cum_sum_exp,
    aten.cummax.default: _cum_extreme(larger=True),
    aten.cummin.default: _cum_extreme(larger=False),
    aten.cumprod.default: _cum_prod,
}
