"""Many small functions exported as one model, and the file asked beside PyTorch at other values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxferry.export import export_model
from onnxferry.runtime.engine.engine import Engine


class Functions(torch.nn.Module):
    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, *inputs: torch.Tensor) -> dict[str, Any]:
        return {name: function(*inputs) for name, function in self.functions.items()}


class Exported:
    """The file of :class:`Functions`, to be compared at any inputs of the traced dtypes."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], path: Path, report: Any) -> None:
        self.module = Functions(functions)
        self.engine = Engine(path)
        self.report = report

    def check(self, *inputs: torch.Tensor, rtol: float = 2e-6, atol: float = 0.0, but: tuple[str, ...] = ()) -> None:
        """Every output equals PyTorch's: whole numbers exactly, floats within ``rtol``."""
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(self.engine.inputs, inputs, strict=True)}
        got = self.engine.run(feeds)
        wrong = []
        for name, want in self.module(*inputs).items():
            if name in but:
                continue
            a, b = want.numpy(), got[name]
            assert a.dtype == b.dtype, name
            assert a.shape == b.shape, (name, a.shape, b.shape)
            same = np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True) if a.dtype.kind == "f" else a == b
            if not same.all():
                place = tuple(np.argwhere(~same)[0])
                wrong.append(f"{name} at {place}: file {b[place]!r}, right {a[place]!r} ({int((~same).sum())} of {a.size})")
        assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    def make(functions: Mapping[str, Callable[..., Any]], *example: torch.Tensor, **options: Any) -> Exported:
        path = tmp_path_factory.mktemp("lowering") / "functions.onnx"
        return Exported(functions, path, export_model(Functions(functions), example, path, golden=False, **options))

    return make
