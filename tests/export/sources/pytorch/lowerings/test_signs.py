"""Signs, angles and clamps at signed zeros, infinities and small numbers; rounding of what is whole already."""

from __future__ import annotations

import torch

INF = float("inf")


def test_signs_and_angles(exported):
    functions = {
        "copysign": torch.copysign,
        "copysign_of_number": lambda a, b: torch.copysign(a, -2.0),
        "atan2": torch.atan2,
        "angle": lambda a, b: torch.angle(a),
        "heaviside": torch.heaviside,
        "hypot": torch.hypot,
        "signbit": lambda a, b: torch.signbit(a),
        "clamp_min": lambda a, b: a.clamp(min=0),
        "clamp_max": lambda a, b: a.clamp(max=0.5),
        "clamp_both": lambda a, b: a.clamp(-1, 1),
    }
    generator = torch.Generator().manual_seed(0)
    file = exported(functions, torch.randn(8, generator=generator), torch.randn(8, generator=generator))
    a = torch.tensor([0.0, -0.0, 0.0, -0.0, 1, -1, INF, -INF])
    b = torch.tensor([1, -1, -0.0, 0.0, -0.0, 0.0, INF, -INF])
    for first, second in ((a, b), (b, a), (a, a), (1e-8 * a, b), (a, torch.full((8,), 1e30)), (torch.full((8,), 3e30), b)):
        file.check(first, second)


def test_whole_numbers(exported):
    names = ("floor", "ceil", "trunc", "round", "isfinite", "isinf", "isnan", "sign")
    functions = {name: getattr(torch, name) for name in names} | {"prod": torch.prod, "prod_of_axis": lambda x: x.prod(0, keepdim=True)}
    functions |= {"sum": torch.sum, "max": torch.amax, "least": torch.amin, "clamp": lambda x: x.clamp(0, 10)}
    functions |= {"largest_of_two": lambda x: torch.maximum(x, x.flip(0)), "relu": torch.relu}
    file = exported(functions, torch.arange(1, 8))
    for row in ([3_000_000_000, 7, 2**40 + 59, -5, 2**53 + 1, -(2**62), 11], [1, 2, 2, 3, 3, 0, -1], [2**31, 2**32 - 1, 3, 1, 1, 1, 1]):
        file.check(torch.tensor(row))


def test_shifts(exported):
    by = torch.tensor([0, 1, 5, 70, 63, 8, -1])
    functions = {"left": lambda x: x << 3, "right": lambda x: x >> 2, "lefts": lambda x: x << by, "rights": lambda x: x >> by}
    file = exported(functions, torch.arange(1, 8))
    file.check(torch.tensor([3_000_000_000, 7, 2**40 + 59, -5, 2**53 + 1, -(2**62), 11]))
    file.check(torch.tensor([-7, -3, 7, 3, 0, 1, 2]))
    for dtype in (torch.int8, torch.uint8):
        functions = {
            "left": lambda x: x << 3,
            "right": lambda x: x >> 2,
            "lefts": lambda x: x << x.clamp(0, 20),
            "rights": lambda x: x >> x.clamp(0, 20),
        }
        file = exported(functions, torch.arange(1, 8, dtype=dtype))
        file.check(torch.tensor([127, 100, 3, 0, 9, 64, 33], dtype=dtype))


def test_any_and_all_of_nothing(exported):
    functions = {
        "any": torch.any,
        "all": torch.all,
        "any_of_axis": lambda x: (x > 0).any(0),
        "all_of_axis": lambda x: (x > 0).all(0, keepdim=True),
    }
    file = exported(functions, torch.tensor([[1.0, 0.0], [-1.0, 2.0]]), dynamic_shapes={"inputs_0": {0: "n"}})
    for rows in (0, 1, 3):
        for value in (0.0, 1.0, -1.0, float("nan")):
            file.check(torch.full((rows, 2), value))
