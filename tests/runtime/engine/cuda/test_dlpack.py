"""Arrays on the model's device by DLPack, CUDA graphs and placement: everything of it that a CPU can show. The rest: test_cuda.py."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from onnxferry.runtime.engine import open as opening
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.cuda import dlpack as device_arrays
from onnxferry.runtime.engine.cuda import driver as cuda_driver
from onnxferry.runtime.engine.cuda.graphs import GraphRunner
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.open import CudaChoices
from onnxferry.runtime.engine.placement import Placement, fallback_message
from onnxferry.runtime.errors import DeviceError, InputError
from onnxferry.runtime.machine import nvidia

FLOAT = TensorProto.FLOAT


@pytest.fixture
def scale(scale_model) -> Engine:
    return Engine(scale_model, device="cpu")


def rows(n: int) -> torch.Tensor:
    return torch.arange(3 * n, dtype=torch.float32).reshape(n, 3)


# DLPack


def test_torch_tensors_in_and_out(scale):
    out = scale.run_dlpack({"x": rows(2), "factor": torch.tensor(5.0)})["y"]
    assert (out.shape, out.dtype, out.device, out.__dlpack_device__()) == ((2, 3), "float32", "cpu", (1, 0))
    assert repr(out) == "DeviceArray(float32 (2, 3), cpu)"
    torch.testing.assert_close(torch.from_dlpack(out), rows(2) * 5)
    np.testing.assert_array_equal(np.from_dlpack(out), (rows(2) * 5).numpy())
    np.testing.assert_array_equal(out.numpy(), (rows(2) * 5).numpy())
    assert list(scale.run_dlpack({"x": rows(2)}, ["y"])) == ["y"]
    assert scale.run_dlpack({"x": rows(0)})["y"].shape == (0, 3)
    torch.testing.assert_close(torch.from_dlpack(scale.run_dlpack({"x": np.ones((1, 3), np.float32)})["y"]), torch.full((1, 3), 2.0))


def test_nothing_is_copied(scale, monkeypatch):
    """Neither in: the session reads the tensor's own memory. Nor out: two views of an output are one memory."""
    seen = []
    from_dlpack = ort.onnxruntime().OrtValue.from_dlpack
    monkeypatch.setattr(ort.onnxruntime().OrtValue, "from_dlpack", lambda array: seen.append(from_dlpack(array)) or seen[-1], raising=True)
    x = rows(2)
    out = scale.run_dlpack({"x": x})["y"]
    assert seen[0].data_ptr() == x.data_ptr()
    first, second = torch.from_dlpack(out), torch.from_dlpack(out)
    first[0, 0] = 77
    assert (second[0, 0], out.numpy()[0, 0]) == (77, 77)


def test_outputs_are_new_memory_that_outlives_everything_else(scale):
    """A binding that is used again hands out the memory of its last run: the second answer would overwrite the first."""
    first = torch.from_dlpack(scale.run_dlpack({"x": rows(2)})["y"])
    second = torch.from_dlpack(scale.run_dlpack({"x": rows(2) + 1})["y"])
    scale.close()
    del scale
    gc.collect()
    torch.testing.assert_close(first, rows(2) * 2)
    torch.testing.assert_close(second, rows(2) * 2 + 2)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "input 'x' is missing"),
        ({"x": rows(1), "factr": rows(1)}, "no input 'factr'; did you mean 'factor'"),
        ([rows(1)], "feeds must be a dict of arrays"),
        ({"x": rows(1).double()}, "input 'x' must be float32, got float64"),
        ({"x": rows(1).bfloat16()}, "input 'x' must be float32, got bfloat16"),
        ({"x": rows(1)[0]}, r"input 'x' must have 2 axes, \(batch, 3\), got 1: \(3,\)"),
        ({"x": rows(1)[:, :2].contiguous()}, "input 'x' must have size 3 on axis 1"),
        ({"x": torch.ones(3, 2).T}, r"input 'x' cannot be taken as it is: it is not contiguous; use x.contiguous\(\)"),
        ({"x": rows(1).requires_grad_()}, r"input 'x' cannot be taken as it is: Can't export tensors that require gradient"),
        ({"x": rows(1).bool()}, "input 'x' (cannot be taken as it is|must be float32, got bool)"),
        ({"x": [[1.0, 2.0, 3.0]]}, "input 'x' must be an array with __dlpack__, such as a torch tensor, got list"),
    ],
)
def test_arrays_that_do_not_fit(scale, feeds, words):
    with pytest.raises(InputError, match=words) as caught:
        scale.run_dlpack(feeds)
    assert "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)


