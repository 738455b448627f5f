"""``onnxferry bench``: real processes on a tiny model, answers that are judged before anything is timed, results that are kept."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from onnxferry.export.bench import race as reference_bench
from onnxferry.export.bench import workloads as bench_jobs
from onnxferry.export.bench.contenders.base import CONTENDERS, PEERS, ContenderSpec, fastest
from onnxferry.export.bench.correctness import compare_answers
from onnxferry.export.bench.race import Bench, row_seconds
from onnxferry.export.bench.report import Results, duration, geometric_mean, geometric_means, load_results, machine, save_plot, wanted_rows
from onnxferry.export.bench.results import Measured, Row
from onnxferry.export.bench.worker import Turn, WorkerError
from onnxferry.export.bench.workloads import FEEDS, BenchModel, bench_model, make_job
from onnxferry.export.cli import bench as bench_command
from onnxferry.runtime.artifact.contract import Contract, Golden, Tolerance
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.ort import ONE_NODE_MODEL
from onnxferry.runtime.errors import ArtifactError, CheckFailedError, InputError


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONNXFERRY_HOME", str(tmp_path / "home"))


@pytest.fixture
def tiny(tmp_path: Path, scale_model: bytes) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(scale_model)
    return path


class Stub:
    """A worker that answers as it is told to, in this process."""

    answer: dict[str, Callable[[np.ndarray], np.ndarray]] = {}  # noqa: RUF012
    precision: dict[str, str] = {}  # noqa: RUF012
    turns: list[str] = []  # noqa: RUF012
    milliseconds: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, spec: ContenderSpec, model: BenchModel, threads: int | None, log: Path) -> None:
        self.name = next(name for name, other in CONTENDERS.items() if other is spec)

    def open(self) -> None:
        if self.name == "openvino":
            raise WorkerError("it cannot read this")

    def prepare(self, feeds: list[dict[str, np.ndarray]]) -> dict[str, str]:
        self.feeds = feeds
        return {"precision": self.precision.get(self.name, "float32"), "how": "as told"}

    def answers(self) -> list[dict[str, np.ndarray]]:
        return [{"y": self.answer.get(self.name, lambda y: y)(feed["x"] * np.float32(2))} for feed in self.feeds]

    def turn(self, seconds: float) -> Turn:
        self.turns.append(self.name)
        return Turn((self.milliseconds[self.name] / 1e3,) * 3, 0.0)

    def close(self) -> None: ...


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    names = ("onnxferry", "onnxruntime", "torch")
    monkeypatch.setattr(reference_bench, "Worker", Stub)
    for name, value in (("answer", {}), ("precision", {}), ("turns", []), ("milliseconds", dict(zip(names, (2, 4, 3), strict=True)))):
        monkeypatch.setattr(Stub, name, value)
    return Stub


def test_two_contenders_in_processes_of_their_own(tiny: Path) -> None:
    (row,) = Bench(rounds=2, turn_s=0.001).rows(bench_model(str(tiny)), [3], "1", ["onnxferry", "onnxruntime"])
    assert (row.model, row.batch, row.threads, row.feeds) == ("tiny", 3, "1", FEEDS)
    assert {name: (m.status, m.precision, len(m.round_medians_s)) for name, m in row.contenders.items()} == {
        "onnxferry": ("timed", "float32", 2),
        "onnxruntime": ("timed", "float32", 2),
    }
    assert all(m.runs >= 2 and m.p10_s is not None and m.p90_s is not None and m.p10_s <= m.p90_s for m in row.contenders.values())
    assert row.best_peer == "onnxruntime"
    assert "load(tune=True)" in row.contenders["onnxferry"].how
    assert row.ratio is not None
    assert row.ratio > 0


def test_a_contender_that_cannot_be_opened_is_a_row_and_not_the_end(tiny: Path) -> None:
    table = {**CONTENDERS, "missing": ContenderSpec("no_such_module:Contender", "onnxruntime", "cannot be imported")}
    (row,) = Bench(rounds=1, turn_s=0.001, table=table).rows(bench_model(str(tiny)), [1], "1", ["missing", "onnxruntime"])
    assert row.contenders["missing"].status == "failed"
    assert "no_such_module" in row.contenders["missing"].words
    assert row.contenders["onnxruntime"].timed


def test_a_row_that_would_take_too_long_is_skipped_with_a_line(tiny: Path) -> None:
    said: list[str] = []
    (row,) = Bench(within=1e-9).rows(bench_model(str(tiny)), [3], "1", ["onnxruntime"], note=said.append)
    found = row.contenders["onnxruntime"]
    assert found.status == "failed"
    assert re.fullmatch(r"skipped: it would take about \d+ s, and a row may take 0", found.words)
    assert row.feeds == 2  # the plain file ran on no more
    assert said == [f"tiny, batch 3, 1 threads: {found.words}; raise --within"]


def test_a_row_says_what_it_will_take_and_what_it_took(tiny: Path, stubs: type[Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_seconds(10.0, 2, 3, 3, 0.2) == 360
    monkeypatch.setattr(reference_bench, "row_seconds", lambda run, feeds, contenders, rounds, turn: 100.0 * rounds)
    said: list[str] = []
    (row,) = Bench(rounds=4).rows(bench_model(str(tiny)), [1], "1", ["onnxferry"], note=said.append)
    assert len(row.contenders["onnxferry"].round_medians_s) == 3  # so that it fits
    assert len(said) == 2
    assert re.fullmatch(r"tiny, batch 1, 1 threads: about 300 s, 3 rounds, [\d.]+ k?B of memory for weights", said[0])
    assert re.fullmatch(r"tiny, batch 1, 1 threads: took \d+ s", said[1])


def test_a_contender_that_memory_does_not_suffice_for_is_skipped(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_bench, "shortage", lambda needed: "it needs about 9.0 GB of memory, and 1.0 GB are free")
    (row,) = Bench(rounds=1).rows(bench_model(str(tiny)), [1], "1", ["onnxruntime"])
    assert row.contenders["onnxruntime"].words == "skipped: it needs about 9.0 GB of memory, and 1.0 GB are free"
    assert wanted_rows(Results({}, {row.key: row}), row.sha256, row.model, [1], "1", ["onnxruntime"], 1) == [1]


def test_wrong_answers_are_caught_and_not_timed(tiny: Path, stubs: type[Stub]) -> None:
    stubs.answer["onnxruntime"] = lambda y: y + np.float32(0.01)
    (row,) = Bench(rounds=3).rows(bench_model(str(tiny)), [2], "all", ["onnxferry", "onnxruntime", "openvino", "torch"])
    wrong, failed = row.contenders["onnxruntime"], row.contenders["openvino"]
    assert (wrong.status, wrong.median_s) == ("wrong", None)
    assert wrong.words.startswith("y: ")
    assert (failed.status, failed.words) == ("failed", "it cannot read this")
    # In turns, each round beginning with another.
    assert stubs.turns == ["onnxferry", "torch", "torch", "onnxferry", "onnxferry", "torch"]
    assert (row.best_peer, row.ratio) == ("torch", 1.5)


def test_checking_alone_times_nothing(tiny: Path, stubs: type[Stub]) -> None:
    (row,) = Bench(rounds=0).rows(bench_model(str(tiny)), [1], "1", ["onnxferry", "torch"])
    assert stubs.turns == []
    assert [m.status for m in row.contenders.values()] == ["right", "right"]
    assert row.best_peer is None
    assert row.ratio is None


def test_reduced_precision_is_held_to_its_own_budget_and_reported(tiny: Path, stubs: type[Stub]) -> None:
    stubs.answer["torch"] = lambda y: y * np.float32(1.01)
    (row,) = Bench(rounds=1).rows(bench_model(str(tiny)), [2], "1", ["onnxferry", "torch"])
    assert row.contenders["torch"].status == "wrong"
    stubs.precision["torch"] = "bfloat16"
    (row,) = Bench(rounds=1).rows(bench_model(str(tiny)), [2], "1", ["onnxferry", "torch"])
    assert row.contenders["torch"].status == "timed"
    assert row.contenders["torch"].words == "y off by 1.00%"


@pytest.mark.parametrize(
    ("actual", "reduced", "words"),
    [
        ({}, False, "the output probabilities is missing"),
        ({"probabilities": np.zeros((2, 2), np.float32)}, False, "expected float32 (2, 3)"),
        ({"probabilities": np.full((2, 3), np.nan, np.float32)}, False, "probabilities"),
        ({"probabilities": np.full((2, 3), np.nan, np.float32)}, True, "at most"),
        ({"class_index": np.array([1, 1])}, False, "class_index"),
        ({"class_index": np.array([1, 0])}, True, "expected 98%"),
        ({"image": np.zeros((2, 4, 4, 1), np.uint8)}, False, "image"),
        ({"image": np.zeros((2, 4, 4, 1), np.uint8)}, True, "dB"),
    ],
)
def test_what_is_wrong_with_answers(actual: dict[str, np.ndarray], reduced: bool, words: str) -> None:
    right = {
        "probabilities": np.array([[0.9, 0.1, 0], [0.1, 0.2, 0.7]], np.float32),
        "class_index": np.array([0, 2]),
        "image": np.full((2, 4, 4, 1), 200, np.uint8),
    }
    contract = Contract("recogniser", "x", tolerances={"probabilities": Tolerance(0, 1e-5), "image": Tolerance(0, 1)})
    given = {**right, **actual} if actual else {name: array for name, array in right.items() if name != "probabilities"}
    found = compare_answers([right], [given], contract, reduced)
    assert not found.passed
    assert words in found.problem
    assert compare_answers([right], [right], contract, reduced).passed


def test_a_decision_between_equals_may_go_either_way() -> None:
    tied = {"probabilities": np.array([[0.5, 0.5]], np.float32), "class_index": np.array([0])}
    assert compare_answers([tied], [{**tied, "class_index": np.array([1])}], None, False).passed
    clear = {"probabilities": np.array([[0.6, 0.4]], np.float32), "class_index": np.array([0])}
    assert not compare_answers([clear], [{**clear, "class_index": np.array([1])}], None, False).passed


def test_feeds_are_the_same_each_time_and_differ_from_each_other() -> None:
    model = bench_model("digits")
    one, again = (make_job(model, 2, count=3) for _ in range(2))
    assert [feed["image"].shape for feed in one.feeds] == [(2, 28, 28, 1)] * 3
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(one.feeds, again.feeds, strict=True))
    assert not np.array_equal(one.feeds[0]["image"], one.feeds[1]["image"])


def test_text_is_written_with_draws_that_rounding_does_not_tip() -> None:
    model = bench_model("shakespeare")
    job = make_job(model, 2, count=1)
    feed = job.feeds[0]
    with Engine(model.path, device="cpu") as engine:
        for nudge in (-1e-4, 1e-4):
            moved = {**feed, "uniforms": (feed["uniforms"] + nudge).astype(np.float32)}
            assert np.array_equal(engine.run(moved, ["bytes"])["bytes"], job.answers[0]["bytes"])


def test_images_that_are_misread_are_not_measured_with() -> None:
    model = bench_model("fashion")
    contract = make_job(model, 1, count=1).contract
    assert contract is not None
    with np.load(model.path.with_name("examples.npz")) as arrays:
        right = arrays["images"][arrays["labels"] == arrays["predicted"]]
        assert 0 < len(right) < len(arrays["images"])
    np.testing.assert_array_equal(bench_jobs._images(model, contract), right)
    assert len(bench_jobs._images(bench_model("digits-ae"), contract)) == 20, "images that nobody predicted anything of are all taken"


def test_a_file_that_fails_its_own_golden_samples_is_not_measured(tmp_path: Path, scale_model: bytes) -> None:
    import onnx

    from onnxferry.runtime.artifact.metadata import metadata_from_contract

    golden = Golden({"x": np.ones((1, 3), np.float32)}, {"y": np.ones((1, 3), np.float32)})
    model = onnx.load_from_string(scale_model)
    onnx.helper.set_model_props(model, metadata_from_contract(Contract("model", "bad", goldens=(golden,))))
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(CheckFailedError, match=r"bad\.onnx does not give what it should"):
        make_job(bench_model(str(tmp_path / "bad.onnx")), 1)


def test_feeds_of_somebodys_own(tiny: Path) -> None:
    job = make_job(bench_model(str(tiny)), 4, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, count=2)
    assert job.feeds[0]["x"].shape == (4, 3)
    with pytest.raises(InputError, match="'z', which is not an input"):
        make_job(bench_model(str(tiny)), 1, {"z": np.zeros(3, np.float32)})


def test_a_fixed_batch(tmp_path: Path) -> None:
    (tmp_path / "square.onnx").write_bytes(ONE_NODE_MODEL)
    model = bench_model(str(tmp_path / "square.onnx"))
    assert make_job(model, 1, count=1).answers[0]["y"].shape == (1,)
    with pytest.raises(InputError, match="measure it at --batch 1"):
        make_job(model, 8)


def row(model: str = "m", batch: int = 1, threads: str = "1", **seconds: float) -> Row:
    return Row(
        model, batch, threads, "0" * 64, 16, 0, {name.replace("_", "-"): Measured("timed", median_s=s) for name, s in seconds.items()}
    )


NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, factor=1.5):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((3,), factor))

    def forward(self, x):
        return torch.relu(x * self.factor)

def make():
    return Net(0.0)  # the weights are taken from the file

def number():
    return 3
"""


