"""Running maxima, minima, products and log-sums, along axes of fixed and of open size."""

from __future__ import annotations

import pytest
import torch

FUNCTIONS = {
    "max": lambda x: torch.cummax(x, -1)[0],
    "max_at": lambda x: torch.cummax(x, -1)[1],
    "min": lambda x: torch.cummin(x, -1)[0],
    "min_at": lambda x: torch.cummin(x, -1)[1],
    "product": lambda x: torch.cumprod(x, -1),
    "log_sum": lambda x: torch.logcumsumexp(x, -1),
    "down": lambda x: torch.cummax(x, 0)[0],
}
NAN = float("nan")


@pytest.mark.parametrize("axes", [{}, {0: "rows", 1: "places"}])
def test_scans(exported, axes):
    file = exported(FUNCTIONS, torch.randn(2, 7, generator=torch.Generator().manual_seed(0)), dynamic_shapes={"inputs_0": axes})
    for row in ([1, 3, 3, 2, 5, 5, -1], [NAN, 1, 2, NAN, 3, 4, 5], [-200, 0, 1, -5, 3, 90, 100], [-0.0, 0.0, 0.0, -0.0, 1, 1, 1]):
        file.check(torch.tensor([row, row[::-1]], dtype=torch.float32), atol=1e-6)
    if axes:
        for places in (1, 2, 12):
            file.check(100 * torch.randn(3, places), atol=1e-4)
