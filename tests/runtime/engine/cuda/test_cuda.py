"""On a GPU: every shipped model against its golden samples and against the CPU, DLPack on the caller's stream, CUDA graphs, placement,
page-locked memory. Against PyTorch, and in float16: tests/export/parity/test_cuda.py.

All of it skips where there is no GPU that ONNX Runtime's CUDA provider can use; the skip says what is missing.

Tolerances. Goldens come with the tolerance that the export was judged by on the CPU. On a GPU sums are made in another order and by
other algorithms (cuDNN's convolutions, Winograd among them, cuBLAS), in float32 throughout since TF32 is off: differences of some
1e-6 of the largest term, which grow with the depth of the network. FLOAT is that, with room. An 8-bit pixel may round to its
neighbour; a class or a sampled byte may change only where two are equally likely to that precision, which the samples avoid.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from onnxferry.runtime.artifact.contract import Tolerance
from onnxferry.runtime.artifact.variants import decoder_path
from onnxferry.runtime.artifact.zoo import find_model, zoo_names
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine, PlacementWarning
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import DeviceError, InputError
from onnxferry.runtime.machine import nvidia
from onnxferry.runtime.tuning.bound_run import BoundRun, can_be_bound


def _missing() -> str | None:
    """Why these tests cannot run. Asked without opening a session where there is no GPU at all."""
    if nvidia.cuda_devices() == 0:
        return "no NVIDIA GPU here"
    return ort.cuda_problem()


MISSING = _missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"CUDA cannot be used: {MISSING}")]

FLOAT = Tolerance(rtol=1e-3, atol=1e-4)
PIXEL = 1  # of 255
# Not the 8-bit variants beside them: those are certified for the CPU, and are not offered here.
FILES = [file for name in zoo_names() for file in (find_model(name), decoder_path(find_model(name))) if file.is_file()]
FEED_FORWARD = [path for path in FILES if path.stem != "shakespeare"]


@pytest.fixture(autouse=True)
def shapes_may_stay_on_the_cpu() -> Iterator[None]:
    """ONNX Runtime keeps small sums about shapes on the CPU on purpose; one test looks at the warning itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlacementWarning)
        yield


