"""The moving average: its numbers are the formula's, and a run of an earlier version goes on with them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from onnxferry.train.loop.ema import WeightAverage


def changed(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    network.train()(torch.randn(8, 3))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_average_is_the_formula_bit_for_bit_and_counters_are_copied() -> None:
    made = network()
    average = WeightAverage(made, 0.7)
    expected = copy.deepcopy(made.state_dict())
    for n in range(1, 40):
        changed(made)
        average.update_parameters(made)
        for name, weight in made.state_dict().items():
            if weight.is_floating_point():
                expected[name] = expected[name].lerp(weight, 1 - min(0.7, (1 + n) / (10 + n)))
            else:
                expected[name] = weight
        found = average.module.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("earlier", [True, False])
def test_a_saved_average_goes_on_as_if_never_stopped(earlier: bool) -> None:
    made = network()
    whole = WeightAverage(made, 0.99)
    for _ in range(5):
        changed(made)
        whole.update_parameters(made)
    saved = copy.deepcopy(whole.state_dict())
    if earlier:  # as it was written before
        saved["steps"] = saved.pop("n_averaged") - 1
        assert int(saved["steps"]) == 5
    resumed = WeightAverage(network(), 0.99)
    resumed.load_state_dict(saved)
    changed(made)
    for average in (whole, resumed):
        average.update_parameters(made)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
