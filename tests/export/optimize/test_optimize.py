"""Budgets in words, 8 bits that are counted, verdicts with reasons, and nothing written that did not win."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.optimize import backends as backends_module
from onnxferry.export.optimize import optimize as module
from onnxferry.export.optimize import resources
from onnxferry.export.optimize.budget import parse_budget
from onnxferry.export.optimize.candidates import slimmed
from onnxferry.export.optimize.optimize import optimize
from onnxferry.export.optimize.resources import Allowance, Making, bytes_of
from onnxferry.export.optimize.rewrites.quantize import count_int8, dynamic_lstm, float16_storage, static_int8
from onnxferry.export.optimize.samples import Samples
from onnxferry.export.optimize.score import Score, needed_budget, score
from onnxferry.export.optimize.timing import FEEDS, Speed, feeds_for, timing_seconds
from onnxferry.export.optimize.verdict import Verdict, better
from onnxferry.runtime import load
from onnxferry.runtime.artifact.comparison import rms_share
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.variants import certified_variants
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.backends.choose import version_of
from onnxferry.runtime.engine.backends.openvino import OpenVINOEngine
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ArtifactError, DataError, ExportError, InputError
from onnxferry.runtime.tuning.plan import Setting
from onnxferry.runtime.tuning.tune import tune

RNG = np.random.default_rng(0)


def small_network() -> onnx.ModelProto:
    """Two convolutions of x float32 (batch, 3, 8, 8) → y (batch, 4, 8, 8)."""
    weights = {
        "w": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "v": RNG.standard_normal((4, 8, 3, 3)).astype(np.float32) / 8,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4, name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], pads=[1] * 4, name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(small_network(), path)
    np.savez(tmp_path / "data.npz", x=RNG.standard_normal((24, 3, 8, 8)).astype(np.float32))
    return path


@pytest.fixture
def twice_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decided must not hang on how busy the machine is."""
    monkeypatch.setattr(module, "compare_speed", lambda *a, **k: Speed(2.0, 0.01, 2e-3, 1e-3))


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("top1 -0.1pt", "top1", 0.1),
        ("map -0.5pt", "map", 0.5),
        ("psnr 40", "psnr", 40.0),
        ("PSNR 40 dB", "psnr", 40.0),
        ("nats +0.005", "nats", 0.005),
        ("rtol 1e-3", "rtol", 1e-3),
    ],
)
def test_budgets_are_read(text: str, metric: str, limit: float) -> None:
    budget = parse_budget(text)
    assert (budget.metric, budget.limit) == (metric, limit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "top1",
        "top1 +1",
        "top1 -101",
        "psnr -3",
        "psnr 40 pt",
        "nats -1",
        "rtol 2",
        "rtol nan",
        "psnr 40 atol 1",
        "no.such.module:f",
    ],
)
def test_budgets_that_make_no_sense_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_budget(text)
    assert "budget" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_eight_bit_convolutions_are_counted_and_near() -> None:
    model = small_network()
    feeds = {"x": RNG.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    whole, part = static_int8(model, feeds), static_int8(model, feeds, skip=["first"])
    assert (count_int8(whole), count_int8(part)) == (2, 1)
    with Engine(model.SerializeToString(), device="cpu") as a, Engine(whole.SerializeToString(), device="cpu") as b:
        expected, actual = a.run(feeds)["y"], b.run(feeds)["y"]
    assert 0 < np.abs(expected - actual).max() < 0.05 * np.abs(expected).max()


def test_no_sum_of_two_products_leaves_16_bits() -> None:
    """On x86-64 without VNNI two products are added in 16 bits: bright images under large weights of one sign are the worst case."""
    model = small_network()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, 0.1) + 0.001 * np.abs(array), tensor.name))
    feeds = {"x": (1 - 0.01 * RNG.random((32, 3, 8, 8))).astype(np.float32)}
    eight = static_int8(model, feeds)
    weights = [numpy_helper.to_array(t) for t in eight.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert [int(np.abs(array.astype(int)).max()) for array in weights] == [64, 64]
    with Engine(model.SerializeToString(), device="cpu") as a, Engine(eight.SerializeToString(), device="cpu") as b:
        expected, actual = a.run(feeds)["y"], b.run(feeds)["y"]
    assert np.abs(expected - actual).max() < 0.02 * np.abs(expected).max()


def test_what_holds_nothing_to_quantise_is_refused(scale_model: bytes) -> None:
    model = onnx.ModelProto.FromString(scale_model)
    with pytest.raises(ExportError, match="no convolution"):
        static_int8(model, {"x": np.zeros((4, 3), np.float32)})
    with pytest.raises(ExportError, match="no LSTM"):
        dynamic_lstm(model)
    with pytest.raises(ExportError, match="float16"):
        float16_storage(model)


def test_a_kept_variant_carries_its_certificate(network: Path, twice_as_fast: None) -> None:
    result = optimize(network, data=network.with_name("data.npz"), budget="psnr 20", batches=(1, 2), seconds=0.01)
    kept = [verdict for verdict in result.verdicts if verdict.kept]
    assert [verdict.file for verdict in kept] == [path.name for path in result.files]
    eight = network.with_name("net.int8.onnx")
    assert eight in result.files, "of all rungs, one is written, under the tag's name"
    with Engine(eight, device="cpu") as engine:
        assert engine.contract is not None
        certificate = engine.contract.certificate
    assert certificate["budget"] == "psnr 20"
    assert certificate["rung"] == next(verdict.rung for verdict in kept if verdict.tag == "int8")
    assert certificate["speed"] == {"1": 2.0, "2": 2.0}
    assert len(certificate["of"]) == 64
    assert certificate["score"]["metric"] == "psnr"
    assert 0 < certificate["rms"]["y"] < 0.1
    with pytest.raises(InputError, match="variant itself"):
        optimize(eight, data=network.with_name("data.npz"))


def test_onnxslim_keeps_an_input_that_has_a_default() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Mul", ["same", "scale"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ["n"]), ("scale", []), ("y", ["n"]))]
    default = numpy_helper.from_array(np.array(2, np.float32), "scale")
    graph = helper.make_graph(nodes, "g", values[:2], values[2:], [default])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = slimmed(model)
    assert made is not None
    assert len(made.graph.node) == 1
    assert [value.name for value in made.graph.input] == ["x", "scale"]
    assert [tensor.name for tensor in made.graph.initializer] == ["scale"]


@pytest.mark.skipif(not version_of("openvino"), reason="OpenVINO is not installed")
def test_eight_bits_are_certified_for_openvino_too(network: Path, twice_as_fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the same budget, for the installed version and this CPU alone; what is outside of it there is not said to be inside."""
    monkeypatch.setattr(backends_module, "compare_speed", lambda *a, **k: Speed(3.0, 0.01, 3e-3, 1e-3))
    data, eight = network.with_name("data.npz"), network.with_name("net.int8.onnx")
    optimize(network, data=data, budget="psnr 20", batches=(1,), seconds=0.01)
    (variant,) = [each for each in certified_variants(network) if each.tag == "int8"]
    assert list(variant.backends) == ["onnxruntime", "openvino"]
    entry = variant.backends["openvino"]
    assert (entry["version"], entry["precision"]) == (version_of("openvino"), "float32")
    assert entry["cpu_features"] == backends_module.features_here("float32")
    assert entry["speed"] == {"1": 3.0}
    assert entry["score"]["metric"] == "psnr"
    assert entry["score"]["variant"] >= 20
    assert 0 < entry["rms"]["y"] < 0.1
    with load(network, variant="int8", backend="openvino", threads=1) as model, Engine(network, device="cpu") as original:
        x = np.load(data)["x"][:5]
        assert model.engine.providers == ("OpenVINO",)
        assert rms_share([original.run({"x": x})["y"]], [model.run({"x": x})["y"]]) < 0.1
    assert ("int8", "openvino") in {(setting.variant, setting.backend) for setting in tried_settings(network)}
    monkeypatch.setattr(backends_module, "score", lambda *a: Score("psnr", None, 3.0, 8, False, ""))
    optimize(network, data=data, budget="psnr 20", batches=(1,), seconds=0.01)
    contract = describe(eight).contract
    assert contract is not None
    assert "backends" not in contract.certificate


def tried_settings(path: Path) -> list[Setting]:
    plan = tune(path, [1], threads=1, seconds=5, remember=False).plans[1]
    return [trial.setting for trial in plan.trials]


@pytest.mark.skipif(not backends_module.bfloat16_pays(), reason="this CPU does not multiply in bfloat16, or OpenVINO is not installed")
def test_bfloat16_is_certified_for_openvino_alone(network: Path, twice_as_fast: None) -> None:
    optimize(network, data=network.with_name("data.npz"), budget="psnr 20", batches=(1,), seconds=0.01)
    (variant,) = [each for each in certified_variants(network) if each.tag == "bf16"]
    assert list(variant.backends) == ["openvino"]
    assert variant.backends["openvino"]["precision"] == "bfloat16"
    with load(network, variant="bf16", threads=1) as model:
        assert isinstance(model.engine, OpenVINOEngine)
        assert model.engine.precision == "bfloat16"
        assert replay(model.engine).passed or not model.engine.contract.goldens
    with pytest.raises(ArtifactError, match="certified for openvino alone, not for onnxruntime"):
        load(network, variant="bf16", backend="onnxruntime")
    with load(network, backend="openvino", threads=1) as model:
        assert model.engine.precision == "float32"


def test_the_folder_is_made_and_where_it_cannot_be_it_is_said(network: Path, twice_as_fast: None) -> None:
    far = network.parent / "made" / "for it"
    result = optimize(network, data=network.with_name("data.npz"), budget="psnr 20", batches=(1,), seconds=0.01, folder=far)
    assert result.files
    assert all(file.parent == far and file.is_file() for file in result.files)
    with pytest.raises(InputError, match="cannot make the folder"):
        optimize(network, data=network.with_name("data.npz"), folder=network / "inside a file")


@pytest.mark.parametrize(
    ("score", "budget"),
    [
        (Score("rtol", None, 0.0059, 8, False, ""), "rtol 0.006"),
        (Score("top1", 99.0, 98.456, 8, False, ""), "top1 -0.55pt"),
        (Score("agreement", 100.0, 97.0, 8, False, ""), "top1 -3pt"),
        (Score("psnr", None, 38.7, 8, False, ""), "psnr 38"),
        (Score("nats", 1.5, 1.5123, 8, False, ""), "nats +0.013"),
        (Score("rtol", None, float("nan"), 8, False, ""), ""),
        (Score("rtol", None, 7.0, 8, False, ""), ""),
        (Score("function", None, 0.0, 8, False, ""), ""),
    ],
)
def test_the_budget_that_a_score_needs(score: Score, budget: str) -> None:
    needed = needed_budget(score)[0]
    assert needed == budget
    if needed:
        limit = parse_budget(needed)
        assert limit.metric == score.metric.replace("agreement", "top1")


def test_what_is_tried_and_what_it_would_need_is_shown(
    network: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compare_speed", lambda *a, **k: Speed(1.0, 0.01, 1e-3, 1e-3))  # none of the exact ones is kept by chance
    data = str(network.with_name("data.npz"))
    assert main(["optimize", str(network), "--data", data, "--budget", "rtol 1e-6", "--batch", "1", "--seconds", "0.01"]) == 0
    out, err = capsys.readouterr()
    assert "int8 (between): outside the budget" in err  # line by line, also where stderr is no terminal
    assert "× batch 1" in out
    last = out.strip().splitlines()[-1]
    assert re.fullmatch(r'nothing was kept; (int8 \(\w+\)|bf16) needs --budget "rtol 0\.\d+"', last), last
    assert list(network.parent.glob("net.*.onnx")) == []


def test_outside_the_budget_nothing_is_written(network: Path, twice_as_fast: None) -> None:
    result = optimize(network, data=network.with_name("data.npz"), budget="rtol 1e-6", batches=(1,), seconds=0.01)
    outside = {v.rung for v in result.verdicts if v.tag == "int8" and v.words.startswith("outside the budget")}
    assert {"between", "conv"} <= outside
    assert not list(network.parent.glob("*int8*")), "what only fuses may be kept, nothing in 8 bits"
    json.dumps(result.to_json(), allow_nan=False)


def test_what_is_not_faster_is_not_kept(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compare_speed", lambda *a, **k: Speed(1.05, 0.1, 1e-3, 1e-3))
    result = optimize(network, data=network.with_name("data.npz"), budget="psnr 20", batches=(1,), seconds=0.01)
    assert not result.files
    assert any("not faster" in verdict.words for verdict in result.verdicts)


def test_a_function_decides(network: Path, twice_as_fast: None) -> None:
    assert not optimize(network, data=network.with_name("data.npz"), budget=lambda a, b: False, batches=(1,), seconds=0.01).files


def test_an_interrupt_leaves_no_file(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Speed:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "compare_speed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimize(network, data=network.with_name("data.npz"), budget="psnr 20", batches=(1,), seconds=0.01)
    assert sorted(path.name for path in network.parent.iterdir()) == ["data.npz", "net.onnx"]


def test_labels_count_and_without_them_agreement() -> None:
    answers = {"class_index": np.array([0, 1, 2, 3])}
    other = {"class_index": np.array([0, 1, 2, 0])}
    assert not score(parse_budget("top1 -0.1pt"), answers, other, None).inside
    assert score(parse_budget("top1 -25pt"), answers, other, np.array([0, 1, 2, 3])).inside
    assert score(parse_budget("top1 0"), answers, other, np.array([0, 1, 2, 0])).variant == 100.0


def test_bad_input_is_one_clear_line(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(network.with_name("wrong.npz"), x=np.zeros((4, 3, 9, 8), np.float32))
    for arguments in (
        [str(network)],
        [str(network), "--data", str(network.with_name("missing.npz"))],
        [str(network), "--data", str(network.with_name("wrong.npz"))],
        [str(network), "--data", str(network.with_name("data.npz")), "--budget", "nats +0.005"],
        [str(network), "--data", str(network.with_name("data.npz")), "--goal", "prettier"],
        [str(network.with_name("none.onnx"))],
    ):
        assert main(["optimize", *arguments]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert [line.partition(" ")[0] for line in lines] == ["error:", "help:"]


@pytest.mark.parametrize(
    ("plot", "words"), [("speeds.txt", "--plot writes .png or .svg, got 'speeds.txt'"), ("none/speeds.png", "none does not exist")]
)
def test_a_chart_that_cannot_be_written_is_refused_before_the_work(
    network: Path, plot: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", str(network), "--plot", plot]) == 1
    assert words in capsys.readouterr().err


def test_calibration_of_another_shape_is_told(network: Path) -> None:
    np.savez(network.with_name("wrong.npz"), x=np.zeros((4, 3, 9, 8), np.float32))
    with pytest.raises(DataError, match="size 9 on axis 2"):
        optimize(network, data=network.with_name("data.npz"), calibration=network.with_name("wrong.npz"))


def test_a_certificate_survives_its_file() -> None:
    contract = Contract(kind="model", name="net", certificate={"variant": "int8", "rows_alone": True})
    assert dataclasses.replace(contract).certificate["rows_alone"] is True


def test_a_score_that_is_no_number_is_null_in_the_report(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "score", lambda *a: Score("psnr", None, float("nan"), 24, False, "not finite"))
    report = network.with_name("report.json")
    arguments = ["--data", str(network.with_name("data.npz")), "--budget", "psnr 20", "--batch", "1", "--seconds", "0.01"]
    assert main(["optimize", str(network), *arguments, "--report", str(report), "--plot", str(network.with_name("speeds.svg"))]) == 0
    assert "<svg" in network.with_name("speeds.svg").read_text()
    verdicts = json.loads(report.read_text())["verdicts"]
    assert [v["score"]["variant"] for v in verdicts if v["tag"] == "int8"] == [None] * 4


def kept(name: str, ratio: float, noise: float, size: int = 100) -> Verdict:
    tag, _, rung = name.partition("/")
    return Verdict(tag, "", True, "", bytes=size, speed={1: Speed(ratio, noise, 2e-3, 2e-3 / ratio)}, rung=rung)


def test_somebody_is_never_beaten() -> None:
    """int8/conv is surer than int8/all, which is faster than exact, which is faster than int8/conv."""
    alive = [kept("int8/conv", 1.40, 0.01), kept("int8/all", 1.50, 0.10), kept("exact", 1.45, 0.01)]
    assert [v.name for v in alive if better(v, alive, "faster") is None] == ["exact"]
    alive = [kept("int8/conv", 1.60, 0.01, 60), kept("int8/all", 1.50, 0.01, 50), kept("exact", 1.45, 0.01, 50)]
    assert [v.name for v in alive if better(v, alive, "faster") is None] == ["int8 (conv)"]
    assert [v.name for v in alive if better(v, alive, "smaller") is None] == ["exact"]


def test_the_weights_beside_a_file_count(network: Path) -> None:
    whole = network.stat().st_size
    onnx.save(onnx.load(network), network.with_name("apart.onnx"), save_as_external_data=True, location="apart.data", size_threshold=0)
    apart, data = network.with_name("apart.onnx").stat().st_size, network.with_name("apart.data").stat().st_size
    assert bytes_of(network) == whole
    assert bytes_of(network.with_name("apart.onnx")) == apart + data > whole


def test_what_does_not_fit_into_the_time_is_skipped_with_a_line(network: Path) -> None:
    said: list[str] = []
    found = optimize(network, data=network.with_name("data.npz"), budget="psnr 20", seconds=0.01, within=1e-9, say=said.append)
    assert found.verdicts
    assert all(re.fullmatch(r"skipped: it needs about \d+ s, and 0 of 0 s are left", verdict.words) for verdict in found.verdicts)
    assert re.fullmatch(r"\d+ candidates, each about \d+ s; about [\d.]+ [kMG]B of memory in all, and 0 s at most", said[-1])


def test_what_does_not_fit_into_memory_is_skipped_with_a_line(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "shortage", lambda needed: "it needs about 9.0 GB of memory, and 1.0 GB are free")
    found = optimize(network, data=network.with_name("data.npz"), budget="psnr 20", seconds=0.01)
    assert {verdict.words for verdict in found.verdicts} == {"skipped: it needs about 9.0 GB of memory, and 1.0 GB are free"}


def test_of_many_samples_some_are_scored_where_time_is_short(network: Path) -> None:
    samples = Samples({"x": RNG.standard_normal((300, 3, 8, 8)).astype(np.float32)}, "made")
    said: list[str] = []
    with Engine(network, device="cpu") as engine:
        some, expected = Allowance(1e-6, 0, said.append).measure(engine, samples, {1: {"x": samples.feeds["x"][:1]}})
        every, _ = Allowance(600, 0, said.append).measure(engine, samples, {})
    assert (len(some), len(expected["y"]), len(every)) == (64, 64, 300)
    (line,) = said
    assert re.fullmatch(r"scored on 64 of 300 samples: all would take \d+ s a candidate", line)


def test_a_large_candidate_is_opened_from_a_file(network: Path, monkeypatch: pytest.MonkeyPatch, twice_as_fast: None) -> None:
    settings: dict = {"data": network.with_name("data.npz"), "budget": "psnr 20", "seconds": 0.01, "batches": (1,)}
    small = optimize(network, folder=network.parent / "small", **settings)
    monkeypatch.setattr(resources, "FILE_FROM", 0)
    large = optimize(network, folder=network.parent / "large", **settings)
    assert [(v.tag, v.rung, v.kept, v.score) for v in large.verdicts] == [(v.tag, v.rung, v.kept, v.score) for v in small.verdicts]
    assert [path.name for path in large.files] == [path.name for path in small.files] != []


def test_slow_models_are_timed_on_fewer_inputs_in_fewer_rounds() -> None:
    assert [feeds_for(run) for run in (1e-4, 0.1, 10.0)] == [FEEDS, 5, 2]
    assert timing_seconds(1e-4, 1.0) == pytest.approx(1.2)
    assert timing_seconds(10.0, 1.0) == pytest.approx(220)


def test_a_single_number_among_the_inputs_goes_with_every_row(tmp_path: Path, build_onnx: Callable, twice_as_fast: None) -> None:
    float32 = onnx.TensorProto.FLOAT
    weights = numpy_helper.from_array(RNG.standard_normal((8, 8)).astype(np.float32), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["m"]), onnx.helper.make_node("Mul", ["m", "scale"], ["y"])]
    model = build_onnx(nodes, [("x", float32, ["batch", 8]), ("scale", float32, [])], [("y", float32, ["batch", 8])], [weights])
    onnx.save(model, tmp_path / "scaled.onnx")
    np.savez(tmp_path / "data.npz", x=RNG.standard_normal((12, 8)).astype(np.float32), scale=np.float32(2))
    result = optimize(tmp_path / "scaled.onnx", data=tmp_path / "data.npz", budget="psnr 20", batches=(1, 4), seconds=0.01)
    assert all("could not be made" not in verdict.words for verdict in result.verdicts)


def test_what_gives_no_tensors_is_refused_in_one_line(tmp_path: Path, build_onnx: Callable) -> None:
    nodes = [onnx.helper.make_node("SequenceConstruct", ["x"], ["s"])]
    model = build_onnx(nodes, [("x", onnx.TensorProto.FLOAT, ["batch", 8])], [])
    model.graph.output.append(onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "list.onnx")
    with pytest.raises(InputError, match="only tensors of numbers can be scored"):
        optimize(tmp_path / "list.onnx")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00\x08\x00((((((((", b"one array"])
def test_files_that_hold_no_arrays_are_told_in_one_line(network: Path, content: bytes) -> None:
    broken = network.with_name("broken.npz")
    broken.write_bytes(content)
    if content == b"one array":
        with broken.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="cannot be read as an"):
        optimize(network, data=broken)


def test_what_making_a_candidate_takes_counts_beside_running_it() -> None:
    allowance = Allowance(600, 10_000_000, print)
    allowance.running = 100_000_000
    plain = allowance.candidate_bytes()
    assert plain == 20_000_000 + 22_000_000 + 170_000_000
    assert allowance.candidate_bytes(Making(kept=5, meanwhile=1)) == plain + 5
    assert allowance.candidate_bytes(Making(kept=5, meanwhile=192_000_007)) == plain + 5 + 7
