"""What a PyTorch model may be, take and give: scripts, compiled modules, NamedTuples, dataclasses, sizes; examples of one row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from onnxferry.export import export_model
from onnxferry.runtime.engine.engine import Engine

# torch deprecates its scripts, and copies of one warn of gradients.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if bool(x.sum() > 0) else x - 1


class State(NamedTuple):
    h: torch.Tensor
    c: torch.Tensor


class TakesState(nn.Module):
    def forward(self, x: torch.Tensor, state: State) -> State:
        return State(x + state.h, x * state.c)


@dataclass
class Boxes:
    corners: torch.Tensor
    count: int = 0


class GivesBoxes(nn.Module):
    def forward(self, x: torch.Tensor) -> Boxes:
        return Boxes(x * 2, x.shape[0])


class TakesBoxes(nn.Module):
    def forward(self, boxes: Boxes) -> torch.Tensor:
        return boxes.corners * 3


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        return self.attention(x, x, x)[0][:, 0]


def answers(path: Path, **feeds: torch.Tensor) -> dict[str, np.ndarray]:
    with Engine(path, device="cpu") as engine:
        return engine.run({name: tensor.numpy() for name, tensor in feeds.items()})


class ScriptedPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x).relu()


def test_a_scripted_part_of_a_module(tmp_path: Path) -> None:
    module = ScriptedPart().eval()
    assert export_model(module, torch.randn(2, 4), tmp_path / "m.onnx", dynamic_shapes={"x": {0: "batch"}}).passed
    x = torch.randn(5, 4)
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", x=x)["output"], module(x).detach().numpy(), atol=1e-6)


class Chosen(nn.Module):
    def forward(self, x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.cond(up, lambda x: x + 1, lambda x: x * 2, (x,))  # type: ignore[no-any-return, no-untyped-call]


def test_both_sides_of_a_flag_are_asked(tmp_path: Path) -> None:
    assert export_model(Chosen(), (torch.randn(3), torch.tensor(True)), tmp_path / "m.onnx").passed
    for up in (True, False):
        found = answers(tmp_path / "m.onnx", x=torch.full((3,), 5.0), up=torch.tensor(up))["output"]
        assert found.tolist() == [6.0 if up else 10.0] * 3


@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(2, 4)), torch.compile])
def test_scripted_traced_and_compiled_modules(tmp_path: Path, make: Any) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    report = export_model(make(module), torch.randn(2, 4), tmp_path / "m.onnx", dynamic_shapes={"input": {0: "batch"}})
    assert report.passed
    x = torch.randn(5, 4)
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", input=x)["output"], module(x).detach(), rtol=1e-5, atol=1e-6)


def test_branches_of_a_script_are_compared_on_both_sides(tmp_path: Path) -> None:
    module = torch.jit.script(Branches().eval())
    assert export_model(module, torch.randn(2, 4), tmp_path / "m.onnx", dynamic_shapes={"x": {0: "batch"}}).passed
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        np.testing.assert_allclose(answers(tmp_path / "m.onnx", x=x)["output"], module(x).detach(), rtol=1e-5, atol=1e-6)


def test_named_tuples_take_axes_by_place(tmp_path: Path) -> None:
    example = (torch.randn(2, 4), State(torch.randn(2, 4), torch.randn(2, 4)))
    shapes = {"x": {0: "batch"}, "state": ({0: "batch"}, {0: "batch"})}
    export_model(TakesState(), example, tmp_path / "m.onnx", dynamic_shapes=shapes)
    x = torch.randn(3, 4)
    found = answers(tmp_path / "m.onnx", x=x, state_h=x, state_c=x)
    np.testing.assert_allclose(found["h"], 2 * x)
    np.testing.assert_allclose(found["c"], x * x)


def test_dataclasses_and_sizes(tmp_path: Path) -> None:
    export_model(GivesBoxes(), torch.randn(2, 4), tmp_path / "out.onnx", dynamic_shapes={"x": {0: "batch"}})
    found = answers(tmp_path / "out.onnx", x=torch.ones(7, 4))
    assert found["count"].tolist() == 7
    assert found["count"].dtype == np.int64
    np.testing.assert_array_equal(found["corners"], np.full((7, 4), 2, np.float32))
    export_model(TakesBoxes(), (Boxes(torch.randn(2, 4), 2),), tmp_path / "in.onnx")
    np.testing.assert_array_equal(answers(tmp_path / "in.onnx", boxes_corners=torch.ones(2, 4))["output"], np.full((2, 4), 3, np.float32))


def test_a_transformer_of_images_with_an_example_of_one(tmp_path: Path) -> None:
    """pytorch issues 157621, 151582 and 148886: what is traced at batch 1 stays at batch 1."""
    module = Patches().eval()
    export_model(module, torch.randn(1, 3, 8, 8), tmp_path / "m.onnx", dynamic_shapes={"image": {0: "batch"}})
    x = torch.randn(3, 3, 8, 8)
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", image=x)["output"], module(x).detach(), rtol=1e-4, atol=1e-5)
