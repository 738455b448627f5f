"""Value probes beside files that are wrong for some values only, and beside right ones that round otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from onnxferry.export import export_model
from onnxferry.export.graphs.roles import Role, roles
from onnxferry.export.parity.probes import given_case
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.special.check import check_values
from onnxferry.export.parity.special.patterns import nonfinite_probes, value_probes
from onnxferry.export.parity.special.sizes import size_factors, size_probes
from onnxferry.export.source import Feeds, InputSpec
from onnxferry.export.sources.pytorch.module import TorchSource
from tests.export.functions import Function

EMPTY = helper.make_model(helper.make_graph([], "empty", [], []))


class File:
    """What runs the file: numpy in its place."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function = function

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return {"output": self.function(feeds["x"])}


def checked(model: Callable[[Tensor], Tensor], file: Callable[[np.ndarray], Any], x: Tensor | None = None, **options: bool) -> ParityReport:
    example = torch.rand(3, 4) if x is None else x
    source = TorchSource(Function(model), example, dynamic_shapes={"x": {0: "batch"}})
    report = ParityReport()
    check_values(source, File(file), EMPTY, report, [SourceRun(given_case("the example", source.examples, source.inputs), None)], **options)
    return report


WHOLE = torch.arange(12).reshape(3, 4)
WRONG: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[np.ndarray], Any], Tensor | None]] = {
    "log1p without its small numbers": (torch.log1p, lambda x: np.log(np.float32(1) + x), None),
    "a log sigmoid that underflows": (nn.functional.logsigmoid, lambda x: np.log(1 / (1 + np.exp(-x))), None),
    "a remainder by division": (lambda x: x % 0.1, lambda x: x - np.floor(x / np.float32(0.1)) * np.float32(0.1), None),
    "half up": (torch.round, lambda x: np.floor(x + np.float32(0.5)), None),
    "the last of equals": (lambda x: x.argmax(-1), lambda x: x.shape[1] - 1 - x[:, ::-1].argmax(-1), None),
    "through float32": (lambda x: x + 1, lambda x: (x.astype(np.float32) + 1).astype(np.int64), WHOLE),
    "toward zero": (lambda x: x // 60, lambda x: np.trunc(x / 60).astype(np.int64), WHOLE),
    "32 bits of 64": (lambda x: x.clamp(0, 10), lambda x: np.clip(x.astype(np.int32), 0, 10).astype(np.int64), WHOLE),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_of_the_examples_range_hide_it(name: str) -> None:
    model, file, x = WRONG[name]
    report = checked(model, file, x)
    assert not report.passed
    assert "in the model" in report.failures[0].message


def test_an_infinity_of_the_file_alone_is_no_loss_of_a_kernel() -> None:
    """A sigmoid may be off by 2e-8, but its logarithm may not be infinite for that."""

    def cut(x: np.ndarray) -> np.ndarray:
        small = 1 / (1 + np.exp(-x.astype(np.float64)))
        return np.log(np.where(small < 1e-7, 0.0, small)).astype(np.float32)

    report = checked(lambda x: x.sigmoid().log(), cut)
    assert [failure.kind for failure in report.failures][:1] == ["not-finite"]


def test_a_made_up_input_without_an_answer_is_left_out(tmp_path: Path) -> None:
    """log(1 + x) / x of zeros is NaN alone; the example has one, too."""
    example = torch.tensor([[-2.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    report = export_model(Function(lambda x: torch.log1p(x) / x), example, tmp_path / "m.onnx")
    assert {case.name: case.why_dropped for case in report.cases}["zeros"] == "the model's own answer is NaN alone"


def test_the_tanh_inside_of_a_recurrent_operator_loses_tiny_numbers(tmp_path: Path) -> None:
    """Without biases nothing else is in the answer: it is right within the error of the kernel."""
    layer = nn.RNN(3, 4, batch_first=True, bias=False)
    assert export_model(layer, torch.randn(2, 5, 3), tmp_path / "m.onnx", dynamic_shapes={"input": {0: "batch"}}).passed


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_where_bags_begin_is_made_up_as_such(tmp_path: Path, mode: str) -> None:
    """PyTorch reads beyond its memory where they fall, or refuses them: nothing could be compared."""
    ids, begins = torch.tensor([1, 2, 4, 5, 4, 3]), torch.tensor([0, 2, 4])
    axes = {"input": {0: "ids"}, "offsets": {0: "bags"}}
    report = export_model(nn.EmbeddingBag(7, 3, mode=mode), (ids, begins), tmp_path / "m.onnx", dynamic_shapes=axes)
    sizes = {(case.shapes["input"], case.shapes["offsets"]) for case in report.compared}
    assert len({bags for _, bags in sizes}) > 2


RIGHT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[np.ndarray], Any]]] = {
    "a sum in another order": (lambda x: x.sum(-1), lambda x: x[:, ::-1].astype(np.float64).sum(-1).astype(np.float32)),
    "a mean taken off": (
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: (x - x.astype(np.float64).mean(-1, keepdims=True)).astype(np.float32),
    ),
    "a floor of a sum": (lambda x: x.sum(-1).floor(), lambda x: np.floor(x.astype(np.float64).sum(-1)).astype(np.float32)),
    "a softmax": (
        lambda x: x.softmax(-1),
        lambda x: (np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)).astype(np.float32),
    ),
    "a sigmoid held above 1e-7": (torch.sigmoid, lambda x: np.maximum(1 / (1 + np.exp(-x)), np.float32(1.2e-7))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_rounding_is_no_fault(name: str) -> None:
    report = checked(*RIGHT[name])
    assert report.passed, report.failures
    assert len(report.compared) > 10


def test_a_failing_probe_is_as_small_as_can_be() -> None:
    report = checked(torch.log1p, lambda x: np.log(np.float32(1) + x), torch.rand(8, 4))
    words = report.failures[0].message
    assert "x = [[" in words, words
    shown = np.array(eval(words.split("x = ")[1].split(" (probe")[0]))  # noqa: S307 - our own message
    assert shown.shape[0] == 1
    assert np.count_nonzero(shown) == 1


def test_infinities_and_nan_are_noted_and_refused_only_on_request() -> None:
    def ignoring(x: np.ndarray) -> np.ndarray:
        return np.fmax.reduce(x, -1)

    noted = checked(lambda x: x.amax(-1), ignoring)
    assert noted.passed
    assert noted.nonfinite["output"].startswith("differs: NaN in x")
    assert any("NaN or infinity" in note for note in noted.notes)
    assert noted.summary()["nonfinite"] == {"output": "differs"}
    strict = checked(lambda x: x.amax(-1), ignoring, strict_nonfinite=True)
    assert [failure.kind for failure in strict.failures] == ["nonfinite"]
    assert checked(lambda x: x.amax(-1), lambda x: x.max(-1)).nonfinite == {"output": "same"}


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "graph", [x], [], initializers))


def test_roles_of_an_input() -> None:
    table = {"table": np.zeros((50, 8), np.float32)}
    behind = [helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64), helper.make_node("Gather", ["table", "ids"], ["rows"])]
    assert roles(model_of(behind, table)) == {"x": Role(rows=50)}
    assert roles(model_of([helper.make_node("ConstantOfShape", ["x"], ["zeros"])], {})) == {"x": Role(sizes=True)}
    assert roles(model_of([helper.make_node("Shape", ["x"], ["n"]), helper.make_node("ConstantOfShape", ["n"], ["z"])], {})) == {
        "x": Role()
    }


def test_sizes_where_float32_and_double_disagree_are_searched_for() -> None:
    resized = model_of([helper.make_node("Resize", ["x", "", "scales"], ["y"])], {"scales": np.array([0.7], np.float32)})
    assert size_factors(resized) == [0.7]
    spec = InputSpec("x", "float32", ("n",), (8,))
    sizes = [case.sizes["n"] for case in size_probes(resized, [spec], {"x": np.zeros(8, np.float32)})]
    assert any(int(n * 0.7) != int(np.float32(n) * np.float32(0.7)) for n in sizes)
    assert not list(size_probes(EMPTY, [spec], {"x": np.zeros(8, np.float32)}))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_every_pattern_fits_every_shape(dtype: str, shape: tuple[int, ...]) -> None:
    """A number without axes is an input too."""
    example = np.zeros(shape, dtype)
    spec = InputSpec("x", dtype, shape, shape)
    for case in value_probes([spec], {"x": example}, {}, [{}]):
        assert (case.feeds["x"].shape, case.feeds["x"].dtype) == (shape, np.dtype(dtype)), case.name
    for case in nonfinite_probes([spec], {"x": example}, {}):
        assert case.feeds["x"].shape == shape, case.name
