"""What a refusal explains: the node where file and model part company, the user's line, the cause, the line to try; and the fixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxferry.export import ParityError, export_model
from onnxferry.export.parity.explain import explain
from onnxferry.export.parity.locate import VALUES_PER_RUN, first_difference
from onnxferry.export.parity.probes import Case
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.parity.report import Failure, ParityReport
from onnxferry.export.source import Candidate, Strategy
from onnxferry.export.sources.pytorch.module import TorchSource


class Deep(nn.Module):
    """Values in a row, more than are asked for at once. They stay small, so that rounding does not grow from one to the next."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(layer(x)) + 1
        return x


def captured(model: nn.Module, example: Tensor) -> tuple[TorchSource, Candidate]:
    source = TorchSource(model.eval(), example, dynamic_shapes={"x": {0: "batch"}})
    return source, source.strategies(18)[1].build()  # without the optimiser: every value keeps its name


@pytest.fixture(scope="module")
def deep() -> tuple[TorchSource, Candidate]:
    torch.manual_seed(0)
    return captured(Deep(50), torch.randn(2, 3))


@pytest.mark.parametrize("wrong", [0, 27, 49])
def test_the_first_of_many_nodes_is_found(deep: tuple[TorchSource, Candidate], wrong: int) -> None:
    source, candidate = deep
    assert candidate.trace is not None
    model = onnx.ModelProto()
    model.CopyFrom(candidate.model)
    sines = [node for node in model.graph.node if node.op_type == "Sin"]
    assert len(model.graph.node) > 2 * VALUES_PER_RUN
    assert first_difference(model, source.examples, candidate.trace(source.examples)) is None
    sines[wrong].op_type = "Tanh"
    found = first_difference(model, source.examples, candidate.trace(source.examples))
    assert found is not None
    assert (found.operator, found.value) == ("Tanh", sines[wrong].output[0])
    assert f"{Path(__file__).name}, line" in found.line


def explained(model: nn.Module, example: Tensor, breaks: Any, failure: str = "difference") -> dict[str, Any]:
    """The explanation for a graph that was broken on purpose."""
    source, candidate = captured(model, example)
    broken = onnx.ModelProto()
    broken.CopyFrom(candidate.model)
    breaks(broken.graph)
    report = ParityReport(failures=[Failure(failure, "words", "the example", source.output_names[0])])
    run = SourceRun(Case("the example", source.examples, {"batch": len(example)}), source.run(source.examples))
    explain(source, candidate, broken, report, [run])
    return report.located


def test_a_cause_by_its_node() -> None:
    class Resized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(x, size=(3, 3), mode="bilinear", antialias=False) * 2

    def coarser(graph: onnx.GraphProto) -> None:
        node = next(node for node in graph.node if node.op_type == "Resize")
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = b"nearest"

    located = explained(Resized(), torch.rand(2, 1, 7, 8), coarser)
    assert located["node"].startswith("Resize node")
    assert "resizing" in located["cause"]
    assert "antialias" in located["try"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_a_wrong_weight_is_found_where_it_is_used() -> None:
    def shift(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name.endswith("second.bias"))
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))

    located = explained(Twice(), torch.rand(2, 3), shift)
    assert "1 apart" in located["node"]
    assert located["try"]


def test_float16_overflow_is_named(tmp_path: Path) -> None:
    class Half(nn.Module):
        """Squares that fit while torch adds them in float32, and do not fit float16."""

        def forward(self, x: Tensor) -> Tensor:
            return (x * 200).square().mean(-1, keepdim=True) - (x * 200).square().mean(-1, keepdim=True) + x

    failure = ParityReport(failures=[Failure("not-finite", "words", "the example", "output")])
    source = TorchSource(Half().eval(), torch.ones(2, 4).half(), dynamic_shapes={"x": {0: "batch"}})
    candidate = source.strategies(18)[0].build()
    run = SourceRun(Case("the example", source.examples, {"batch": 2}), source.run(source.examples))
    explain(source, candidate, candidate.model, failure, [run])
    assert "float16 overflow" in failure.located["cause"]
    assert ".float()" in failure.located["try"]