@pytest.mark.parametrize(("device", "words"), [((2, 1), "on cuda:1"), ((3, 0), "on DLPack device 3:0")])
def test_an_array_elsewhere(scale, device, words):
    elsewhere = SimpleNamespace(__dlpack__=lambda: None, __dlpack_device__=lambda: device)
    with pytest.raises(InputError, match=f"input 'x' lies {words}, the model runs on cpu; move it there first"):
        scale.run_dlpack({"x": elsewhere})


def test_what_fails_in_the_run(build_onnx, scale):
    node = helper.make_node("GlobalMaxPool", ["x"], ["y"])
    engine = Engine(build_onnx([node], [("x", FLOAT, [1, 3, "h", "w"])], [("y", FLOAT, None)]).SerializeToString(), device="cpu")
    with pytest.raises(InputError, match=r"cannot run on x torch\.Tensor: node"):
        engine.run_dlpack({"x": torch.ones(1, 3, 0, 2)})
    scale.close()
    with pytest.raises(InputError, match="is closed"):
        scale.run_dlpack({"x": rows(1)})


def test_threads(scale):
    def work(n: int) -> bool:
        return all(torch.equal(torch.from_dlpack(scale.run_dlpack({"x": rows(n)})["y"]), rows(n) * 2) for _ in range(30))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(1, 13)))


def test_the_callers_stream(monkeypatch, scale):
    """What the order on a stream rests on: the producer is asked for it, nothing waits, and other streams wait for it."""
    asked, waited = [], []

    class Producer:
        dtype = torch.float32

        def __dlpack__(self, *, stream=None):
            asked.append(stream)
            return rows(1).__dlpack__()

        def __dlpack_device__(self):
            return 2, 0

    monkeypatch.setattr(cuda_driver, "wait_for", lambda stream, device: waited.append((stream, device)))
    feed = scale._input_checks["x"]
    for stream in (None, 1234):
        device_arrays._value(Producer(), feed, ("cuda", 0), stream)
    assert asked == [None, 1234]
    value = ort.onnxruntime().OrtValue.from_dlpack(rows(1))
    out = device_arrays.DeviceArray(value, 1234)
    for stream in (-1, 1234):
        out.__dlpack__(stream=stream)
    assert waited == []
    out.__dlpack__(stream=99)
    out.__dlpack__()
    out.numpy()
    assert waited == [(1234, 0)] * 3
    with pytest.raises(TypeError, match="makes no copy"):
        out.__dlpack__(stream=99, copy=True)
    assert torch.from_dlpack(device_arrays.DeviceArray(value, None), copy=True).data_ptr() != value.data_ptr()  # torch makes it


@pytest.mark.skipif(nvidia.cuda_devices() > 0, reason="there is a driver here, which knows its streams")
def test_waiting_without_a_driver_is_an_error(monkeypatch):
    monkeypatch.setattr(nvidia, "load_driver", lambda: None)
    with pytest.raises(DeviceError, match="waiting for the CUDA stream 0x4d2 failed"):
        cuda_driver.wait_for(1234, 0)


class Driver:
    """A driver in the place of NVIDIA's, on memory of the CPU: notes what it is asked."""

    def __init__(self, fails: str = "") -> None:
        self.asked: list[str] = []
        self.fails = fails

    def __getattr__(self, name: str):
        def call(*arguments):
            self.asked.append(name)
            if name == "cuMemcpyDtoDAsync_v2":
                target, source, size, stream = (each.value for each in arguments)
                assert stream == 1234
                ctypes.memmove(target, source, size)
            return 700 if name == self.fails else 0

        return call


