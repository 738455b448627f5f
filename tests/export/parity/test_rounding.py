"""The source's own rounding: nothing where arithmetic is exact, and what kernels are known to be off by where it is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxferry.export.parity.rounding import Wobble
from onnxferry.export.sources.pytorch.module import TorchSource
from tests.export.functions import Function


def spread(function: Callable[[Tensor], Tensor], x: list[list[float]]) -> np.ndarray:
    source = TorchSource(Function(function), torch.tensor(x))
    return Wobble(source, source.examples, source.run(source.examples)).spread("output")


@pytest.mark.parametrize("function", [lambda x: x % 0.5, lambda x: (x * 3 + 1).floor(), lambda x: x.clamp(0, 1).relu()])
def test_exact_arithmetic_has_no_spread(function: Callable[[Tensor], Tensor]) -> None:
    assert not spread(function, [[1.0, 0.5, -2.25]]).any()


def test_a_sum_that_cancels_out_has_the_spread_of_its_terms() -> None:
    found = spread(lambda x: x.sum(-1), [[1e4, -1e4, 1e-8], [1.0, 1.0, 1.0]])
    assert 1e-3 < found[0] < 1e-1
    assert found[1] < 1e-5


@pytest.mark.parametrize("function", [torch.sigmoid, lambda x: x.clone().sigmoid_()])
def test_a_small_sigmoid_is_off_by_its_kernels_error(function: Callable[[Tensor], Tensor]) -> None:
    found = spread(function, [[-30.0, -25.0]])
    assert (found > 1e-8).all()
    assert (found < 1e-6).all()


def test_a_gated_unit() -> None:
    assert np.isfinite(spread(lambda x: F.glu(x, -1), [[-30.0, -25.0]])).all()


def test_an_order_of_equals_is_not_defined() -> None:
    source = TorchSource(Function(lambda x: x.topk(2).indices), torch.ones(2, 5))
    wobble = Wobble(source, source.examples, source.run(source.examples))
    assert not wobble.untied("output", np.ones((2, 2), dtype=bool)).any()


def test_the_first_of_equals_is() -> None:
    source = TorchSource(Function(lambda x: x.argmax(-1)), torch.ones(2, 5))
    wobble = Wobble(source, source.examples, source.run(source.examples))
    assert wobble.untied("output", np.ones(2, dtype=bool)).all()
