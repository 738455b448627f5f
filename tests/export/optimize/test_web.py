"""Variants for the browser: timed and replayed in onnxruntime-web where Node.js and the package are, and by what is known elsewhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.graphs.writer import write_artifact
from onnxferry.export.optimize.optimize import optimize
from onnxferry.export.optimize.timing import Speed
from onnxferry.export.optimize.web import WebBench, WebRuntime, open_web, web_bench
from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.variants import certified_variants
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.embed.project import write_project
from onnxferry.runtime.embed.web_runtime import VERSION, lacking
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import DeviceError, InputError
from tests.npm import node_modules

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 64)).astype(np.float32)
LARGE = 10**6  # bytes


def graph(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, domains: tuple[str, ...] = ("",)) -> onnx.ModelProto:
    """x float32 (batch, 64) → y (batch, 64)."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("x", "y")]
    stored = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    opsets = [helper.make_opsetid(domain, 1 if domain else 18) for domain in domains]
    return helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], stored), opset_imports=opsets, ir_version=9)


def dense() -> onnx.ModelProto:
    weights = {"w": (RNG.standard_normal((64, 64)) / 8).astype(np.float32)}
    return graph(helper.make_node("MatMul", ["x", "w"], ["y"], name="dense"), weights=weights)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """An artifact, and data.npz beside it."""
    path = tmp_path / "net.onnx"
    write_artifact(dense(), None, path)
    with Engine(path) as engine:
        golden = Golden({"x": X}, engine.run({"x": X}))
    write_artifact(load_onnx(path), Contract("model", "net", goldens=(golden,)), path)
    np.savez(tmp_path / "data.npz", x=RNG.standard_normal((24, 64)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node_modules(tmp_path_factory, f"onnxruntime-web@{VERSION}") / "onnxruntime-web"


@pytest.fixture
def as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decided must not hang on how busy the machine is; the models run all the same."""
    timed = WebRuntime.compare

    def compare(runtime: WebRuntime, *arguments) -> Speed:
        measured = timed(runtime, *arguments)
        assert measured.original > 0 < measured.variant
        return dataclasses.replace(measured, ratio=1.0, noise=0.01)

    monkeypatch.setattr(WebRuntime, "compare", compare)


@pytest.mark.network
def test_the_smallest_download_is_certified_and_embedded(network: Path, package: Path, as_fast: None, tmp_path: Path, capsys) -> None:
    options = ["--data", str(tmp_path / "data.npz"), "--budget", "rtol 1e-2", "--seconds", "0.01"]
    assert main(["optimize", str(network), "--target", "web", "--ort-web", str(package), *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == ["net.web.onnx"]
    assert (said["target"], said["goal"]) == ("web", "web")
    assert said["web"] == f"timed in onnxruntime-web {VERSION} in Node.js, one thread"
    kept = next(each for each in said["verdicts"] if each["kept"])
    assert (kept["tag"], kept["rung"]) == ("web", "float16-storage")
    assert kept["speed"]["1"]["ratio"] == 1.0
    made = network.with_name("net.web.onnx")
    contract = describe(made).contract
    assert contract is not None
    certificate = contract.certificate
    assert (certificate["device"], certificate["goal"]) == ("web", "web")
    original, variant = certificate["transferred"]
    assert variant == kept["transferred"] < 0.6 * original
    assert json.loads(network.with_name("net.optimize-web.json").read_text()) == said
    assert [each.tag for each in certified_variants(network, device="web")] == ["web"]
    assert certified_variants(network, device="cpu") == ()  # `tune` does not take it
    project = write_project(network, "web", tmp_path / "page")
    assert Path("net.web.onnx") in project.files
    assert "net.web.onnx is taken" in project.notes[0]
    assert (project.folder / "net.web.onnx").read_bytes() == made.read_bytes()


@pytest.mark.network
def test_what_is_slower_or_wrong_there_is_refused(network: Path, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(WebRuntime, "compare", lambda *_: Speed(0.4, 0.02, 1e-3, 2.5e-3))
    found = optimize(network, data=tmp_path / "data.npz", budget="rtol 1e-2", target="web", ort_web=package)
    assert found.files == ()
    assert "slower in onnxruntime-web: 0.40 × as fast at batch 1" in {verdict.words for verdict in found.verdicts}
    wrong = Contract("model", "net", goldens=(Golden({"x": X}, {"y": X}),))
    with pytest.raises(InputError, match=r"wrong in onnxruntime-web .*golden sample 1, y: \d+ of 192 numbers differ"):
        web_bench(network, load_onnx(network), wrong, package).__enter__()


@pytest.mark.network
def test_a_model_that_cannot_run_there_does_no_harm_to_the_next(network: Path, package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    write_artifact(graph(helper.make_node("Nothing", ["x"], ["y"])), Contract("model", "broken"), broken)
    with open_web(package) as web:
        assert isinstance(web, WebRuntime)
        assert web.open("original", network) == ""
        with pytest.raises(DeviceError, match=r"onnxruntime-web .* cannot run it: .*Nothing"):
            web.open("variant", broken)
        assert web.open("variant", network) == ""
        assert web.compare([{"x": X}], 0.01).variant > 0


def test_without_node_it_is_not_timed_and_a_line_says_so(network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    data = ["--data", str(tmp_path / "data.npz"), "--budget", "rtol 1e-2"]
    assert main(["optimize", str(network), "--target", "web", *data]) == 0
    said = capsys.readouterr()
    assert "not timed in onnxruntime-web: Node.js is not installed" in said.out
    assert "onnxferry embed" in said.out + said.err
    contract = describe(network.with_name("net.web.onnx")).contract
    assert contract is not None
    assert contract.certificate["speed"] == {}
    assert contract.certificate["web"] == "not timed in onnxruntime-web: Node.js is not installed"


def test_what_is_known_to_be_slow_is_refused_where_it_is_not_timed(tmp_path: Path) -> None:
    weights = {"w": np.zeros((64, 2, 32), np.uint8), "s": np.ones(128, np.float32)}
    facts = {"K": 64, "N": 64, "bits": 8, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **facts)
    model = graph(node, weights=weights, domains=("", "com.microsoft"))
    words, found = WebBench(None, "not timed", tmp_path, LARGE).judged(model, Contract("model", "net"), {}, 1.0)
    assert words == "MatMulNBits (8-bit weights of text generators) is several times slower in a browser than float32"
    assert found["transferred"] > 0


def test_operators_that_the_browser_lacks_are_named(network: Path, tmp_path: Path) -> None:
    operators = ("ai.onnx::Conv", "com.microsoft::FusedConv", "com.microsoft::ScaledSiLU", "com.microsoft.nchwc::Conv", "mine::Function")
    assert lacking(operators) == ["com.microsoft::ScaledSiLU", "com.microsoft.nchwc::Conv"]
    path = tmp_path / "newer.onnx"
    model = graph(helper.make_node("ScaledSiLU", ["x"], ["y"], domain="com.microsoft"), domains=("", "com.microsoft"))
    write_artifact(model, Contract("model", "newer"), path)
    words = f"cannot run newer.onnx: onnxruntime-web {VERSION} has no kernel for com.microsoft::ScaledSiLU; export the model without it"
    with pytest.raises(InputError) as told:
        web_bench(path, model, Contract("model", "newer"), None).__enter__()
    assert str(told.value) == f"a page {words}"
    with pytest.raises(InputError) as told:
        write_project(path, "web", tmp_path / "page")
    assert str(told.value) == f"a page for the browser {words}"
    bench = WebBench(None, "not timed", tmp_path, LARGE)
    assert "has no kernel for com.microsoft::ScaledSiLU" in bench.judged(model, Contract("model", "newer"), {}, 1.0)[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "phone"], "the target must be web"),
        (["--target", "web", "--goal", "faster"], "leave out the goal and the device"),
        (["--target", "web", "--device", "cuda"], "leave out the goal and the device"),
        (["--ort-web", "."], "onnxruntime-web is for the target web"),
        (["--target", "web", "--ort-web", "nowhere"], "--ort-web nowhere: no such folder"),
    ],
)
def test_options_that_make_no_sense(network: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", str(network), *options, "--data", str(network.with_name("data.npz"))]) == 1
    assert words in capsys.readouterr().err