def test_a_number_baked_in_is_named() -> None:
    """What an exporter freezes: the traced size as a constant."""

    class Reshaped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], 2, 3) * 2

    source, candidate = captured(Reshaped(), torch.rand(7, 6))
    frozen = onnx.ModelProto()
    frozen.CopyFrom(candidate.model)
    node = next(node for node in frozen.graph.node if node.op_type == "Reshape")
    frozen.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 2, 3]), "frozen"))
    node.input[1] = "frozen"
    feeds = {"x": np.ones((3, 6), np.float32)}
    run = SourceRun(Case("batch=3", feeds, {"batch": 3}), source.run(feeds))
    report = ParityReport(failures=[Failure("frozen-axis", "words", "batch=3", "output")])
    explain(source, candidate, frozen, report, [run])
    assert "a constant 7 baked into the Reshape node" in report.located["cause"]
    assert "x.shape" in report.located["try"]


class Flaky(TorchSource):
    """A source whose first ways to a graph do not work, or give something else."""

    def __init__(self, *arguments: Any, broken: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.broken = broken

    def strategies(self, opset: int) -> list[Strategy]:  # type: ignore[override]
        ways = list(super().strategies(opset))

        def wrong(way: Strategy) -> Candidate:
            candidate = way.build()
            node = next(node for node in candidate.model.graph.node if node.op_type == "Tanh")
            node.op_type = "Sin"
            return candidate

        return [Strategy(way.name, lambda way=way: wrong(way)) if i < self.broken else way for i, way in enumerate(ways)]  # type: ignore[misc]


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_another_way_to_capture_is_tried_and_judged_again(tmp_path: Path, broken: int) -> None:
    from onnxferry.export.options import ExportOptions
    from onnxferry.export.pipeline.export import export_plans
    from onnxferry.export.source import Plan

    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).eval()
    source = Flaky(model, torch.randn(2, 3), dynamic_shapes={"input": {0: "batch"}}, broken=broken)
    if broken == 3:
        with pytest.raises(ParityError) as caught:
            export_plans([Plan(source)], tmp_path / "m.onnx", ExportOptions())
        report = caught.value.report
        assert isinstance(report, ParityReport)
        assert report.strategy == "torch.export"
        assert len(report.refused) == 2
        assert report.located["cause"]
        assert list(tmp_path.iterdir()) == []
        return
    report = export_plans([Plan(source)], tmp_path / "m.onnx", ExportOptions())
    assert report.passed
    assert len(report.refused) == broken
    assert report.strategy == ["", "torch.export without the optimiser", "the older, tracing exporter"][broken]
    assert report.fixes
    assert report.fixes[0] in ("left the exporter's optimiser out", "used the older, tracing exporter")


def test_a_frozen_shape_that_is_declared_is_mended_and_told(tmp_path: Path) -> None:
    """The newer exporter declares a recurrent output at its traced length, though it computes any."""
    from onnxferry.export.graphs.cleanup import declare_output_shapes

    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "time"])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 7])],
        )
    )
    seen = [({"batch": 2, "time": 7}, {"y": (2, 7)}), ({"batch": 3, "time": 5}, {"y": (3, 5)})]
    (fixed,) = declare_output_shapes(model, seen)
    assert "frozen" in fixed
    assert [dim.dim_param for dim in model.graph.output[0].type.tensor_type.shape.dim] == ["batch", "time"]


def test_the_whole_way_says_where_and_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(ParityError) as caught:
        export_model(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3), tmp_path / "m.onnx", rtol=0.0, atol=0.0)
    text = str(caught.value)
    for words in ("ulp", "worst at", "against float64", "likely cause:", "try:"):
        assert words in text
