"""The scoreboard of the shipped models: networks rebuilt from files, the least that a byte costs, verdicts, footprints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxferry.export.bench.contenders.base import open_contender
from onnxferry.export.bench.race import Bench
from onnxferry.export.bench.report import Results, machine
from onnxferry.export.bench.results import Measured, Row
from onnxferry.export.bench.workloads import bench_model, make_job
from onnxferry.runtime.errors import CheckFailedError, ExportError, InputError
from scoreboard import models, synthetic
from scoreboard.contenders import TABLE
from scoreboard.footprint import installed_size
from scoreboard.models import image_rows, scoreboard_model, shipped_rows
from scoreboard.rebuilt import rebuild, rebuild_text
from scoreboard.verdicts import verdicts

IMAGES = image_rows()


@pytest.mark.parametrize("name", IMAGES)
def test_every_shipped_network_is_rebuilt_and_answers_as_its_file(name: str) -> None:
    model = bench_model(name)
    job = make_job(model, 2, count=1)
    made = rebuild(model.path).run(job.feeds[0])
    for output, expected in job.answers[0].items():
        atol = 1.0 if expected.dtype == np.uint8 else 1e-4
        np.testing.assert_allclose(made[output].astype(float), expected.astype(float), rtol=1e-3, atol=atol)


def test_a_weight_that_is_another_one_is_caught(tmp_path: Path) -> None:
    model = onnx.load(bench_model("digits").path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "network.head.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckFailedError, match=r"the PyTorch network of other\.onnx"):
        rebuild(tmp_path / "other.onnx")


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    model = onnx.load(bench_model("digits").path)
    next(tensor for tensor in model.graph.initializer if tensor.name == "network.head.weight").name = "renamed"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=r"'network.head.weight'.*is not in the file"):
        rebuild(tmp_path / "other.onnx")


def test_a_file_of_nobodys_has_no_network(tmp_path: Path, scale_model: bytes) -> None:
    (tmp_path / "scale.onnx").write_bytes(scale_model)
    with pytest.raises(ExportError, match="carries no contract"):
        rebuild(tmp_path / "scale.onnx")
    with pytest.raises(ExportError, match="is no text generator"):
        rebuild_text(tmp_path / "scale.onnx")


@pytest.mark.parametrize("name", ["torch", "one-step"])
def test_text_is_written_the_same(name: str) -> None:
    model = bench_model("shakespeare")
    job = make_job(model, 2, count=2)
    contender = open_contender(TABLE[name], model, 1)
    call = contender.ready(job.feeds)
    for i, expected in enumerate(job.answers):
        assert np.array_equal(contender.named(call(i))["bytes"], expected["bytes"])


def test_openvino_answers(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'onnxferry[bench]'")
    model = bench_model("digits-gan")
    contender = open_contender(TABLE["openvino-f32"], model, 1)
    assert contender.precision == "float32"
    for batch in (1, 3):  # one after the other: what was fixed for the first must not bind the second
        job = make_job(model, batch, count=2)
        call = contender.ready(job.feeds)
        made = contender.named(call(1))["image"].astype(int)
        assert np.abs(made - job.answers[1]["image"]).max() <= 1


@pytest.mark.parametrize("name", shipped_rows())
def test_every_shipped_model_has_feeds(name: str) -> None:
    job = make_job(bench_model(name), 2, count=1)
    assert all(len(array) == 2 for feed in job.feeds for array in feed.values() if array.ndim)


@pytest.mark.slow
def test_a_made_network_is_made_again_and_answers_as_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its export folds weights away (mean and std, all normalisations), so that they cannot be taken from the file."""
    monkeypatch.setattr(synthetic, "SIDE", 32)  # smaller images, the same network
    path = tmp_path / "resnet18.onnx"
    synthetic.make("resnet18", path)
    monkeypatch.setattr(models, "_made", lambda name: path)
    (found,) = Bench(rounds=0, table=TABLE).rows(scoreboard_model("resnet18"), [2], "1", ["torch"])
    assert found.contenders["torch"].status == "right", found.contenders["torch"].words


def row(model: str = "m", batch: int = 1, threads: str = "1", **seconds: float) -> Row:
    contenders = {name.replace("_", "-"): Measured("timed", median_s=s, p10_s=s) for name, s in seconds.items()}
    return Row(model, batch, threads, "0" * 64, 16, 0, contenders)


def test_verdicts_say_what_is_open_met_and_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoreboard.verdicts.cpu_features", lambda: "avx2 avx512_vnni")
    results = Results(machine())
    assert {verdict.met for verdict in verdicts(results, "1")} == {None}
    for name in shipped_rows():
        for batch in (1, 8, 64):
            results.add(row(name, batch, onnxferry=1.0, onnxruntime=1.2))
    found = {verdict.must: verdict.met for verdict in verdicts(results, "1")}
    assert found == {"≥ 0.98 ×": True, "≥ 1.3 ×": False, "≥ 1.0 ×": True}
    digits = row("digits", 8, onnxferry=1.0, onnxruntime=1.2)
    slower = dataclasses.replace(digits.contenders["onnxferry"], p10_s=1.25)  # of the fastest tenth alone
    results.add(dataclasses.replace(digits, contenders={**digits.contenders, "onnxferry": slower}))
    assert [verdict.met for verdict in verdicts(results, "1")] == [True, False, False, True]
    results.add(row("digits", 8, onnxferry=1.0, onnxruntime=0.9))
    assert [verdict.met for verdict in verdicts(results, "1")] == [False, False, False, True]
    results.add(dataclasses.replace(row("lstm-2x512", 1, onnxferry=0.8, one_step=1.0), bytes_per_run=32))
    results.add(row("one-node", 1, onnxferry=5.6e-6, onnxruntime=5e-6))
    results.more["cold_start"] = {"digits": {"onnxferry": 0.2}}
    assert [verdict.met for verdict in verdicts(results, "1")[4:]] == [True, False, True]
    monkeypatch.setattr("scoreboard.verdicts.cpu_features", lambda: "avx2")
    assert [verdict.must for verdict in verdicts(results, "1")[2:4]] == ["≥ 1.35 ×", "≥ 1.5 ×"]


def test_installed_sizes_count_dependencies_and_an_editable_install() -> None:
    sizes = installed_size("onnxferry")
    assert {"onnxferry", "numpy", "pillow"} <= set(sizes)
    assert "torch" not in sizes  # an extra
    assert sizes["onnxferry"] > 5_000_000  # the shipped models are in it
    with pytest.raises(InputError, match="is not installed"):
        installed_size("no-such-package")