def test_the_driver_is_asked_in_the_context_of_the_process(monkeypatch):
    """A thread that never saw CUDA has none, and the driver then refuses whatever it is asked."""
    driver = Driver()
    monkeypatch.setattr(nvidia, "load_driver", lambda: driver)
    cuda_driver.wait_for(1234, 0)
    around = ["cuInit", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"], ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]
    assert driver.asked == [*around[0], "cuStreamSynchronize", *around[1]]
    source, target = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    driver.asked.clear()
    cuda_driver.copy_on(1234, 0, [(target.ctypes.data, source.ctypes.data, 12), (0, 0, 0)])
    assert driver.asked == [*around[0], "cuMemcpyDtoDAsync_v2", *around[1]]
    assert target.tolist() == [0, 1, 2, 0]
    for fails, call in (("cuStreamSynchronize", lambda: cuda_driver.wait_for(1234, 0)), ("cuMemcpyDtoDAsync_v2", None)):
        driver.fails = fails
        with pytest.raises(DeviceError, match=r"0x4d2 failed \(driver error 700\)"):
            (call or (lambda: cuda_driver.copy_on(1234, 0, [(target.ctypes.data, source.ctypes.data, 4)])))()
        assert driver.asked[-2:] == around[1]
    monkeypatch.setattr(nvidia, "load_driver", lambda: None)
    with pytest.raises(DeviceError, match="needs an NVIDIA driver"):
        cuda_driver.copy_on(1234, 0, [(0, 0, 0)])


# CUDA graphs


def test_graphs_run_through_buffers_that_stay(scale):
    """On the CPU nothing is recorded, and all the rest is the same."""
    runner = GraphRunner(scale._session, ("cpu", 0), most=2)
    for n in (1, 2, 3, 1, 2):
        answers = [runner.call(["y"], {"x": rows(n).numpy() + step}, None)[0] for step in range(3)]
        for step, answer in enumerate(answers):  # all of them: an answer is not the buffer
            np.testing.assert_array_equal(answer, (rows(n).numpy() + step) * 2)
    assert len(runner._slots) == 2
    np.testing.assert_array_equal(runner.call(["y"], {"x": rows(2).numpy(), "factor": np.array(3, np.float32)}, None)[0], rows(2) * 3)


def test_the_buffers_and_the_graph_of_a_shape_are_made_once(scale, monkeypatch):
    session = scale._session
    ids = []
    run = session.run_with_iobinding
    monkeypatch.setattr(session, "run_with_iobinding", lambda b, o: ids.append(o.get_run_config_entry("gpu_graph_id")) or run(b, o))
    runner = GraphRunner(session, ("cpu", 0), most=2)
    for n in (1, 1, 2, 1, 3):
        runner.call(["y"], {"x": rows(n).numpy()}, None)
    assert ids == ["-1", "1", "1", "-1", "2", "1", "-1", "3"]


def test_graphs_on_the_callers_stream(scale, monkeypatch):
    """Nothing waits, except where buffers would be written to or let go of while they are still read."""
    driver = Driver()
    monkeypatch.setattr(nvidia, "load_driver", lambda: driver)
    scale._graphs = GraphRunner(scale._session, scale._at, most=1, stream=1234)
    waits = []
    run = scale._session.run_with_iobinding
    entry = "disable_synchronize_execution_providers"

    def noted(binding, options):
        with contextlib.suppress(Exception):  # raised for an entry that is not there
            waits.append(options.get_run_config_entry(entry) != "1")
        run(binding, options)

    monkeypatch.setattr(scale._session, "run_with_iobinding", noted)
    values = [ort.onnxruntime().OrtValue.from_dlpack(rows(2) + step) for step in range(3)]
    answers = [scale._graphs.call_on_device(["y"], {"x": value})[0] for value in values]
    for step, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.numpy(), (rows(2) + step) * 2)
    assert "cuStreamSynchronize" not in driver.asked
    assert waits.count(False) == 3  # all but the one that is not recorded
    np.testing.assert_array_equal(scale._graphs.call(["y"], {"x": rows(2).numpy()}, None)[0], rows(2) * 2)
    assert driver.asked.count("cuStreamSynchronize") == 1
    scale._graphs.call_on_device(["y"], {"x": ort.onnxruntime().OrtValue.from_dlpack(rows(1))})
    assert driver.asked.count("cuStreamSynchronize") == 2


