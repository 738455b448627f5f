"""Copies of files whose weights several processes share: the same model, the same results, and only for the file that they were made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine import open as opening
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.tuning.inputs import make_feeds


@pytest.fixture(autouse=True)
def no_copies() -> Iterator[None]:
    yield
    opening.copies.clear()


@pytest.mark.parametrize("name", ["digits", "shakespeare", "digits-gan"])
def test_a_copy_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = describe(find_model(name))
    with Engine(model, device="cpu", threads=1) as plain:
        feeds = make_feeds(plain.contract, plain.inputs, 2, 1)[0]
        wanted = plain.run(feeds)
        described = plain.inputs, plain.optional_inputs, plain.outputs, plain.contract
    opening.copies[opening.identity_of(model)] = opening.write_copy(model, tmp_path)  # type: ignore[index]
    assert (tmp_path / "model.onnx.data").stat().st_size > sum(each.nbytes for each in model.summary.initializers) / 2
    with Engine(model, device="cpu", threads=1) as copied:
        assert (copied.inputs, copied.optional_inputs, copied.outputs, copied.contract) == described
        for key, array in copied.run(feeds).items():
            np.testing.assert_array_equal(array, wanted[key])


def test_a_copy_is_used_and_only_for_the_file_as_it_was(scale_model: bytes, build_onnx, tmp_path: Path) -> None:
    from onnx import helper

    path = tmp_path / "m.onnx"
    path.write_bytes(scale_model)
    other = tmp_path / "other.onnx"
    node = helper.make_node("Neg", ["x"], ["y"])
    other.write_bytes(build_onnx([node], [("x", 1, ["n", 3])], [("y", 1, ["n", 3])]).SerializeToString())
    x = {"x": np.ones((1, 3), np.float32)}
    opening.copies[opening.identity_of(describe(path))] = str(other)  # type: ignore[index]
    with Engine(path, device="cpu") as engine:
        assert engine.run(x, ["y"])["y"].sum() == -3
    with Engine(path, device="cpu", graph_level="basic") as engine:  # asked for in a way that a copy is not
        assert engine.run(x, ["y"])["y"].sum() == 6
    path.write_bytes(scale_model + b"")
    with Engine(path, device="cpu") as engine:
        assert engine.run(x, ["y"])["y"].sum() == 6