def feeds_of(engine: Engine, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for a shipped model of any kind: images, noise and labels, latents, prompts and uniform numbers."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in engine.inputs:
        shape = tuple(batch if axis == 0 else size if isinstance(size, int) else 28 for axis, size in enumerate(spec.shape))
        if spec.dtype == "uint8":
            feeds[spec.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif spec.dtype == "int64":
            feeds[spec.name] = rng.integers(0, 10, shape)
        elif spec.name == "uniforms":
            feeds[spec.name] = rng.random(shape, dtype=np.float32)
        else:
            feeds[spec.name] = rng.standard_normal(shape, dtype=np.float32)
    return feeds


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], path: Path) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert actual[name].dtype == value.dtype, name
        if path.stem == "shakespeare" and name != "log_probabilities":
            continue  # what is written, and all that follows from it, may part after a byte that was all but a draw
        if value.dtype == np.uint8:
            assert np.abs(actual[name].astype(int) - value.astype(int)).max(initial=0) <= PIXEL, name
        elif value.dtype.kind in "iu":
            assert (actual[name] == value).mean() >= 0.99, name  # noise is all but a draw between classes now and then
        else:
            np.testing.assert_allclose(actual[name], value, rtol=FLOAT.rtol, atol=FLOAT.atol, err_msg=name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_samples(path: Path) -> None:
    with Engine(path, device="cuda") as engine:
        assert (engine.device, engine.providers[0]) == ("cuda", ort.CUDA)
        assert engine.contract is not None
        given = engine.contract.tolerances
        looser = {name: Tolerance(max(each.rtol, FLOAT.rtol), max(each.atol, FLOAT.atol)) for name, each in given.items()}
        replay_goldens(engine.run, dataclasses.replace(engine.contract, tolerances=looser)).raise_if_failed(str(path))


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_same_as_on_the_cpu(path: Path, batch: int) -> None:
    with Engine(path, device="cuda") as on_gpu, Engine(path, device="cpu") as on_cpu:
        feeds = feeds_of(on_cpu, batch)
        assert_close(on_gpu.run(feeds), on_cpu.run(feeds), path)


def test_auto_takes_the_gpu_and_says_so() -> None:
    with Engine(find_model("digits"), device="auto") as engine:
        assert (engine.device, engine.device_reason) == ("cuda", "CUDA works here")


@pytest.mark.parametrize("path", FEED_FORWARD, ids=lambda path: path.stem)
def test_cuda_graphs_give_the_same_again_and_again(path: Path) -> None:
    """Also after other shapes, and with other values in the same shape: a replay reads what stands in its buffers now."""
    with Engine(path, device="cuda", cuda_graph=True) as recorded, Engine(path, device="cuda") as plain:
        for batch, seed in ((1, 0), (1, 1), (8, 2), (1, 3), (8, 4)):
            feeds = feeds_of(plain, batch, seed)
            expected = plain.run(feeds)
            assert_close(recorded.run(feeds), expected, path)
            if torch.cuda.is_available():
                tensors = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
                assert_close({name: array.numpy() for name, array in recorded.run_dlpack(tensors).items()}, expected, path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch here has no CUDA")
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["", "recorded"])
@pytest.mark.parametrize("whose", ["its own", "the caller's", "the default"])
@pytest.mark.parametrize("path", FEED_FORWARD, ids=lambda path: path.stem)
def test_torch_tensors_on_the_gpu(path: Path, whose: str, cuda_graph: bool) -> None:
    """On whichever stream. torch gives 0 for the default one, which neither ONNX Runtime nor DLPack takes for that."""
    stream = torch.cuda.default_stream() if whose == "the default" else torch.cuda.Stream()
    asked = None if whose == "its own" else stream.cuda_stream
    with Engine(path, device="cuda", cuda_stream=asked, cuda_graph=cuda_graph) as engine, torch.cuda.stream(stream):
        feeds = feeds_of(engine, 16)
        with Engine(path, device="cuda") as plain:
            expected = plain.run(feeds)
        assert_close(engine.run(feeds), expected, path)
        tensors = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
        for _ in range(5):  # made anew on the stream each time: a run that did not wait for it would read what was there before
            fresh = {name: tensor.clone() for name, tensor in tensors.items()}
            outputs = {name: torch.from_dlpack(array) for name, array in engine.run_dlpack(fresh).items()}
            assert all(tensor.is_cuda for tensor in outputs.values())
            assert_close({name: tensor.cpu().numpy() for name, tensor in outputs.items()}, expected, path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch here has no CUDA")
def test_nothing_is_copied_on_the_gpu() -> None:
    with Engine(ort.ONE_NODE_MODEL, device="cuda") as engine:
        x = torch.full((1,), 3.0, device="cuda")
        out = engine.run_dlpack({"x": x})["y"]
        assert (out.device, out.__dlpack_device__()[0]) == ("cuda", 2)
        first, second = torch.from_dlpack(out), torch.from_dlpack(out)
        assert first.data_ptr() == second.data_ptr()
        assert first.item() == 9
        with pytest.raises(InputError, match="input 'x' lies on cpu, the model runs on cuda:0"):
            engine.run_dlpack({"x": x.cpu()})


def test_a_node_that_falls_to_the_cpu_is_named(build_onnx) -> None:
    """An operator without a kernel for CUDA. (Text has none either, but its CPU kernels ask for locales that may not be installed.)"""
    node = helper.make_node("Unique", ["x"], ["y"], name="pick")
    model = build_onnx([node], [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["m"])]).SerializeToString()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = Engine(model, device="cuda", record_placement=True)
    assert [(each.node, each.provider) for each in engine.placement if each.operator == "Unique"] == [("pick", "cpu")]
    assert any("pick (Unique)" in str(each.message) for each in caught if each.category is PlacementWarning)


def test_tf32_is_off_unless_asked_for() -> None:
    """Products of 1 + 2^-12, which TF32's ten bits of mantissa cannot hold."""
    size = 256
    x = np.full((size, size), 1 + 2**-12, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    exact = size * (1 + 2**-12) ** 2
    errors = {}
    for tf32 in (False, True):
        with Engine(model, device="cuda", tf32=tf32) as engine:
            errors[tf32] = float(np.abs(engine.run({"x": x})["y"] - exact).max()) / exact
            assert engine._session.get_provider_options()[ort.CUDA]["use_tf32"] == str(int(tf32))
    assert errors[False] < 1e-6


@pytest.mark.parametrize("path", FEED_FORWARD, ids=lambda path: path.stem)
def test_page_locked_arrays_are_read_and_written_again_and_again(path: Path) -> None:
    """The GPU copies such memory while the CPU goes on: a run that came back too early would show the answers of the run before."""
    with Engine(path, device="cuda") as engine:
        feeds = feeds_of(engine, 64)
        answers = engine.run(feeds)
        locked = [{name: engine.empty(array.shape, array.dtype) for name, array in each.items()} for each in (feeds, answers)]
        for arrays in locked:
            assert all(_is_page_locked(array) for array in arrays.values())
        assert not _is_page_locked(next(iter(feeds.values())))
        for seed in range(8):
            feeds = feeds_of(engine, 64, seed)
            expected = engine.run(feeds)
            for name, array in feeds.items():
                locked[0][name][...] = array
            engine.run_into(locked[0], locked[1])
            assert_close(locked[1], expected, path)
            assert_close(engine.run(locked[0]), expected, path)
        bound = BoundRun(engine)
        assert can_be_bound(engine)
        for seed in range(4):
            feeds = feeds_of(engine, 64, seed)
            assert_close(bound.run(feeds), engine.run(feeds), path)


def test_page_locked_memory_is_let_go_of() -> None:
    with Engine(ort.ONE_NODE_MODEL, device="cuda") as engine:
        array = engine.empty((1 << 20,), np.uint8)
        array[:] = 7
        memory, part = weakref.ref(array.base), array[5:9]
        del array
        gc.collect()
        assert memory() is not None, "while an array still shares it"
        assert part.tolist() == [7] * 4
        assert _is_page_locked(part)
        del part
        gc.collect()
        assert memory() is None


def _is_page_locked(array: np.ndarray) -> bool:
    """As the driver says: it does not know other host memory at all."""
    driver, kind = nvidia.load_driver(), ctypes.c_uint(0)
    assert driver is not None
    memory_type, host = 2, 1  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_MEMORYTYPE_HOST
    return driver.cuPointerGetAttribute(ctypes.byref(kind), memory_type, ctypes.c_uint64(array.ctypes.data)) == 0 and kind.value == host


def test_memory_that_is_not_there_is_a_device_error(build_onnx) -> None:
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    model = build_onnx([node], [("x", 1, [1]), ("shape", 7, ["r"])], [("y", 1, None)]).SerializeToString()
    with Engine(model, device="cuda") as engine, pytest.raises(DeviceError, match="the GPU failed while running the model"):
        engine.run({"x": np.ones(1, np.float32), "shape": np.array([2**42])})


@pytest.mark.parametrize("name", zoo_names())
def test_every_shipped_name_loads_there(name: str) -> None:
    from onnxferry.runtime import load

    with load(name, device="cuda") as model:
        assert model.engine.device == "cuda"