def test_a_graph_that_computes_with_its_sizes_gets_a_session_for_each_set_of_shapes(build_onnx, monkeypatch):
    """ONNX Runtime refuses to record such a one, and takes it where its sizes are settled. With sessions on the CPU here."""
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    model = build_onnx([node], [("x", FLOAT, ["batch", "width"])], [("y", FLOAT, ["batch", "width"])]).SerializeToString()
    real, opened = ort.open_session, []

    def open_session(model, name, settings, requested):
        recorded = dict(requested)[ort.CUDA].get("enable_cuda_graph") == "1"
        if recorded and len(dict(settings.sizes)) < 2:
            raise DeviceError("the provider 'cuda' cannot run the model: This session cannot use the graph capture feature")
        opened.append((dict(settings.sizes), recorded))
        return real(model, name, settings, [(ort.CPU, {})])

    monkeypatch.setattr(opening.ort, "cuda_problem", lambda: None)
    monkeypatch.setattr(opening.ort, "open_session", open_session)
    monkeypatch.setattr(ort, "device_of", lambda providers: "cuda")
    monkeypatch.setattr(ort, "device_number", lambda session: 0)
    engine = Engine(model, device="cuda", cuda_graph=True)
    engine._graphs._device = engine._at = ("cpu", 0)
    for shape in ((1, 2), (3, 2), (1, 2), (3, 2)):
        x = np.full(shape, 3, np.float32)
        np.testing.assert_array_equal(engine.run({"x": x})["y"], x * x)
    assert opened == [({}, False), ({"batch": 1, "width": 2}, True), ({"batch": 3, "width": 2}, True)]
    engine = Engine(model, device="auto", cuda_graph=True, sizes={"width": 2})
    engine._graphs._device = engine._at = ("cpu", 0)
    engine.run({"x": np.ones((5, 2), np.float32)})
    assert opened[3:] == [({"width": 2}, False), ({"batch": 5, "width": 2}, True)]


def test_a_graph_that_can_be_recorded_for_no_shapes_is_refused(scale_model, monkeypatch):
    real = ort.open_session

    def open_session(model, name, settings, requested):
        if dict(requested)[ort.CUDA].get("enable_cuda_graph") == "1":
            raise DeviceError("not partitioned")
        return real(model, name, settings, [(ort.CPU, {})])

    monkeypatch.setattr(opening.ort, "cuda_problem", lambda: None)
    monkeypatch.setattr(opening.ort, "open_session", open_session)
    monkeypatch.setattr(ort, "device_of", lambda providers: "cuda")
    monkeypatch.setattr(ort, "device_number", lambda session: 0)
    with (
        Engine(scale_model, device="cuda", cuda_graph=True) as engine,
        pytest.raises(InputError, match="the model cannot be captured as a CUDA graph: not partitioned; open it without cuda_graph=True"),
    ):
        engine.run({"x": rows(1).numpy()})


def test_graphs_from_many_threads(scale):
    runner = GraphRunner(scale._session, ("cpu", 0))

    def work(n: int) -> bool:
        answers = ((k, runner.call(["y"], {"x": np.full((n, 3), k, np.float32)}, None)[0]) for k in range(30))
        return all(np.array_equal(answer, np.full((n, 3), 2 * k)) for k, answer in answers)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, [1, 2, 3] * 4))


def test_an_engine_with_graphs_uses_them_everywhere(scale):
    scale._graphs = GraphRunner(scale._session, scale._at)
    scale._call = scale._graphs.call
    y = np.empty((2, 3), np.float32)
    scale.run_into({"x": rows(2).numpy()}, {"y": y})
    np.testing.assert_array_equal(y, rows(2) * 2)
    np.testing.assert_array_equal(scale.run({"x": rows(2).numpy()})["y"], rows(2) * 2)
    with pytest.raises(InputError, match=r"output 'y' must have the shape that comes out, \(2, 3\), got \(3, 3\)"):
        scale.run_into({"x": rows(2).numpy()}, {"y": np.empty((3, 3), np.float32)})
    answers = [scale.run_dlpack({"x": rows(2) + step})["y"] for step in range(3)]
    for step, answer in enumerate(answers):
        torch.testing.assert_close(torch.from_dlpack(answer), (rows(2) + step) * 2)
    assert len(scale._graphs._slots) == 1  # whichever way it was called


