"""Special functions over their whole range beside PyTorch's own in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxferry.export.sources.pytorch.lowerings.special import bessel, errors
from onnxferry.export.sources.pytorch.lowerings.special.formulas import Table

S = torch.special

BESSEL = {
    "i0": S.i0,
    "i0e": S.i0e,
    "i1": S.i1,
    "i1e": S.i1e,
    "modified_i0": S.modified_bessel_i0,
    "modified_i1": S.modified_bessel_i1,
    "k0": S.modified_bessel_k0,
    "k1": S.modified_bessel_k1,
    "scaled_k0": S.scaled_modified_bessel_k0,
    "scaled_k1": S.scaled_modified_bessel_k1,
    "j0": S.bessel_j0,
    "j1": S.bessel_j1,
    "y0": S.bessel_y0,
    "y1": S.bessel_y1,
    "spherical": S.spherical_bessel_j0,
}
GAMMA = {
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "trigamma": lambda x: torch.polygamma(1, x),
    "polygamma_2": lambda x: torch.polygamma(2, x),
    "polygamma_3": lambda x: torch.polygamma(3, x),
    "zeta": lambda x: S.zeta(torch.full_like(x, 2.5), x.abs()),
    "zeta_of": lambda x: S.zeta(x.abs() + 2, torch.full_like(x, 0.75)),
    "mvlgamma": lambda x: torch.mvlgamma(x.abs() + 3, 3),
}
ERRORS = {"erfc": torch.erfc, "erfcx": S.erfcx, "log_ndtr": S.log_ndtr, "erfinv": torch.erfinv, "ndtri": S.ndtri}

POINTS = [
    1e-30,
    1e-8,
    1e-4,
    0.01,
    0.3,
    0.5,
    0.79,
    0.81,
    0.999,
    1.0,
    1.5,
    1.99,
    2.0,
    2.01,
    3.0,
    4.99,
    5.1,
    7.99,
    8.0,
    8.01,
    11.0,
    25.0,
    60.0,
    80.0,
]


@pytest.mark.slow
@pytest.mark.parametrize("functions", [BESSEL, GAMMA, ERRORS], ids=["bessel", "gamma", "errors"])
def test_whole_families(exported, functions):
    """Relative to each value, small ones too; relative to 1 where an oscillation crosses zero."""
    file = exported(functions, torch.rand(24, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05)
    points = torch.tensor(POINTS)
    for x in [points, -points + (0.3 if functions is GAMMA else 0.0), torch.linspace(0.001, 0.999, 24), points * 100]:
        got = file.engine.run({file.engine.inputs[0].name: x.numpy()})
        for name, function in functions.items():
            want = function(x.double()).float().numpy()
            finite = np.isfinite(want)
            crosses = name in ("j0", "j1", "y0", "y1", "spherical", "lgamma", "digamma", "ndtri")
            np.testing.assert_allclose(got[name][finite], want[finite], rtol=1e-6, atol=1e-7 if crosses else 0, err_msg=name)
            np.testing.assert_array_equal(np.isnan(got[name]), np.isnan(want), err_msg=name)


def test_small_numbers_and_whole_numbers(exported):
    functions = {"erfinv": torch.erfinv, "erfc": torch.erfc, "whole": lambda x: torch.lgamma(torch.ceil(x).to(torch.int64))}
    file = exported(functions, torch.rand(4, generator=torch.Generator().manual_seed(0)))
    file.check(torch.tensor([1e-7, 3e-12, -1e-30, 0.25]), atol=1e-37)
    file.check(torch.tensor([-1e-7, 5.0, 8.5, 0.9]), atol=1e-37)


def test_tables_are_as_exact_as_float64_allows():
    tables = [value for module in (bessel, errors) for value in vars(module).values() if isinstance(value, Table)]
    assert len(tables) > 10
    for table in tables:
        low, high, pieces = table._low, table._high, table._pieces
        x = np.linspace(low + 1e-3 * (high - low), high - 1e-9, 501)
        place = (x - low) / (high - low) * pieces
        within = 2 * (place % 1) - 1
        made = sum(row[place.astype(int)] * within**power for power, row in enumerate(table.coefficients()))
        want = table._function(x)
        # PyTorch's own Bessel functions have a step of 4e-7 at 5.
        allowed = np.where(np.abs(x - 5.0) < 0.2, 1e-6, 1e-12) * np.maximum(1.0, np.abs(want))
        assert (np.abs(made - want) <= allowed).all()
