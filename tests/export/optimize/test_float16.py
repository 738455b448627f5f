"""float16: the network alone, counted, near its original, and tried and certified only where it belongs, on CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.bench.workloads import bench_model, make_job
from onnxferry.export.optimize import optimize as module
from onnxferry.export.optimize.candidates import candidates_for
from onnxferry.export.optimize.optimize import optimize
from onnxferry.export.optimize.rewrites.float16 import HALVED, count_float16, float16
from onnxferry.export.optimize.samples import Samples
from onnxferry.export.optimize.timing import Speed
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.kinds import MODEL, TEXT_GENERATOR
from onnxferry.runtime.machine import nvidia
from scoreboard.models import image_rows

ZOO = Path(find_model("digits")).parents[1]
IMAGES = image_rows()

# float16 has 11 significant bits: each number is off by 2^-12 of itself at most. Sums of some hundreds of such products in a dozen
# layers in a row, whose errors add up like a random walk, stay within some ten of these: 0.3 % of the largest number of an output.
# A probability p follows a logit's error d as p (1 - p) d <= d / 4. The rounding of a pixel falls on the other side at most once.
SHARE = 3e-3


def network(weight: float = 0.2, between: str = "Relu") -> onnx.ModelProto:
    """x float32 (batch, 1, 6, 6), counted in steps of 1/4 up to 4,000 → a convolution → ``between`` → a dense layer → Softmax."""
    rng = np.random.default_rng(0)
    constants = {
        "big": np.array(4096, np.float32),
        "w": np.full((3, 1, 3, 3), weight, np.float32),
        "flat": np.array([0, -1]),
        "head": rng.standard_normal((3 * 16, 5)).astype(np.float32) / 8,
    }
    nodes = [
        helper.make_node("Add", ["x", "big"], ["moved"]),
        helper.make_node("Sub", ["moved", "big"], ["back"]),
        helper.make_node("Conv", ["back", "w"], ["a"], name="conv"),
        helper.make_node(between, ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 6, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in ("y", "rows")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with Engine(model.SerializeToString(), device="cpu") as engine:
        return engine.run(feeds)


@pytest.mark.parametrize("name", IMAGES)
def test_shipped_models_in_half_precision_are_near(name: str) -> None:
    shipped = bench_model(name)
    model = onnx.load(shipped.path)
    half = float16(model)
    onnx.checker.check_model(half, full_check=True)
    for theirs, ours in ((half.graph.input, model.graph.input), (half.graph.output, model.graph.output)):
        assert [(value.name, value.type) for value in theirs] == [(value.name, value.type) for value in ours]
    assert count_float16(half) == sum(node.op_type == "Conv" for node in model.graph.node)
    assert len(half.SerializeToString()) < 0.9 * len(model.SerializeToString())
    job = make_job(shipped, 64, count=1)
    feeds, expected = job.feeds[0], job.answers[0]
    actual = run(half, feeds)
    changed = False
    for output, array in expected.items():
        assert (actual[output].dtype, actual[output].shape) == (array.dtype, array.shape)
        off = np.abs(actual[output].astype(np.float64) - array)
        changed = changed or bool(off.max() > 0)
        if array.dtype.kind == "f":
            assert off.max() <= SHARE * np.abs(array).max(), output
        elif array.dtype == np.uint8:
            assert off.max() <= 1, output
            assert off.mean() <= 0.05, output
        else:
            assert off.max() == 0, "no decision changes"
    assert changed, "something was rounded"


def test_what_comes_before_and_after_stays_float32() -> None:
    """4,096 and a quarter is no float16: were the first two nodes computed in it, every quarter would be lost."""
    half = float16(network())
    by_type = {node.op_type: node for node in half.graph.node}
    assert list(by_type["Add"].input) == ["x", "big"]
    assert list(by_type["Softmax"].input) == ["logits"]
    casts = [(node.input[0], node.output[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast"]
    assert casts == [("back", "back_half", 10), ("rows_half", "rows", 1), ("logits_half", "logits", 1)]
    feeds = {"x": np.full((2, 1, 6, 6), 0.25, np.float32)}
    np.testing.assert_allclose(run(half, feeds)["rows"], run(network(), feeds)["rows"], rtol=2**-10)


def test_what_half_precision_lacks_stays_float32_between_layers() -> None:
    assert "Exp" not in HALVED
    half = float16(network(between="Exp"))
    (node,) = [node for node in half.graph.node if node.op_type == "Exp"]
    assert list(node.input) == ["a"]
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 1, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(half, feeds)["y"], run(network(between="Exp"), feeds)["y"], atol=SHARE)


def test_a_subgraph_still_finds_what_it_reads() -> None:
    model = network()
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = {
        f"{branch}_branch": helper.make_graph([helper.make_node(operator, ["b"], ["inner"])], branch, [], [value])
        for branch, operator in (("then", "Neg"), ("else", "Abs"))
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["z"], **branches))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 3, 4, 4]))
    feeds = {"x": np.ones((2, 1, 6, 6), np.float32)}
    np.testing.assert_allclose(run(float16(model), feeds)["z"], run(model, feeds)["z"], rtol=2**-10)


def test_weights_beyond_its_range_are_refused() -> None:
    assert count_float16(float16(network(weight=65_504))) == 1
    with pytest.raises(ExportError, match=r"^the weight 'w' holds numbers beyond float16's range, 65504$"):
        float16(network(weight=65_536))


def test_what_has_no_network_to_halve_is_refused(scale_model: bytes) -> None:
    with pytest.raises(ExportError, match="no convolution"):
        float16(onnx.ModelProto.FromString(scale_model))
    with pytest.raises(ExportError, match="only 0 of 1 convolutions can compute in float16"):
        float16(float16(network()))


def test_it_is_tried_on_cuda_alone_and_never_on_text() -> None:
    model = network()
    calibration = Samples({"x": np.zeros((4, 1, 6, 6), np.float32)}, "zeros")
    on_cpu = {candidate.tag for candidate in candidates_for(model, MODEL, "faster", calibration)}
    on_cuda = {candidate.tag for candidate in candidates_for(model, MODEL, "faster", calibration, "cuda")}
    assert on_cpu - {"bf16"} == {"slim", "ort", "exact", "int8"}  # bf16: where the CPU has AMX, on OpenVINO
    assert on_cuda == {"slim-cuda", "ort-cuda", "exact-cuda", "int8-cuda", "float16"}, "no file of the CPU's is overwritten"
    assert not any("float16" in candidate.tag for candidate in candidates_for(model, TEXT_GENERATOR, "faster", calibration, "cuda"))


@pytest.mark.skipif(nvidia.cuda_devices() > 0, reason="there is a GPU here")
def test_cuda_where_there_is_none_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 1, 6, 6), np.float32))
    assert main(["optimize", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "data.npz"), "--device", "cuda"]) == 1
    line, page = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: device='cuda' cannot be used here: ")
    assert page == "help: docs/en/reference/errors.md#of-device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "net.onnx"]
    with pytest.raises(InputError, match="the device must be cpu or cuda, got 'tpu'"):
        optimize(tmp_path / "net.onnx", data=tmp_path / "data.npz", device="tpu")


def test_a_certificate_names_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compare_speed", lambda *a, **k: Speed(2.0, 0.01, 2e-3, 1e-3))
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((8, 1, 6, 6)).astype(np.float32))
    result = optimize(tmp_path / "net.onnx", data=tmp_path / "data.npz", budget="rtol 0.5", batches=(1,), seconds=0.01)
    assert (result.device, result.to_json()["device"]) == ("cpu", "cpu")
    assert result.files
    for file in result.files:
        with Engine(file, device="cpu") as engine:
            assert engine.contract is not None
            assert engine.contract.certificate["device"] == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(nvidia.cuda_devices() == 0, reason="no NVIDIA GPU here")
def test_on_a_gpu_a_variant_is_certified_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxferry.runtime import load
    from onnxferry.runtime.artifact.variants import certified_variants

    assert ort.cuda_problem() is None
    monkeypatch.setattr(module, "compare_speed", lambda *a, **k: Speed(2.0, 0.01, 2e-3, 1e-3))
    path = tmp_path / "digits.onnx"
    path.write_bytes((ZOO / "digits/digits.onnx").read_bytes())
    np.savez(tmp_path / "data.npz", image=np.load(ZOO / "digits/examples.npz")["images"][:64].reshape(-1, 28, 28, 1))
    optimize(path, data=tmp_path / "data.npz", batches=(1,), seconds=0.01, device="cuda")
    assert "float16" in {variant.tag for variant in certified_variants(path, device="cuda")}
    assert certified_variants(path, device="cpu") == ()
    assert load(path, variant="float16").engine.device == "cuda"
