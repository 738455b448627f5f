"""Systems of equations, inverses and Cholesky factors of small matrices of fixed size, written out step by step.

ONNX has no operator for them, and the converter none either (onnxscript 0.7.2). Elimination picks the largest pivot of each column, as
LAPACK does. Larger matrices than ``MAX_SIZE`` are refused: every row adds some fifteen nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

MAX_SIZE = 16

# Not annotated in torch.
_broadcast: Callable[..., Any] = torch.broadcast_shapes


def _small(a: torch.Tensor) -> bool:
    size = a.shape[-1]
    return isinstance(size, int) and size <= MAX_SIZE and not a.is_complex()


def _solved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``x`` of ``a @ x = b``, by Gauss and Jordan."""
    size = a.shape[-1]
    batch = _broadcast(a.shape[:-2], b.shape[:-2])
    rows = torch.cat([a.expand((*batch, *a.shape[-2:])), b.expand((*batch, *b.shape[-2:]))], -1)
    places = torch.arange(size)
    for k in range(size):
        here = places == k
        column = torch.where(places < k, -1.0, torch.abs(rows[..., k]))
        chosen = (places == torch.argmax(column, -1, keepdim=True)).unsqueeze(-1)
        pivot_row = torch.gather(rows, -2, torch.argmax(column, -1, keepdim=True).unsqueeze(-1).expand((*batch, 1, rows.shape[-1])))
        rows = torch.where(chosen, rows[..., k : k + 1, :], rows)
        pivot_row = pivot_row / pivot_row[..., k : k + 1]
        others = rows - rows[..., k : k + 1] * pivot_row
        rows = torch.where(here.unsqueeze(-1), pivot_row, others)
    return rows[..., size:]


def _solve(a: torch.Tensor, b: torch.Tensor, left: bool, vector: bool) -> torch.Tensor:
    if vector:
        return _solved(a, b.unsqueeze(-1)).squeeze(-1)
    return _solved(a, b) if left else _solved(a.mT, b.mT).mT


def _solve_ex(a: torch.Tensor, b: torch.Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    if not _small(a):
        return NotImplemented
    vector = b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1])
    made = _solve(a, b, left, vector)
    info = torch.zeros(a.shape[:-2], dtype=torch.int32)
    return made, a, torch.zeros(a.shape[:-1], dtype=torch.int32), info


def _inverse_ex(a: torch.Tensor, *, check_errors: bool = False) -> Any:
    if not _small(a):
        return NotImplemented
    return _solved(a, torch.eye(a.shape[-1], dtype=a.dtype)), torch.zeros(a.shape[:-2], dtype=torch.int32)


def _solve_triangular(a: torch.Tensor, b: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    if not _small(a):
        return NotImplemented
    if not left:
        return _solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    size = a.shape[-1]
    batch = _broadcast(a.shape[:-2], b.shape[:-2])
    known: dict[int, torch.Tensor] = {}
    for k in reversed(range(size)) if upper else range(size):
        rest = b[..., k : k + 1, :]
        for j, row in known.items():
            rest = rest - a[..., k : k + 1, j : j + 1] * row
        known[k] = rest if unitriangular else rest / a[..., k : k + 1, k : k + 1]
    return torch.cat([known[k].expand((*batch, 1, b.shape[-1])) for k in range(size)], -2)


def _cholesky_ex(a: torch.Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    if not _small(a):
        return NotImplemented
    size = a.shape[-1]
    a = a.mT if upper else a
    below = torch.arange(size).unsqueeze(-1)
    columns: list[torch.Tensor] = []
    for k in range(size):
        rest = a[..., k : k + 1]
        for done in columns:
            rest = rest - done * done[..., k : k + 1, :]
        column = rest / torch.sqrt(rest[..., k : k + 1, :])
        columns.append(torch.where(below >= k, column, torch.zeros((), dtype=a.dtype)))
    made = torch.cat(columns, -1) if columns else a
    return made.mT if upper else made, torch.zeros(a.shape[:-2], dtype=torch.int32)


def _first(made: Any) -> Any:
    """The answer without LAPACK's codes, which PyTorch raises for: of a singular matrix a graph gives infinities."""
    return made if made is NotImplemented else made[0]


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.linalg_inv.default: lambda a: _first(_inverse_ex(a)),
    aten.inverse.default: lambda a: _first(_inverse_ex(a)),
    aten.linalg_solve.default: lambda a, b, *, left=True: _first(_solve_ex(a, b, left=left)),
    aten.linalg_cholesky.default: lambda a, *, upper=False: _first(_cholesky_ex(a, upper=upper)),
    aten.cholesky.default: lambda a, upper=False: _first(_cholesky_ex(a, upper=upper)),
    aten._linalg_solve_ex.default: _solve_ex,
    aten.linalg_inv_ex.default: _inverse_ex,
    aten.linalg_solve_triangular.default: _solve_triangular,
    aten.linalg_cholesky_ex.default: _cholesky_ex,
}
