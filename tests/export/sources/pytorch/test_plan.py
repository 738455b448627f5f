"""Models that are wrapped, axes in every form that people write, and what is noted where axes were forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import IN_TRAINING_MODE
from onnxferry.export.sources.choose import choose
from onnxferry.export.sources.pytorch.call import CallPlan
from onnxferry.export.sources.pytorch.module import unwrapped
from onnxferry.export.sources.pytorch.plan import plans
from onnxferry.export.sources.pytorch.weights import load_weights
from onnxferry.runtime.errors import CheckpointError, InputError


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, numbers: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        return self.layer(numbers) + kind[:, None]


EXAMPLE = (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda module: torch.compile(nn.DataParallel(module)),
    ],
)
def test_wrapped_models_have_the_names_of_their_own_forward(wrap: Any, tmp_path: Path) -> None:
    wrapped = wrap(Two().eval())
    assert type(unwrapped(wrapped)) is Two
    (plan,) = plans(wrapped, EXAMPLE, ExportOptions(dynamic_shapes={"kind": {0: "batch"}}), tmp_path / "x.onnx")
    assert [spec.name for spec in plan.source.inputs] == ["numbers", "kind"]


@pytest.mark.parametrize(
    ("axes", "found"),
    [
        ({0: "batch"}, {0: "batch"}),
        (["batch", None], {0: "batch"}),
        ([0], {0: "numbers_dim0"}),
        ((0, 1), {0: "numbers_dim0", 1: "numbers_dim1"}),
        ([-1], {1: "numbers_dim1"}),
    ],
)
def test_axes_in_every_form(axes: object, found: dict[int, str]) -> None:
    assert CallPlan(Two(), EXAMPLE).flat_axes({"numbers": axes}) == [found, {}]


@pytest.mark.parametrize("axes", [0, [0, "x"], "batch"])
def test_axes_that_are_none_are_named_by_their_argument(axes: object) -> None:
    with pytest.raises(InputError, match=r"dynamic_shapes of 'numbers' must be like \{0: 'batch'\}"):
        CallPlan(Two(), EXAMPLE).flat_axes({"numbers": axes})


def test_forgotten_axes_are_noted(tmp_path: Path) -> None:
    def notes(axes: object) -> list[str]:
        (plan,) = plans(Two().eval(), EXAMPLE, ExportOptions(dynamic_shapes=axes), tmp_path / "x.onnx")
        return [note for note in plan.source.notes if "keeps the example's size" in note]

    (note,) = notes(None)
    assert "dynamic_shapes={'numbers': {0: 'batch'}}" in note
    assert '--input "numbers:float32[batch,4]"' in note
    assert notes({"numbers": {0: "batch"}, "kind": {0: "batch"}}) == []


def test_the_mode_is_noted_where_someone_has_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrapped_models.py").write_text("import torch\nmake = lambda: torch.nn.Linear(4, 3)\nstate = lambda: make().state_dict()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    inside = torch.zeros(1, 4)
    (plan,) = choose(nn.Linear(4, 3)).plans(inside, ExportOptions(), tmp_path / "x.onnx")
    assert IN_TRAINING_MODE in plan.source.notes
    (plan,) = choose("wrapped_models:make").plans(inside, ExportOptions(), tmp_path / "x.onnx")
    assert IN_TRAINING_MODE not in plan.source.notes
    with pytest.raises(InputError, match=r"gave collections.OrderedDict, .* with --weights FILE"):
        choose("wrapped_models:state")


def test_weights_of_wrapped_models_and_how_many_do_not_fit(tmp_path: Path) -> None:
    model, path = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), tmp_path / "w.pt"
    for compiled in ("{}", "module.{}", "_orig_mod.{}", "module._orig_mod.{}"):
        torch.save({compiled.format(name): tensor for name, tensor in model.state_dict().items()}, path)
        load_weights(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), path)
    torch.save({name.replace("1.", "1._orig_mod."): tensor for name, tensor in model.state_dict().items()}, path)  # a part of it
    load_weights(model, path)
    torch.save({"other.weight": torch.zeros(1), "0.weight": model[0].weight}, path)
    with pytest.raises(CheckpointError, match=r"which has 4 tensors: 3 missing \(first '0.bias'\), 1 unexpected \('other.weight'\)"):
        load_weights(model, path)