@pytest.mark.parametrize(("factory", "status", "words"), [("make", "right", "the same"), ("number", "failed", "number")])
def test_pytorch_runs_the_network_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, status: str, words: str
) -> None:
    import torch

    from onnxferry.export import export_model

    (tmp_path / "bench_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    net = import_module("bench_network").Net()
    export_model(net, (torch.rand(2, 3),), tmp_path / "net.onnx", dynamic_shapes=({0: "batch"},))
    model = bench_model(str(tmp_path / "net.onnx"), f"bench_network:{factory}")
    (found,) = Bench(rounds=0).rows(model, [4], "1", ["torch"])
    assert (found.contenders["torch"].status, words in found.contenders["torch"].words) == (status, True), found
    sys.modules.pop("bench_network")


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    results = Results(machine(), more={"cold_start": {"m": {"onnxferry": 0.25}}})
    results.add(row(onnxferry=1e-3, torch=2e-3, openvino_f32=1.5e-3))
    results.add(dataclasses.replace(row(batch=64), contenders={"torch": Measured("failed", "no", round_medians_s=(1.0, math.inf))}))
    path = tmp_path / "r.json"
    results.save(path)
    read = load_results(path)
    assert read.rows[("m", 1, "1")] == results.rows[("m", 1, "1")]
    assert read.more == results.more
    document = json.loads(path.read_text())
    assert (document["rows"][0]["best_peer"], document["rows"][0]["ratio"]) == ("openvino-f32", 1.5)
    assert [file.name for file in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not a result of onnxferry bench"),
        ("[]", "is not a result of onnxferry bench"),
        ('{"schema": 99}', "has schema 99"),
        ('{"schema": 1, "machine": {}, "rows": [{"model": "m"}]}', "is not a result of onnxferry bench"),
        ('{"schema": 1, "machine": {"cpu": "another"}, "rows": []}', "was measured on another machine"),
    ],
)
def test_results_that_cannot_be_gone_on_with(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_results(path)


def test_resuming_measures_what_is_missing(
    tiny: Path, tmp_path: Path, stubs: type[Stub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    command = ["bench", str(tiny), "--peers", "onnxruntime", "--threads", "1", "--rounds", "1", "-o", str(path), "--resume"]
    assert main([*command, "--batch", "1"]) == 0
    assert main([*command, "--batch", "1", "--batch", "4", "--plot", str(tmp_path / "p.png")]) == 0
    assert stubs.turns == ["onnxferry", "onnxruntime"] * 2  # batch 1 once, then batch 4 alone
    assert [r["batch"] for r in json.loads(path.read_text())["rows"]] == [1, 4]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "2.00 ×" in capsys.readouterr().out
    # Another file under the same name is another model.
    tiny.write_bytes(tiny.read_bytes() + b"\x12\x00")
    assert main([*command, "--batch", "1"]) == 0
    assert len(stubs.turns) == 6


def test_an_interrupted_run_leaves_the_rows_that_it_has(
    tiny: Path, tmp_path: Path, stubs: type[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Stub, seconds: float) -> Turn:
        self.turns.append(self.name)
        if len(self.turns) > 2:
            raise KeyboardInterrupt
        return Turn((1e-6,), 0.0)

    monkeypatch.setattr(stubs, "turn", interrupted)
    path = tmp_path / "r.json"
    command = ["bench", str(tiny), "--peers", "onnxruntime", "--batch", "1", "--batch", "2", "--rounds", "1", "--out", str(path)]
    assert main(command) == 130
    assert [r["batch"] for r in json.loads(path.read_text())["rows"]] == [1]
    assert list(tmp_path.glob(".*")) == []


def test_results_and_profiles_as_json(tiny: Path, stubs: type[Stub], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny), "--peers", "onnxruntime", "--batch", "2", "--threads", "1", "--rounds", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["batch"], row["ratio"], row["undisturbed_ratio"], row["disturbed"]) == (2, 2.0, 2.0, False)
    assert main(["bench", str(tiny), "--batch", "2", "--threads", "1", "--profile", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["profiles"]
    assert (found["model"], found["batch"], found["threads"]) == ("tiny", 2, 1)
    assert found["run_s"] > 0
    assert found["operators"]
    assert "roofline_s" in found["roofline"]


def test_a_busy_machine_is_noted(
    tiny: Path, stubs: type[Stub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = Measured("timed", median_s=1.0, p10_s=0.9, p90_s=1.3, round_medians_s=(1.0, 1.1, 0.95), runs=30)
    assert not quiet.scattered
    assert dataclasses.replace(quiet, p90_s=4.0).scattered
    assert dataclasses.replace(quiet, round_medians_s=(1.0, 1.7)).scattered
    command = ["bench", str(tiny), "--peers", "onnxruntime", "--batch", "2", "--threads", "1", "--rounds", "2"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "the machine was busy" not in shown
    assert "All models here" not in shown  # there is one
    times = iter((2, 4, 9, 4))
    monkeypatch.setattr(stubs, "turn", lambda self, seconds: Turn((next(times) / 1e3,) * 3, 0.0))
    assert main(command) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "the machine was busy" in words
    assert "by the fastest tenth of the runs, onnxferry is 2.00 × the best peer" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digits", "--batch", "0"], "a batch must be from 1"),
        (["digits", "--peers", "onnxruntime,tflite"], "unknown peer 'tflite'; expected some of"),
        (["digits", "--peers", "torch"], "name the model's with --module"),
        (["digits", "--threads", "many"], "threads must be a whole number"),
        (["digits", "--resume"], "name it with --out FILE"),
        (["digits", "--trace", "t.json"], "needs --profile"),
        (["digits", "--profile", "--trace", "t.json"], "--trace takes one model"),
        (["digits", "--profile", "-o", "r.json"], "--profile only prints"),
        (["digits", "--json", "r.json"], "--json prints to stdout and takes no file; save the results with -o r.json"),
        (["digit"], "did you mean 'digits'"),
        (["digits.decoder"], "has no decoder"),
        (["digits", "--feeds", "missing.npz"], "is not an .npz"),
    ],
)
def test_command_lines_that_make_no_sense(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_a_model_without_inputs(tmp_path: Path, build_onnx: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("Constant", [], ["y"], value_float=1.0)
    (tmp_path / "c.onnx").write_bytes(build_onnx([node], [], [("y", TensorProto.FLOAT, [])]).SerializeToString())
    assert main(["bench", str(tmp_path / "c.onnx")]) == 1
    assert "takes no inputs" in capsys.readouterr().err


def test_a_peer_that_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_command, "installed", lambda spec: spec.package != "openvino")
    assert main(["bench", "digits", "--peers", "openvino"]) == 1
    assert "pip install 'onnxferry[bench]'" in capsys.readouterr().err
    assert bench_command._contenders(None, "") == ["onnxferry", "onnxruntime"]  # left out where it was not asked for
    assert bench_command._contenders(None, "pkg.nets:make") == ["onnxferry", "onnxruntime", "torch", "torch-compile"]


def test_every_contender_names_a_class_that_is_there() -> None:
    for name, spec in CONTENDERS.items():
        module, _, attribute = spec.target.partition(":")
        assert callable(getattr(import_module(module), attribute))
        assert spec.package
        assert spec.what
        assert (name in PEERS) == (name in ("onnxruntime", "openvino", "openvino-f32", "torch", "torch-compile"))


def test_arithmetic() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    results = Results(machine())
    results.add(row("a", 1, onnxferry=1.0, torch=4.0))
    results.add(row("b", 1, onnxferry=1.0, torch=1.0))
    assert geometric_means(results) == {(1, "1"): pytest.approx(2.0)}
    assert [duration(s) for s in (4.12e-4, 1.234e-3, 12.34)] == ["412 µs", "1.23 ms", "12.3 s"]
    with pytest.raises(InputError, match="nothing was timed"):
        save_plot(Results(machine()), Path("x.png"))


def test_the_fastest_way_is_found() -> None:
    called: list[str] = []

    def slow(i: int) -> None:
        called.append("slow")
        sum(range(200_000))

    assert fastest({"slow": slow, "fast": lambda i: None}, 4) == "fast"
    assert len(called) >= 4


def test_a_decoder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        bench_model("nothing.decoder")
