"""Systems of equations, inverses, and Cholesky, LU and QR factors of small matrices of fixed size, written out step by step.

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
    if size == 0:
        return b.expand((*batch, *b.shape[-2:])).clone()
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


def _cholesky_solve(b: torch.Tensor, factor: torch.Tensor, upper: bool = False) -> Any:
    if not _small(factor):
        return NotImplemented
    lower = factor.mT if upper else factor
    return _solve_triangular(lower.mT, _solve_triangular(lower, b, upper=False), upper=True)


def _cholesky_inverse(factor: torch.Tensor, upper: bool = False) -> Any:
    return _cholesky_solve(torch.eye(factor.shape[-1], dtype=factor.dtype), factor, upper)


def _triangular_solve(b: torch.Tensor, a: torch.Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> Any:
    made = _solve_triangular(a.mT if transpose else a, b, upper=upper != transpose, unitriangular=unitriangular)
    batch = _broadcast(a.shape[:-2], b.shape[:-2])
    return made if made is NotImplemented else (made, a.expand((*batch, *a.shape[-2:])).clone())


def _is_small_pair(a: torch.Tensor) -> bool:
    return all(isinstance(size, int) and 0 < size <= MAX_SIZE for size in a.shape[-2:]) and not a.is_complex()


def _lu_factor_ex(a: torch.Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """LAPACK's getrf: both factors in one matrix, and for every step the row that was put there, counted from 1."""
    if not _is_small_pair(a):
        return NotImplemented
    height, width = a.shape[-2:]
    places, columns = torch.arange(height), torch.arange(width)
    pivots = []
    for k in range(min(height, width)):
        largest = torch.argmax(torch.where(places < k, -1.0, torch.abs(a[..., k])), -1, keepdim=True)
        if not pivot:
            largest = torch.full_like(largest, k)
        # The two rows change places: taken by an order in which k and the other are swapped.
        order = torch.where(places == k, largest, torch.where(places == largest, k, places))
        a = torch.gather(a, -2, order.unsqueeze(-1).expand(a.shape))
        pivots.append(largest)
        # A pivot of 0 has a column of zeros below it, which stays.
        divisor = torch.where(a[..., k : k + 1, k] == 0, torch.ones((), dtype=a.dtype), a[..., k : k + 1, k])
        factors = torch.where(places > k, a[..., k] / divisor, torch.zeros((), dtype=a.dtype)).unsqueeze(-1)
        right = torch.where(columns > k, a[..., k : k + 1, :], torch.zeros((), dtype=a.dtype))
        a = a - factors * right
        a = torch.where((columns == k) & (places > k).unsqueeze(-1), factors, a)
    return a, (torch.cat(pivots, -1) + 1).to(torch.int32), torch.zeros(a.shape[:-2], dtype=torch.int32)


def _order_of(pivots: torch.Tensor, height: int) -> torch.Tensor:
    """The rows in the order that the swaps leave them in: (…, height)."""
    places = torch.arange(height).expand((*pivots.shape[:-1], height))
    for k in range(pivots.shape[-1]):
        other = pivots[..., k : k + 1].to(torch.int64) - 1
        swapped = torch.where(torch.arange(height) == k, other, torch.where(torch.arange(height) == other, k, torch.arange(height)))
        places = torch.gather(places, -1, swapped)
    return places


