"""Logarithms and exponentials at small numbers, beyond the range of exp, and at infinities."""

from __future__ import annotations

import torch
import torch.nn.functional as F

ONE = {
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, beta=3.0, threshold=5.0),
    "mish": F.mish,
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, -1),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, torch.sigmoid(-x), reduction="none"),
    "log1p_over": lambda x: torch.log1p(x) / x,
    "softsign_log": lambda x: torch.log1p(x.abs()) * x.sign(),
}


def test_one_argument(exported):
    file = exported(ONE, torch.rand(2, 6, generator=torch.Generator().manual_seed(0)))
    rows = [
        [1e-6, 1e-8, -1e-8, 3e-5, 1e-3, 0.5],
        [-20.0, -100.0, -200.0, 20.0, 100.0, 200.0],
        [-200.0, 0.0, 1.0, -90.0, 88.0, 3.0],
        [-0.5, -0.999, 0.25, 1.0, 2.0, 1e4],
        [1e-30, -1e-30, 1e-20, 30.0, 50.0, 87.0],
    ]
    for row in rows:
        file.check(torch.tensor([row, row[::-1]]), atol=1e-7, but=("log1p", "log1p_over", "expm1", "logsigmoid"))
        file.check(torch.tensor([row, row[::-1]]), atol=1e-38, but=("log_softmax", "logsumexp", "logcumsumexp", "bce", "mish"))
    infinite = torch.tensor([[float("inf"), -1.0, 1.0, 2.0, 3.0, 4.0], [-float("inf")] * 6])
    file.check(infinite, but=("log_softmax", "bce", "mish", "log1p_over", "softsign_log"))


def test_two_arguments(exported):
    functions = {"logaddexp": torch.logaddexp, "logaddexp2": torch.logaddexp2, "xlogy": torch.xlogy, "xlog1py": torch.special.xlog1py}
    file = exported(functions, torch.rand(6), torch.rand(6))
    a = torch.tensor([-100.0, -200.0, 89.0, 1e-8, -5.0, 0.0])
    file.check(a, a)
    file.check(a, a.flip(0))
    file.check(a, torch.tensor([float("inf"), -float("inf"), float("inf"), 0.0, 3.0, -float("inf")]))
