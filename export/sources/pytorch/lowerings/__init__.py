"""Operators of PyTorch whose translation to ONNX is wrong at some values, or missing: our own, in one table.

An operator is given here in one of two ways:

- a decomposition: a function of tensors, written in other operators of PyTorch, which the exporter traces in its place. It may
  return ``NotImplemented`` where the converter's own translation is right for these arguments;
- a translation: a function of ONNX values, for what has to be said in operators of ONNX.

Each file holds one kind, and says which public thread it comes from and which versions it holds for. All of them are tested
against PyTorch at edge values in ``tests/export/sources/pytorch/lowerings/``, and operator by operator by
``tests/conformance/torch_ops.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch.onnx._internal.exporter import _decomp

from onnxferry.export.sources.pytorch.lowerings import (
    division,
    indexing,
    linear_algebra,
    logarithms,
    pooling,
    reductions,
    resize,
    scans,
    searching,
    shifts,
    signs,
    sizes,
    special,
    windows,
)

_KINDS = (
    *(division, indexing, linear_algebra, logarithms, pooling, reductions, resize, scans, searching),
    *(shifts, signs, sizes, special, windows),
)

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {op: made for kind in _KINDS for op, made in getattr(kind, "DECOMPOSITIONS", {}).items()}
TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {op: made for kind in _KINDS for op, made in getattr(kind, "TRANSLATIONS", {}).items()}


@contextmanager
def decompositions_in_use() -> Iterator[None]:
    """Inside, ``torch.onnx.export`` decomposes by :data:`DECOMPOSITIONS` first, also what it has a translation for."""
    table = _decomp.create_onnx_friendly_decomposition_table

    def with_ours(registered: set[Any]) -> dict[Any, Callable[..., Any]]:
        theirs = table(registered)
        return {**theirs, **{op: _or_else(ours, theirs.get(op)) for op, ours in DECOMPOSITIONS.items()}}

    with mock.patch.object(_decomp, "create_onnx_friendly_decomposition_table", with_ours):
        yield


def _or_else(ours: Callable[..., Any], theirs: Callable[..., Any] | None) -> Callable[..., Any]:
    """Ours, and theirs where ours does not apply."""
    if theirs is None:
        return ours

    def decomposed(*args: Any, **kwargs: Any) -> Any:
        made = ours(*args, **kwargs)
        return theirs(*args, **kwargs) if made is NotImplemented else made

    return decomposed