def _lu_unpack(lu: torch.Tensor, pivots: torch.Tensor, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    if not _is_small_pair(lu):
        return NotImplemented
    height, width = lu.shape[-2:]
    inner = min(height, width)
    empty = torch.zeros((0,), dtype=lu.dtype)
    order = _order_of(pivots, height)
    p = (order.unsqueeze(-2) == torch.arange(height).unsqueeze(-1)).to(lu.dtype) if unpack_pivots else empty
    if not unpack_data:
        return p, empty, empty
    lower = torch.tril(lu[..., :inner], -1) + torch.eye(height, inner, dtype=lu.dtype)
    return p, lower, torch.triu(lu[..., :inner, :])


def _lu(a: torch.Tensor, *, pivot: bool = True) -> Any:
    made = _lu_factor_ex(a, pivot=pivot)
    if made is NotImplemented:
        return made
    p, lower, upper = _lu_unpack(made[0], made[1])
    return (p if pivot else torch.zeros((0,), dtype=a.dtype)), lower, upper


def _lu_solve(lu: torch.Tensor, pivots: torch.Tensor, b: torch.Tensor, *, left: bool = True, adjoint: bool = False) -> Any:
    if not _small(lu):
        return NotImplemented
    if not left:
        return _lu_solve(lu, pivots, b.mT, adjoint=not adjoint).mT
    batch = _broadcast(lu.shape[:-2], b.shape[:-2])
    order = _order_of(pivots, lu.shape[-1]).expand((*batch, lu.shape[-1]))
    b = b.expand((*batch, *b.shape[-2:]))
    if adjoint:
        inner = _solve_triangular(lu.mT, b, upper=False)
        made = _solve_triangular(lu.mT, inner, upper=True, unitriangular=True)
        back = torch.argsort(order, -1)
        return torch.gather(made, -2, back.unsqueeze(-1).expand(made.shape))
    b = torch.gather(b, -2, order.unsqueeze(-1).expand(b.shape))
    return _solve_triangular(lu, _solve_triangular(lu, b, upper=False, unitriangular=True), upper=True)


def _geqrf(a: torch.Tensor) -> Any:
    """LAPACK's geqrf: R on and above the diagonal, below it the reflections, and their factors."""
    if not _is_small_pair(a):
        return NotImplemented
    height, width = a.shape[-2:]
    places = torch.arange(height)
    zero = torch.zeros((), dtype=a.dtype)
    factors = []
    for k in range(min(height, width)):
        column = torch.where(places >= k, a[..., k], zero)
        head = column[..., k : k + 1]
        tail = torch.where(places > k, column, zero)
        size = torch.amax(torch.abs(column), -1, keepdim=True)
        scaled = column / torch.where(size == 0, torch.ones((), dtype=a.dtype), size)
        norm = size * torch.sqrt((scaled * scaled).sum(-1, keepdim=True))
        beta = torch.where(head < 0, norm, -norm)
        nothing = (tail == 0).all(-1, keepdim=True)
        factor = torch.where(nothing, zero, (beta - head) / torch.where(beta == 0, torch.ones((), dtype=a.dtype), beta))
        below = tail / torch.where(nothing, torch.ones((), dtype=a.dtype), head - beta)
        reflection = torch.where(places == k, torch.ones((), dtype=a.dtype), below).unsqueeze(-1)
        after = torch.arange(width) >= k
        change = factor.unsqueeze(-1) * reflection * (reflection * a).sum(-2, keepdim=True)
        a = a - torch.where(after, change, zero)
        a = torch.where((torch.arange(width) == k) & (places > k).unsqueeze(-1), below.unsqueeze(-1), a)
        factors.append(factor)
    return a, torch.cat(factors, -1)


def _reflected(reflections: torch.Tensor, factors: torch.Tensor, b: torch.Tensor, *, backwards: bool) -> torch.Tensor:
    """The reflections' product applied to b from the left; ``backwards``: the last one first."""
    height, count = reflections.shape[-2], factors.shape[-1]
    for k in reversed(range(count)) if backwards else range(count):
        # Rows above are not touched, infinities in them neither.
        above, rest = b[..., :k, :], b[..., k:, :]
        places = torch.arange(height - k)
        column = torch.where(places > 0, reflections[..., k:, k], (places == 0).to(b.dtype)).unsqueeze(-1)
        rest = rest - factors[..., k : k + 1].unsqueeze(-1) * column * (column * rest).sum(-2, keepdim=True)
        b = torch.cat([above, rest], -2) if k else rest
    return b


def _householder_product(reflections: torch.Tensor, factors: torch.Tensor) -> Any:
    if not _is_small_pair(reflections):
        return NotImplemented
    unit = torch.eye(*reflections.shape[-2:], dtype=reflections.dtype).expand(reflections.shape)
    return _reflected(reflections, factors, unit, backwards=True)


def _ormqr(reflections: torch.Tensor, factors: torch.Tensor, b: torch.Tensor, left: bool = True, transpose: bool = False) -> Any:
    if not _is_small_pair(reflections):
        return NotImplemented
    if not left:
        return _reflected(reflections, factors, b.mT, backwards=transpose).mT
    return _reflected(reflections, factors, b, backwards=not transpose)


def _qr(a: torch.Tensor, mode: str = "reduced") -> Any:
    made = _geqrf(a)
    if made is NotImplemented:
        return made
    packed, factors = made
    height, width = a.shape[-2:]
    inner = height if mode == "complete" else min(height, width)
    if a.numel() == 0:  # ONNX Runtime 1.31 joins slices into a Split, which fails on nothing
        return tuple(torch.zeros((*a.shape[:-2], *size), dtype=a.dtype) for size in ((height, inner), (inner, width)))
    r = torch.triu(packed)[..., :inner, :]
    if mode == "r":
        return torch.zeros((0,), dtype=a.dtype), r
    unit = torch.eye(height, inner, dtype=a.dtype).expand((*a.shape[:-2], height, inner))
    return _reflected(packed, factors, unit, backwards=True), r


def _sign_and_log(a: torch.Tensor) -> Any:
    """Of the determinant: its sign, and the logarithm of its size."""
    made = _lu_factor_ex(a)
    if made is NotImplemented:
        return made
    lu, pivots, _ = made
    diagonal = torch.diagonal(lu, dim1=-2, dim2=-1)
    swaps = (pivots != torch.arange(1, a.shape[-1] + 1, dtype=torch.int32)).to(torch.int64).sum(-1)
    sign = torch.prod(torch.sign(diagonal), -1) * (1 - 2 * torch.remainder(swaps, 2)).to(a.dtype)
    return sign, torch.log(torch.abs(diagonal)).sum(-1), lu, pivots


def _added_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``beta * x + alpha * a @ b``: the converter drops factors of its own operator, and ONNX Runtime's Gemm takes floats only."""
    if x.is_floating_point() and beta == 1 and alpha == 1:
        return NotImplemented
    product = torch.mm(a, b)
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return product + (x if beta == 1 else x * beta)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """Of whole numbers, as :func:`_added_product`."""
    if x.is_floating_point():
        return NotImplemented
    product = torch.matmul(x, weight.mT if weight.dim() > 1 else weight)
    return product if bias is None else product + bias


def _distances(a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: int | None = None) -> torch.Tensor:
    """Between every row of a and every row of b; the converter knows no p but 2."""
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    if any(isinstance(size, int) and size == 0 for size in apart.shape):
        return torch.zeros(apart.shape[:-1], dtype=a.dtype)
    made: torch.Tensor = torch.linalg.vector_norm(apart, p, -1)
    return made


def _first(made: Any) -> Any:
    """The answer without LAPACK's codes, which PyTorch raises for: of a singular matrix a graph gives infinities."""
    return made if made is NotImplemented else made[0]


def _two(made: Any) -> Any:
    return made if made is NotImplemented else made[:2]


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.linalg_inv.default: lambda a: _first(_inverse_ex(a)),
    aten.inverse.default: lambda a: _first(_inverse_ex(a)),
    aten.linalg_solve.default: lambda a, b, *, left=True: _first(_solve_ex(a, b, left=left)),
    aten.linalg_cholesky.default: lambda a, *, upper=False: _first(_cholesky_ex(a, upper=upper)),
    # An operator of its own before PyTorch 2.14.
    **({aten.cholesky.default: lambda a, upper=False: _first(_cholesky_ex(a, upper=upper))} if hasattr(aten, "cholesky") else {}),
    aten._linalg_solve_ex.default: _solve_ex,
    aten.linalg_inv_ex.default: _inverse_ex,
    aten.linalg_solve_triangular.default: _solve_triangular,
    aten.linalg_cholesky_ex.default: _cholesky_ex,
    aten.cholesky_solve.default: _cholesky_solve,
    aten.cholesky_inverse.default: _cholesky_inverse,
    aten.triangular_solve.default: _triangular_solve,
    aten.linalg_lu_factor_ex.default: _lu_factor_ex,
    aten.linalg_lu_factor.default: lambda a, *, pivot=True: _two(_lu_factor_ex(a, pivot=pivot)),
    aten.linalg_lu.default: _lu,
    aten.lu_unpack.default: _lu_unpack,
    aten.linalg_lu_solve.default: _lu_solve,
    aten.lu_solve.default: lambda b, lu, pivots: _lu_solve(lu, pivots, b),
    aten._linalg_slogdet.default: _sign_and_log,
    aten.linalg_slogdet.default: lambda a: _two(_sign_and_log(a)),
    aten.addmm.default: _added_product,
    aten.linear.default: _linear,
    aten.cdist.default: _distances,
    aten._cdist_forward.default: _distances,
    aten.geqrf.default: _geqrf,
    aten.linalg_householder_product.default: _householder_product,
    aten.ormqr.default: _ormqr,
    aten.linalg_qr.default: _qr,
}