def test_control_flow_is_refused(build_onnx):
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "b", [], [helper.make_tensor_value_info("n", FLOAT, None)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = build_onnx([node], [("c", TensorProto.BOOL, []), ("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])]).SerializeToString()
    with pytest.raises(
        InputError, match="the model cannot be captured as a CUDA graph: it has If, whose control flow is decided during the run"
    ):
        Engine(model, cuda_graph=True)


# Choices


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cpu", "cuda_graph": True}, "cuda_graph is a choice for CUDA; with device='cpu' leave it out"),
        ({"device": "cpu", "tf32": True}, "tf32 is a choice for CUDA"),
        ({"device": "cpu", "cuda_stream": 0}, "cuda_stream is a choice for CUDA"),
        ({"providers": ["cpu"], "tf32": True}, "tf32 goes with device='cuda'; with providers="),
        ({"cuda_stream": "0"}, "cuda_stream must be the address of a stream"),
        ({"cuda_stream": -1}, "cuda_stream must be the address of a stream"),
    ],
)
def test_choices_that_make_no_sense(scale_model, options, words):
    with pytest.raises(InputError, match=words):
        Engine(scale_model, **options)


def test_what_onnxruntime_is_told():
    base = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert CudaChoices().options() == base
    assert CudaChoices(tf32=True).options() == base | {"use_tf32": "1"}
    assert CudaChoices(graph=True).options() == base | {"enable_cuda_graph": "1"}
    assert CudaChoices(stream=77).options() == base | {"has_user_compute_stream": "1", "user_compute_stream": "77"}
    assert CudaChoices(stream=0).options() == base  # ONNX Runtime takes it for none, and torch refuses to be asked for it


def test_auto_without_cuda_refuses_what_only_cuda_has(scale_model, monkeypatch):
    monkeypatch.setattr(opening.ort, "cuda_problem", lambda: "there is none")
    for options in ({"cuda_graph": True}, {"cuda_stream": 7}):
        with pytest.raises(DeviceError, match="need CUDA, and the model runs on cpu: CUDA cannot be used: there is none"):
            Engine(scale_model, **options)
    assert Engine(scale_model, tf32=True).device == "cpu"  # which allows, and asks for nothing


# Placement


def test_placement_on_the_cpu(scale_model):
    engine = Engine(scale_model, device="cpu", record_placement=True)
    assert [(each.operator, each.provider) for each in engine.placement] == [("Mul", "cpu")]
    assert Engine(scale_model, device="cpu").placement == ()


def test_nodes_that_fall_to_the_cpu_are_named():
    on_gpu = [Placement(f"conv{n}", "Conv", "cuda") for n in range(5)]
    assert fallback_message(on_gpu, "m.onnx") is None
    words = fallback_message([*on_gpu, Placement("pick", "NonZero", "cpu"), Placement("", "com.microsoft::X", "cpu")], "m.onnx")
    assert words.startswith("2 of 7 nodes of m.onnx run on the CPU, not on the GPU: pick (NonZero), (no name) (com.microsoft::X); all: ")
    many = fallback_message([Placement(f"n{n}", "Add", "cpu") for n in range(20)], "m.onnx")
    assert "n7 (Add) and 12 more" in many


def test_a_cuda_session_warns_of_them(scale_model, monkeypatch):
    """With a session on the CPU in the place of one on a GPU."""
    real = ort.open_session
    monkeypatch.setattr(opening.ort, "cuda_problem", lambda: None)
    monkeypatch.setattr(opening.ort, "open_session", lambda model, name, settings, _: real(model, name, settings, [(ort.CPU, {})]))
    with pytest.warns(UserWarning, match=r"1 of 1 nodes of the model run on the CPU, not on the GPU: .*\(Mul\)"):
        Engine(scale_model, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(scale_model, device="auto")
        Engine(scale_model, device="cpu")


def test_an_onnxruntime_that_cannot_tell(scale_model, monkeypatch):
    monkeypatch.delattr(ort.onnxruntime().InferenceSession.__base__, "get_provider_graph_assignment_info")
    with pytest.raises(DeviceError, match="cannot tell where nodes run; pip install -U"):
        Engine(scale_model, device="cpu", record_placement=True)
