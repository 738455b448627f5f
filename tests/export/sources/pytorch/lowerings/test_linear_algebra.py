"""Systems, inverses and factors of small matrices, with zeros where the first pivot would stand."""

from __future__ import annotations

import torch


def test_small_matrices(exported):
    one = torch.eye(4)
    functions = {
        "solve": lambda a: torch.linalg.solve(a, a[..., :2] * 3 + 1),
        "solve_vector": lambda a: torch.linalg.solve(a, a[..., 0]),
        "inverse": torch.linalg.inv,
        "cholesky": lambda a: torch.linalg.cholesky(a @ a.mT + one),
        "upper": lambda a: torch.linalg.solve_triangular(a.triu() + 3 * one, a, upper=True),
        "lower": lambda a: torch.linalg.solve_triangular(a.tril() + 3 * one, a, upper=False, left=False),
    }
    a = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)) + one
    file = exported(functions, a, rtol=1e-3, atol=1e-4)
    file.check(a.flip(0), rtol=1e-3, atol=1e-4)
    a[:, 0, 0] = 0
    file.check(a, rtol=1e-3, atol=1e-4)


def test_factors(exported):
    """LU and QR as LAPACK gives them, pivots and signs too."""
    functions = {
        "lu": lambda a: torch.linalg.lu_factor(a)[0],
        "pivots": lambda a: torch.linalg.lu_factor(a)[1],
        "l": lambda a: torch.linalg.lu(a)[1],
        "lu_solve": lambda a: torch.linalg.lu_solve(*torch.linalg.lu_factor(a[..., :2, :]), a[..., :2, :1]),
        "q": lambda a: torch.linalg.qr(a)[0],
        "r": lambda a: torch.linalg.qr(a)[1],
        "applied": lambda a: torch.ormqr(*torch.geqrf(a), a, transpose=True),
    }
    a = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    file = exported(functions, a, rtol=1e-3, atol=1e-4)
    file.check(a.flip(0), rtol=1e-3, atol=1e-4)
    a[:, 0, 0] = 0
    file.check(a, rtol=1e-3, atol=1e-4)
