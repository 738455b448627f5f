"""``run_into``: the caller's own arrays, bound once and used again."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.cuda.pinned import pinned_like
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.io_binding import KEPT
from onnxferry.runtime.errors import DeviceError, InputError
from onnxferry.runtime.machine import nvidia

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


@pytest.fixture
def scale(scale_model) -> Engine:
    return Engine(scale_model, device="cpu")


def rows(n: int) -> np.ndarray:
    return np.arange(3 * n, dtype=np.float32).reshape(n, 3)


def engine_of(build_onnx, nodes, inputs, outputs, initializers=()) -> Engine:
    return Engine(build_onnx(nodes, inputs, outputs, initializers).SerializeToString(), device="cpu")


def test_writes_into_the_callers_arrays(scale):
    x, y = rows(2), np.full((2, 3), -1, np.float32)
    assert scale.run_into({"x": x}, {"y": y}) is None
    np.testing.assert_array_equal(y, rows(2) * 2)
    scale.run_into(MappingProxyType({"x": x, "factor": np.float32(5)}), MappingProxyType({"y": y}))
    np.testing.assert_array_equal(y, rows(2) * 5)
    empty = np.empty((0, 3), np.float32)
    scale.run_into({"x": rows(0)}, {"y": empty})


def test_the_same_arrays_are_bound_once_and_read_anew(scale, monkeypatch):
    bound = []
    monkeypatch.setattr(ort, "bind", lambda *given, bind=ort.bind: bound.append(1) or bind(*given))
    x, y = rows(2), np.empty((2, 3), np.float32)
    for step in range(5):
        x[:] = step
        scale.run_into({"x": x}, {"y": y})
        assert (y == 2 * step).all()
    assert len(bound) == 1
    # Back and forth between two buffers, as a state does.
    for _ in range(3):
        scale.run_into({"x": y}, {"y": x})
        scale.run_into({"x": x}, {"y": y})
    assert len(bound) == 2
    np.testing.assert_array_equal(y, np.full((2, 3), 8 * 2.0**6, np.float32))


def test_an_optional_input_that_was_bound_before_is_not_fed_again(scale):
    x, y, factor = rows(1), np.empty((1, 3), np.float32), np.array(7, np.float32)
    for _ in range(2):
        scale.run_into({"x": x, "factor": factor}, {"y": y})
        np.testing.assert_array_equal(y, x * 7)
        scale.run_into({"x": x}, {"y": y})
        np.testing.assert_array_equal(y, x * 2)


def test_arrays_that_were_changed_in_place(scale):
    """numpy lets shape, dtype and flags be set: what was bound is another array then."""
    x, y = rows(2), np.empty((2, 3), np.float32)
    scale.run_into({"x": x}, {"y": y})
    x.shape = (6,)
    with pytest.raises(InputError, match="'x' must have 2 axes"):
        scale.run_into({"x": x}, {"y": y})
    x.shape = (2, 3)
    scale.run_into({"x": x}, {"y": y})
    y.flags.writeable = False
    with pytest.raises(InputError, match="output 'y' must be C-contiguous, aligned and writable"):
        scale.run_into({"x": x}, {"y": y})
    y.flags.writeable = True
    scale.run_into({"x": x}, {"y": y})
    np.testing.assert_array_equal(y, rows(2) * 2)


def test_inputs_in_other_layouts_are_read_anew_each_time(scale):
    """What has to be copied first must not be bound for good: the copy would stay as it was."""
    wide, y = np.zeros((2, 6), np.float32), np.empty((2, 3), np.float32)
    across = wide[:, ::2]
    unaligned = np.frombuffer(bytearray(25), np.uint8)[1:].view(np.float32).reshape(2, 3)
    for x in (across, unaligned):
        for step in (1, 2):
            x[:] = step
            scale.run_into({"x": x}, {"y": y})
            assert (y == 2 * step).all()


@pytest.mark.parametrize(
    ("feeds", "outputs", "words"),
    [
        ({}, {"y": np.empty((1, 3), np.float32)}, "input 'x' is missing"),
        ({"z": rows(1)}, {"y": np.empty((1, 3), np.float32)}, "no input 'z'"),
        ({"x": rows(1).astype(int)}, {"y": np.empty((1, 3), np.float32)}, "'x' must be float32, got int64"),
        ({"x": rows(1)}, {}, "outputs must hold an array for at least one of 'y'"),
        ({"x": rows(1)}, {"Y": np.empty((1, 3), np.float32)}, "no output 'Y'; did you mean 'y'"),
        ({"x": rows(1)}, {"y": np.empty((1, 3))}, "output 'y' must be float32, got float64"),
        ({"x": rows(1)}, {"y": np.empty(3, np.float32)}, r"output 'y' must have 2 axes, \(batch, 3\), got 1"),
        ({"x": rows(1)}, {"y": np.empty((1, 4), np.float32)}, r"output 'y' must have size 3 on axis 1"),
        ({"x": rows(1)}, {"y": np.empty((3, 1), np.float32).T}, None),
        ({"x": rows(2)}, {"y": np.empty((3, 2), np.float32).T}, r"C-contiguous, aligned and writable memory; use numpy.empty\(shape, 'fl"),
        ({"x": rows(1)}, {"y": [[1.0, 2.0, 3.0]]}, "output 'y' must be a numpy array of float32, got list"),
        ({"x": rows(1)}, [np.empty((1, 3))], "outputs must be a dict of arrays by output name, got list"),
        ([rows(1)], {"y": np.empty((1, 3))}, "feeds must be a dict of arrays by input name, got list"),
    ],
)
def test_what_does_not_fit(scale, feeds, outputs, words):
    if words is None:  # one row has the same layout either way
        scale.run_into(feeds, outputs)
        np.testing.assert_array_equal(outputs["y"], rows(1) * 2)
        return
    with pytest.raises(InputError, match=words) as caught:
        scale.run_into(feeds, outputs)
    assert "\n" not in str(caught.value)


def test_an_open_size_that_comes_out_otherwise(scale):
    x = rows(2)
    for shape in ((3, 3), (1, 3), (0, 3)):
        y = np.empty(shape, np.float32)
        with pytest.raises(InputError, match=r"cannot run on x float32 \(2, 3\) into y float32 \(\d, 3\)") as caught:
            scale.run_into({"x": x}, {"y": y})
        assert "onnxruntime_src" not in str(caught.value)
    y = np.empty((2, 3), np.float32)
    scale.run_into({"x": x}, {"y": y})
    np.testing.assert_array_equal(y, x * 2)


def test_memory_in_memory_is_refused(scale):
    x = rows(2)
    with pytest.raises(InputError, match="output 'y' lies in the memory of input 'x'"):
        scale.run_into({"x": x}, {"y": x})
    whole = np.empty((3, 3), np.float32)
    with pytest.raises(InputError, match="output 'y' lies in the memory of input 'x'"):
        scale.run_into({"x": whole[:2]}, {"y": whole[1:]})


def test_two_outputs_in_one_memory_are_refused(build_onnx):
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["x"], ["b"])]
    engine = engine_of(build_onnx, nodes, [("x", FLOAT, ["n"])], [("a", FLOAT, ["n"]), ("b", FLOAT, ["n"])])
    x, y = np.array([-1, 2], np.float32), np.empty(2, np.float32)
    with pytest.raises(InputError, match="output 'b' lies in the memory of output 'a'"):
        engine.run_into({"x": x}, {"a": y, "b": y})
    engine.run_into({"x": x}, {"b": y})
    assert y.tolist() == [1, 2]


def test_inputs_and_constants_that_are_outputs(build_onnx):
    """ONNX Runtime leaves the array of an output that is an input as it was: it is written here."""
    constant = helper.make_tensor("c", FLOAT, [2], [3.0, 4.0])
    engine = engine_of(
        build_onnx,
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", FLOAT, ["n"])],
        [("y", FLOAT, ["n"]), ("x", FLOAT, ["n"]), ("c", FLOAT, [2])],
        [constant],
    )
    x, y, same, c = np.array([1, 2], np.float32), np.empty(2, np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    for step in (1, 5):
        x[:] = step
        engine.run_into({"x": x}, {"y": y, "x": same, "c": c})
        assert (y.tolist(), same.tolist(), c.tolist()) == ([-step] * 2, [step] * 2, [3, 4])
    same[:] = 0
    engine.run_into({"x": x}, {"x": same})  # nothing is left to run
    assert same.tolist() == [5, 5]
    with pytest.raises(InputError, match=r"output 'x' is the input of that name, float32 \(2,\); got float32 \(3,\)"):
        engine.run_into({"x": x}, {"x": np.zeros(3, np.float32)})


@pytest.mark.parametrize(("element", "dtype"), [(STRING, "str"), (TensorProto.BFLOAT16, "bfloat16")])
def test_what_has_no_memory_to_bind(build_onnx, element, dtype):
    engine = engine_of(build_onnx, [helper.make_node("Identity", ["x"], ["y"])], [("x", element, ["n"])], [("y", element, ["n"])])
    x = np.array(["a"]) if dtype == "str" else np.ones(1, ml_dtypes.bfloat16)
    with pytest.raises(InputError, match=f"input 'x' is {dtype}, which (has no memory to bind|ONNX Runtime takes from no numpy)"):
        engine.run_into({"x": x}, {"y": x.copy()})


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "uint64", "float16", "float64"])
def test_dtypes(build_onnx, dtype):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    engine = engine_of(build_onnx, [helper.make_node("Identity", ["x"], ["y"])], [("x", element, ["n"])], [("y", element, ["n"])])
    y = np.empty(2, dtype)
    engine.run_into({"x": np.array([0, 1], dtype)}, {"y": y})
    assert y.tolist() == [0, 1]


def test_threads_have_bindings_of_their_own(build_onnx):
    engine = engine_of(build_onnx, [helper.make_node("MatMul", ["x", "x"], ["y"])], [("x", FLOAT, ["n", "n"])], [("y", FLOAT, ["n", "n"])])

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        size = 3 + seed
        x, y = np.empty((size, size), np.float32), np.empty((size, size), np.float32)
        for _ in range(30):
            x[:] = rng.integers(-3, 4, x.shape)  # small whole numbers: exact in any order
            engine.run_into({"x": x}, {"y": y})
            if not np.array_equal(y, x @ x):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


def test_memory_is_kept_for_a_few_sets_only_and_freed_by_close(scale):
    """Of a thread that takes new arrays each time, and of one that has ended."""
    alive: list[weakref.ref] = []

    def once() -> None:
        x, y = rows(4), np.empty((4, 3), np.float32)
        alive.extend([weakref.ref(x), weakref.ref(y)])
        scale.run_into({"x": x}, {"y": y})

    for _ in range(10):
        once()
    gc.collect()
    assert sum(each() is not None for each in alive) == 2 * KEPT
    thread = threading.Thread(target=once)
    thread.start()
    thread.join()
    gc.collect()
    assert sum(each() is not None for each in alive) == 2 * KEPT
    scale.close()
    gc.collect()
    assert [each() for each in alive if each() is not None] == []
    with pytest.raises(InputError, match="the model is closed"):
        scale.run_into({"x": rows(1)}, {"y": rows(1)})


def test_an_engine_is_closed_while_others_run(build_onnx):
    """Runs under way end with the right answer; later ones say that it is closed. Nothing else, and no crash."""
    engine = engine_of(build_onnx, [helper.make_node("MatMul", ["x", "x"], ["y"])], [("x", FLOAT, [200, 200])], [("y", FLOAT, [200, 200])])
    x = np.full((200, 200), 1, np.float32)
    started = threading.Barrier(5)

    def work(into: bool) -> tuple[int, str]:
        y = np.empty((200, 200), np.float32)
        started.wait()
        for count in range(100_000):
            y[:] = 0
            try:
                if into:
                    engine.run_into({"x": x}, {"y": y})
                else:
                    y = engine.run({"x": x})["y"]
            except InputError as error:
                return count, str(error)
            if not (y == 200).all():
                return -1, "wrong"
        return -1, "never closed"

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, into) for into in (True, True, False, False)]
        started.wait()
        threading.Event().wait(0.2)
        engine.close()
        for future in futures:
            count, words = future.result()
            assert count >= 0
            assert words == "the model is closed; open it again with Engine(...)"


def test_empty_arrays_are_of_any_shape_and_dtype(scale):
    x, y = scale.empty((2, 3), np.float32), scale.empty([2, 3], "float32")
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((2, 3), np.float32, (2, 3), np.float32)
    x[:] = rows(2)
    scale.run_into({"x": x}, {"y": y})
    np.testing.assert_array_equal(y, rows(2) * 2)
    assert scale.empty((0, 3), np.float32).size == 0


@pytest.mark.skipif(nvidia.cuda_devices() > 0, reason="there is a GPU here")
def test_page_locked_memory_without_a_gpu_is_a_device_error():
    with pytest.raises(DeviceError, match="page-locked memory needs an NVIDIA driver with a usable GPU"):
        pinned_like(np.zeros(3))
    gc.collect()  # what was half made lets go of nothing
