"""The engine: what it checks, what it refuses, where it runs, and that it stands out of the way."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.artifact.zoo import find_model, zoo_names
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine, TensorSpec
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError, MissingExtraError, UntrustedModelError, install_command
from onnxferry.runtime.machine import cpu, nvidia
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.model import Model

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


@pytest.fixture
def scale(scale_model) -> Engine:
    return Engine(scale_model, device="cpu")


def rows(n: int) -> np.ndarray:
    return np.arange(3 * n, dtype=np.float32).reshape(n, 3)


def unary(build_onnx, operator: str, element: int = FLOAT, shape: list | None = None, **attributes) -> bytes:
    """``y = operator(x)``"""
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    return build_onnx([node], [("x", element, shape)], [("y", element, None)]).SerializeToString()


# What it says of a model


def test_describes_the_model(scale, scale_model, tmp_path):
    assert scale.inputs == (TensorSpec("x", "float32", ("batch", 3)),)
    assert scale.optional_inputs == (TensorSpec("factor", "float32", ()),)
    assert scale.outputs == (TensorSpec("y", "float32", ("batch", 3)),)
    assert (scale.path, scale.device, scale.providers, scale.metadata, scale.contract) == (None, "cpu", (ort.CPU,), {}, None)
    assert repr(scale).startswith("Engine(the model, device='cpu', threads=")
    assert "x: float32 (batch, 3)" in repr(scale)
    path = tmp_path / "scale.onnx"
    path.write_bytes(scale_model)
    for given in (path, str(path)):
        with Engine(given) as engine:
            assert engine.path == path
            np.testing.assert_array_equal(engine.run({"x": rows(1)})["y"], [[0, 2, 4]])


def test_tells_a_scalar_from_a_tensor_of_any_rank(build_onnx):
    """ONNX Runtime reports the shape () for both."""
    model = build_onnx(
        [helper.make_node("Identity", ["any"], ["a"]), helper.make_node("Identity", ["scalar"], ["s"])],
        [("any", FLOAT, None), ("scalar", FLOAT, [])],
        [("a", FLOAT, None), ("s", FLOAT, [])],
    )
    engine = Engine(model.SerializeToString(), device="cpu")
    assert [spec.ranked for spec in (*engine.inputs, *engine.outputs)] == [False, True, False, True]
    out = engine.run({"any": np.ones((2, 1, 2), np.float32), "scalar": np.array(3, np.float32)})
    assert (out["a"].shape, out["s"].shape) == ((2, 1, 2), ())
    with pytest.raises(InputError, match=r"'scalar' must have 0 axes, \(\), got 1: \(1,\)"):
        engine.run({"any": np.ones(1, np.float32), "scalar": np.ones(1, np.float32)})


def test_reads_metadata_and_contract(build_onnx):
    contract = Contract(kind="model", name="relu", labels=("a", "b"))
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [("x", FLOAT, [1])], [("y", FLOAT, [1])]
    engine = Engine(build_onnx([node], *values, metadata=metadata_from_contract(contract)).SerializeToString(), device="cpu")
    assert engine.contract is not None
    assert (engine.contract.name, engine.contract.labels, engine.metadata["task"]) == ("relu", ("a", "b"), "model")
    newer = metadata_from_contract(contract) | {"onnxferry.schema": "99"}
    with pytest.raises(ArtifactError, match="the model: the file's contract has schema 99"):
        Engine(build_onnx([node], *values, metadata=newer).SerializeToString(), device="cpu")


# Running


def test_runs(scale):
    np.testing.assert_array_equal(scale.run({"x": rows(2)})["y"], rows(2) * 2)
    np.testing.assert_array_equal(scale.run({"x": rows(2), "factor": np.array(5, np.float32)})["y"], rows(2) * 5)
    np.testing.assert_array_equal(scale.run({"x": rows(2), "factor": np.float32(5)})["y"], rows(2) * 5)
    assert scale.run(MappingProxyType({"x": rows(0)}))["y"].shape == (0, 3)


def test_gives_the_outputs_that_are_asked_for(build_onnx):
    model = build_onnx(
        [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])],
        [("x", FLOAT, ["n"])],
        [("minus", FLOAT, ["n"]), ("size", FLOAT, ["n"])],
    )
    engine = Engine(model.SerializeToString(), device="cpu")
    x = np.array([-1, 2], np.float32)
    assert list(engine.run({"x": x})) == ["minus", "size"]
    (size,) = engine.run({"x": x}, ["size"]).items()
    assert size[0] == "size"
    np.testing.assert_array_equal(size[1], [1, 2])
    with pytest.raises(InputError, match="no output 'sise'; did you mean 'size'"):
        engine.run({"x": x}, ["sise"])
    for wrong in ("size", []):
        with pytest.raises(InputError, match="outputs must be a list of names"):
            engine.run({"x": x}, wrong)


def test_right_arrays_reach_onnxruntime_as_they_are(scale, monkeypatch):
    """No copy, no conversion: the very object. One that is not contiguous is copied, and nothing else with it."""
    seen: list[dict] = []

    class Spy:
        def run(self, names, feeds, options=None):
            seen.append(feeds)
            return [feeds["x"]]

    monkeypatch.setattr(scale, "_call", Spy().run)
    x, factor = rows(2), np.array(1, np.float32)
    feeds = {"x": x, "factor": factor}
    scale.run(feeds)
    assert seen[0]["x"] is x
    assert seen[0]["factor"] is factor
    across = np.asfortranarray(x)
    feeds = {"x": across, "factor": factor}
    scale.run(feeds)
    assert seen[1]["x"].flags.c_contiguous
    assert seen[1]["factor"] is factor
    assert feeds["x"] is across  # the caller's dict is the caller's


def test_arrays_in_any_memory_layout_give_the_same(scale, tmp_path):
    x = rows(4)
    wide = np.zeros((4, 6), np.float32)
    wide[:, ::2] = x
    mapped = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=(4, 3))
    mapped[:] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    for same in (np.asfortranarray(x), wide[:, ::2], x[::-1][::-1], mapped, fixed, x.view(np.matrix)):
        np.testing.assert_array_equal(scale.run({"x": same})["y"], x * 2)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, r"input 'x' is missing; expected x: float32 \(batch, 3\)"),
        ({"factor": np.array(1, np.float32)}, "input 'x' is missing"),
        ({"x": rows(1), "facto": rows(1)}, "no input 'facto'; did you mean 'factor'"),
        ({"X": rows(1)}, "no input 'X'; did you mean 'x'"),
        ({"x": rows(1), "quite_different": rows(1)}, "no input 'quite_different'; it has 'x', 'factor'"),
        ({"x": rows(1), 3: rows(1)}, "no input 3"),
        ({"x": rows(1).astype(np.float64)}, r"'x' must be float32, got float64; use x.astype\('float32'\)"),
        ({"x": rows(1).astype(np.uint8)}, "'x' must be float32, got uint8"),
        ({"x": rows(1).astype(">f4")}, r"'x' must be float32, got float32 in foreign byte order \(>f4\)"),
        ({"x": np.array([["a"] * 3])}, "'x' must be float32, got str"),
        ({"x": rows(1)[0]}, r"'x' must have 2 axes, \(batch, 3\), got 1: \(3,\)"),
        ({"x": rows(1)[None]}, r"'x' must have 2 axes, \(batch, 3\), got 3: \(1, 1, 3\)"),
        ({"x": rows(1)[:, :2]}, r"'x' must have size 3 on axis 1, \(batch, 3\), got \(1, 2\)"),
        ({"x": rows(1), "factor": np.ones(1, np.float32)}, r"'factor' must have 0 axes, \(\), got 1"),
        ({"x": rows(1), "factor": 2.0}, r"'factor' must be a numpy array of float32, got float; use numpy.asarray\(factor, 'float32'\)"),
        ({"x": [[1.0, 2.0, 3.0]]}, "'x' must be a numpy array of float32, got list"),
        ({"x": None}, "'x' must be a numpy array of float32, got NoneType"),
        ([rows(1)], "feeds must be a dict of arrays by input name, got list"),
    ],
)
def test_feeds_that_do_not_fit(scale, feeds, words):
    with pytest.raises(InputError, match=words) as caught:
        scale.run(feeds)
    assert "\n" not in str(caught.value)


def test_a_model_without_inputs(build_onnx):
    constant = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    engine = Engine(build_onnx([constant], [], [("y", FLOAT, [2])]).SerializeToString(), device="cpu")
    np.testing.assert_array_equal(engine.run({})["y"], [1, 2])
    with pytest.raises(InputError, match="no input 'x'; it has none"):
        engine.run({"x": rows(1)})


def test_text(build_onnx):
    engine = Engine(unary(build_onnx, "Identity", STRING, ["n"]), device="cpu")
    assert engine.inputs == (TensorSpec("x", "str", ("n",)),)
    for texts in (np.array(["a", "bcd"]), np.array(["a", "bcd"], object)):
        assert engine.run({"x": texts})["y"].tolist() == ["a", "bcd"]
    for wrong in (np.array([b"a"]), np.array(["a", 3], object), np.array([1.0])):
        with pytest.raises(InputError, match="'x' must be str, got"):
            engine.run({"x": wrong})


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "uint64", "float16", "float64"])
def test_dtypes(build_onnx, dtype):
    engine = Engine(unary(build_onnx, "Identity", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["n"]), device="cpu")
    out = engine.run({"x": np.array([0, 1], dtype)})["y"]
    assert (out.dtype.name, out.tolist()) == (dtype, [0, 1])


def test_a_dtype_that_numpy_does_not_know(build_onnx):
    """ONNX Runtime takes no bfloat16 from numpy, also where ml_dtypes has taught numpy the type: the way that works is named."""
    engine = Engine(unary(build_onnx, "Identity", TensorProto.BFLOAT16, ["n"]), device="cpu")
    assert engine.inputs[0].dtype == "bfloat16"
    for x in (np.ones(1, np.float32), np.ones(2, ml_dtypes.bfloat16)):
        with pytest.raises(InputError, match=r"'x' is bfloat16, which ONNX Runtime takes from no numpy array, got .*; give run_dlpack\(\)"):
            engine.run({"x": x})


def test_what_is_no_tensor_goes_through(build_onnx):
    """A sequence of tensors, as lists; ONNX Runtime checks those itself."""
    model = build_onnx([helper.make_node("SequenceAt", ["xs", "i"], ["y"])], [("i", INT64, [])], [("y", FLOAT, None)])
    model.graph.input.append(
        helper.make_value_info("xs", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))),
    )
    engine = Engine(model.SerializeToString(), device="cpu")
    assert engine.inputs[1] == TensorSpec("xs", "seq(tensor(float))", (), ranked=False)
    out = engine.run({"xs": [rows(1), rows(2)], "i": np.array(1)})
    np.testing.assert_array_equal(out["y"], rows(2))
    with pytest.raises(InputError, match="cannot run on xs list, i int64"):
        engine.run({"xs": [rows(1)], "i": np.array(7)})


def test_what_onnxruntime_refuses_is_said_in_words(build_onnx, capfd):
    model = build_onnx(
        [helper.make_node("Gather", ["x", "i"], ["y"], name="look_up")],
        [("x", FLOAT, ["n"]), ("i", INT64, ["k"])],
        [("y", FLOAT, ["k"])],
    )
    engine = Engine(model.SerializeToString(), device="cpu")
    with pytest.raises(InputError) as caught:
        engine.run({"x": np.ones(3, np.float32), "i": np.array([7])})
    message = str(caught.value)
    assert message.startswith(
        "the model cannot run on x float32 (3,), i int64 (1,): node look_up (Gather): indices element out of data bounds"
    )
    assert "ONNXRuntimeError" not in message
    assert "onnxruntime_src" not in message
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")  # it is raised, not also printed


def test_an_empty_input_that_a_model_cannot_take(build_onnx):
    engine = Engine(unary(build_onnx, "GlobalMaxPool", shape=["n", 3, "h", "w"]), device="cpu")
    assert engine.run({"x": np.ones((0, 3, 2, 2), np.float32)})["y"].shape == (0, 3, 1, 1)
    with pytest.raises(InputError, match=r"cannot run on x float32 \(1, 3, 0, 2\) \(empty\): node"):
        engine.run({"x": np.ones((1, 3, 0, 2), np.float32)})


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_an_empty_batch_that_would_end_the_process(build_onnx, operator):
    """ONNX Runtime's kernels call std::terminate for it, which no ``except`` stops."""
    gates = {"LSTM": 4, "GRU": 3}[operator]
    weights = [numpy_helper.from_array(np.ones((1, gates * 4, size), np.float32), name) for name, size in (("W", 3), ("R", 4))]
    node = helper.make_node(operator, ["x", "W", "R"], ["", "y"], hidden_size=4)
    model = build_onnx([node], [("x", FLOAT, ["steps", "batch", 3])], [("y", FLOAT, [1, "batch", 4])], weights)
    engine = Engine(model.SerializeToString(), device="cpu")
    assert engine.run({"x": np.ones((2, 5, 3), np.float32)})["y"].shape == (1, 5, 4)
    for shape in ((2, 0, 3), (0, 5, 3)):
        with pytest.raises(InputError, match=r"input 'x' must not be empty, got .*end the whole process on an empty batch"):
            engine.run({"x": np.ones(shape, np.float32)})
        with pytest.raises(InputError, match="input 'x' must not be empty"):
            engine.run_into({"x": np.ones(shape, np.float32)}, {"y": np.empty((1, 5, 4), np.float32)})


@pytest.mark.parametrize("name", zoo_names())
def test_an_empty_batch_of_each_shipped_model(name):
    """Gives empty answers, or a message where it cannot; and no step at all is fine where there is a batch."""
    with Engine(find_model(name), device="cpu") as engine:
        shapes = {
            spec.name: [0 if axis == 0 else size if isinstance(size, int) else 3 for axis, size in enumerate(spec.shape)]
            for spec in engine.inputs
        }
        feeds = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in engine.inputs}
        if name == "digit-scenes":  # its outputs have a row for each object
            with pytest.raises(InputError, match=r"cannot run on .*image uint8 \(0, 3, 3, 1\)"):
                engine.run(feeds)
            assert engine.run({"image": np.zeros((1, 3, 3, 1), np.uint8)})["boxes"].shape == (0, 4)
        elif name in ("dates", "sentiment-en", "sentiment-zh"):
            with pytest.raises(InputError, match=r"input 'text' must not be empty, got \(0, 3\)"):
                engine.run(feeds)
        elif name == "shakespeare":
            with pytest.raises(InputError, match=r"input 'prompt' must not be empty, got \(0, 3\)"):
                engine.run(feeds)
            outputs = engine.run({"prompt": np.zeros((1, 0), np.uint8), "uniforms": np.zeros((1, 2), np.float32)})
            assert outputs["bytes"].shape == (1, 2)
        else:
            assert {output.shape[0] for output in engine.run(feeds).values()} == {0}


def test_a_closed_engine(scale):
    scale.close()
    scale.close()
    assert "closed" in repr(scale)
    with pytest.raises(InputError, match="the model is closed"):
        scale.run({"x": rows(1)})
    with Engine(ort.ONE_NODE_MODEL, device="cpu") as engine:
        assert engine.run({"x": np.ones(1, np.float32)})["y"].tolist() == [1]
    with pytest.raises(InputError, match="closed"):
        engine.run({"x": np.ones(1, np.float32)})


def test_many_threads_share_one_engine(build_onnx):
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    engine = Engine(build_onnx([node], [("x", FLOAT, ["n", "n"])], [("y", FLOAT, None)]).SerializeToString(), device="cpu")

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            size = int(rng.integers(1, 40))
            x = rng.integers(-3, 4, (size, size)).astype(np.float32)  # small whole numbers: exact in any order
            if not np.array_equal(engine.run({"x": x})["y"], x @ x):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(32)))


# Opening


def test_paths_and_arguments_that_make_no_sense(scale_model, tmp_path):
    with pytest.raises(ArtifactError, match="there is no file"):
        Engine(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="by its path or from bytes, got int"):
        Engine(3)
    with pytest.raises(InputError, match="device must be 'auto', 'cpu' or 'cuda', got 'gpu'"):
        Engine(scale_model, device="gpu")
    for threads in (0, -1, 1025, 1.5, "2", True):
        with pytest.raises(InputError, match="threads must be a whole number from 1 to 1024"):
            Engine(scale_model, threads=threads)


def test_more_threads_than_can_be_started_are_refused(scale_model, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "startable_threads", lambda: 2)
    with pytest.raises(InputError, match="threads=4 needs 3 more threads, and this process can start 2"):
        Engine(scale_model, threads=4)
    with Engine(scale_model, threads=3) as engine:
        assert engine.threads == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ir_version": 99}, r"cannot load the model: IR version 99 is newer than the \d+ it reads; pip install -U onnxruntime"),
        ({"opset": 99}, r"cannot load the model: opset 99 is newer than the \d+ it reads; pip install -U onnxruntime"),
    ],
)
def test_files_that_are_too_new(build_onnx, changes, words, capfd):
    model = build_onnx([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, [1])], [("y", FLOAT, [1])], **changes)
    with pytest.raises(ArtifactError, match=words):
        Engine(model.SerializeToString(), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_graphs_that_onnxruntime_refuses(build_onnx, tmp_path, capfd):
    path = tmp_path / "m.onnx"
    for node, words in (
        (helper.make_node("NoSuchOperator", ["x"], ["y"]), "No Op registered for NoSuchOperator"),
        (helper.make_node("Add", ["x", "nowhere"], ["y"]), "input 'nowhere' is not a graph input"),
    ):
        path.write_bytes(build_onnx([node], [("x", FLOAT, [1])], [("y", FLOAT, [1])]).SerializeToString())
        with pytest.raises(ArtifactError, match=words) as caught:
            Engine(path, device="cpu")
        assert str(caught.value).startswith(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: ")
        assert "onnxruntime_src" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_reads_every_file_before_onnxruntime_does(build_onnx, scale_model, monkeypatch):
    monkeypatch.setattr(ort, "open_session", lambda *_: pytest.fail("ONNX Runtime saw the file"))
    evil = build_onnx([helper.make_node("Evil", ["x"], ["y"], domain="my.ops")], [("x", FLOAT, [1])], [("y", FLOAT, [1])])
    with pytest.raises(UntrustedModelError, match="custom operator"):
        Engine(evil.SerializeToString(), device="cpu")
    with pytest.raises(UntrustedModelError, match="nodes 1, allowed 0"):
        Engine(scale_model, device="cpu", limits=Limits(nodes=0))


def test_weights_beside_the_file(build_onnx, tmp_path):
    weight = onnx.TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "offset": "4", "length": "12"}.items():
        weight.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(np.array([9, 1, 2, 3], np.float32).tobytes())
    model = build_onnx([helper.make_node("Mul", ["x", "w"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])], [weight])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        np.testing.assert_array_equal(engine.run({"x": np.ones((1, 3), np.float32)})["y"], [[1, 2, 3]])


def test_a_file_named_ort_is_loaded_as_the_onnx_it_was_read_as(tmp_path):
    """ONNX Runtime chooses its reader by the name: a file that was looked at as ONNX must be loaded as ONNX."""
    path = tmp_path / "m.ort"
    path.write_bytes(ort.ONE_NODE_MODEL)
    assert Engine(path, device="cpu").run({"x": np.full(1, 3, np.float32)})["y"].tolist() == [9]


def test_the_file_sets_no_session_options(build_onnx, monkeypatch):
    config = json.dumps({"session_options": {"intra_op_num_threads": 7, "inter_op_num_threads": 5, "enable_profiling": 0}})
    node = helper.make_node("Relu", ["x"], ["y"])
    data = build_onnx([node], [("x", FLOAT, [1])], [("y", FLOAT, [1])], metadata={"ort_config": config}).SerializeToString()
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    bare = onnxruntime.InferenceSession(data, providers=[ort.CPU])
    assert bare.get_session_options().intra_op_num_threads == 7  # so it is dangerous
    options = Engine(data, device="cpu", threads=2)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert os.environ["ORT_LOAD_CONFIG_FROM_MODEL"] == "1"  # the app's environment is the app's


def test_threads(scale_model, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    engine = Engine(scale_model, device="cpu")
    assert engine.threads == cpu.available_cpus()
    for threads in (1, 3, np.int64(2)):
        engine = Engine(scale_model, device="cpu", threads=threads)
        assert engine.threads == threads == engine._session.get_session_options().intra_op_num_threads


@pytest.mark.parametrize(
    ("level", "ours"),
    [("off", "ORT_DISABLE_ALL"), ("basic", "ORT_ENABLE_BASIC"), ("extended", "ORT_ENABLE_EXTENDED"), ("all", "ORT_ENABLE_ALL")],
)
def test_graph_levels(scale_model, level, ours):
    engine = Engine(scale_model, device="cpu", graph_level=level)
    assert engine.graph_level == level
    assert engine._session.get_session_options().graph_optimization_level == getattr(onnxruntime.GraphOptimizationLevel, ours)
    np.testing.assert_array_equal(engine.run({"x": rows(2)})["y"], rows(2) * 2)


@pytest.mark.parametrize("level", ["ALL", "", 99, None, ["all"]])
def test_a_graph_level_that_does_not_exist(scale_model, level):
    with pytest.raises(InputError, match="graph_level must be one of 'off', 'basic', 'extended', 'all', got"):
        Engine(scale_model, device="cpu", graph_level=level)


def test_sizes_that_are_fixed(build_onnx):
    node = helper.make_node("Add", ["x", "x"], ["y"])
    content = build_onnx([node], [("x", FLOAT, ["batch", "n"])], [("y", FLOAT, ["batch", "n"])]).SerializeToString()
    engine = Engine(content, device="cpu", sizes={"batch": 2})
    assert [spec.shape for spec in (*engine.inputs, *engine.outputs)] == [(2, "n"), (2, "n")]
    np.testing.assert_array_equal(engine.run({"x": np.ones((2, 5), np.float32)})["y"], np.full((2, 5), 2))
    with pytest.raises(InputError, match=r"input 'x' must have size 2 on axis 0, \(2, n\), got \(3, 5\)"):
        engine.run({"x": np.ones((3, 5), np.float32)})
    assert Engine(content, device="cpu", sizes={}).inputs[0].shape == ("batch", "n")
    for sizes, words in (
        ({"bach": 2}, "the model has no open axis 'bach'; did you mean 'batch'?"),
        ({"batch": 0}, "the size of 'batch' must be a whole number >= 1, got 0"),
        ({"n": 2.5}, "the size of 'n' must be a whole number >= 1, got 2.5"),
        ([("n", 2)], "sizes must be a dict of whole numbers by axis name, got list"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            Engine(content, device="cpu", sizes=sizes)


def test_pool_threads_do_not_go_on_spinning_after_a_run(build_onnx):
    """ONNX Runtime's default spins for tens of milliseconds after every run; counted in CPU time, other processes do not matter."""
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    engine = Engine(build_onnx([node], [("x", FLOAT, [512, 512])], [("y", FLOAT, None)]).SerializeToString(), device="cpu", threads=2)
    x = np.ones((512, 512), np.float32)
    for _ in range(3):
        engine.run({"x": x})
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.02


# Where it runs


def test_providers_by_short_and_full_name(scale_model):
    for providers in (["cpu"], ["CPU"], ["CPUExecutionProvider"], [("cpu", {})], ("cpu",)):
        engine = Engine(scale_model, providers=providers)
        assert (engine.device, engine.providers, engine.device_reason) == ("cpu", (ort.CPU,), "as asked for")


@pytest.mark.parametrize("providers", ["cpu", [], [3], [("cpu",)], [("cpu", "x")]])
def test_what_is_no_list_of_providers(scale_model, providers):
    with pytest.raises(InputError, match="provider"):
        Engine(scale_model, providers=providers)


def test_a_provider_that_is_not_installed(scale_model):
    with pytest.raises(DeviceError, match=r"'openvinoo' is not in the installed ONNX Runtime, which offers: .*cpu"):
        Engine(scale_model, providers=["openvinoo"])


@pytest.mark.parametrize("name", ["tensorrt", "openvino", "coreml", "NvTensorRTRTXExecutionProvider"])
def test_other_providers_come_up_or_say_why_not(scale_model, name):
    """None is skipped silently: it runs there, or the message names what is missing."""
    try:
        engine = Engine(scale_model, providers=[name, "cpu"])
    except DeviceError as error:
        assert re.search("is not in the installed ONNX Runtime, which offers: .*cpu|cannot be used here: ", str(error))  # noqa: PT017
    else:
        assert engine.providers[0].lower().startswith(name.lower().removesuffix("executionprovider"))
        np.testing.assert_allclose(engine.run({"x": rows(2)})["y"], rows(2) * 2)


def test_device_and_providers_are_not_given_both(scale_model):
    with pytest.raises(InputError, match=r"either device='cpu' or providers=\[...\], not both"):
        Engine(scale_model, device="cpu", providers=["cpu"])


@pytest.fixture
def cuda_build(monkeypatch):
    """As if the wheel had CUDA, the machine a GPU and all libraries; what then fails is each test's."""
    module = ort.onnxruntime()
    monkeypatch.setattr(module, "get_available_providers", lambda: [ort.CUDA, ort.CPU])
    monkeypatch.setattr(nvidia, "cuda_devices", lambda: 1)
    monkeypatch.setattr(ort, "_library_problem", lambda: None)
    monkeypatch.setattr(ort, "_trial", lambda full: None)


def without_cuda_in_the_wheel(monkeypatch):
    monkeypatch.setattr(ort.onnxruntime(), "get_available_providers", lambda: [ort.CPU])


def without_a_gpu(monkeypatch):
    monkeypatch.setattr(nvidia, "cuda_devices", lambda: 0)


def without_libraries(monkeypatch):
    monkeypatch.setattr(ort, "_library_problem", lambda: "a library of CUDA 13 is missing (libcublasLt.so.13: …)")


def with_a_gpu_that_fails(monkeypatch):
    monkeypatch.setattr(ort, "_trial", lambda full: "a one-node model fails on 'cuda': no kernel image is available")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (without_cuda_in_the_wheel, r"has no CUDA provider; pip uninstall -y onnxruntime, then pip install .*\[gpu,cuda\]"),
        (without_a_gpu, "no NVIDIA driver with a usable GPU was found; run `nvidia-smi`"),
        (without_libraries, "a library of CUDA 13 is missing"),
        (with_a_gpu_that_fails, "no kernel image"),
    ],
)
def test_cuda_that_cannot_be_used(scale_model, cuda_build, monkeypatch, break_it, words, capfd):
    break_it(monkeypatch)
    with pytest.raises(DeviceError, match=f"device='cuda' cannot be used here: .*{words}"):
        Engine(scale_model, device="cuda")
    if break_it is not without_cuda_in_the_wheel:
        with pytest.raises(DeviceError, match=f"the provider 'cuda' cannot be used here: .*{words}"):
            Engine(scale_model, providers=["cuda", "cpu"])
    engine = Engine(scale_model, device="auto")
    assert engine.device == "cpu"
    assert engine.device_reason.startswith("CUDA cannot be used: ")
    assert capfd.readouterr() == ("", "")


class FakeSession:
    """An InferenceSession that keeps what it was given, and comes up on the providers it likes."""

    def __init__(self, model, options, *, active, providers, provider_options, **rest):
        self.given = dict(zip(providers, provider_options, strict=True))
        self.rest = rest
        self.active = active

    def disable_fallback(self): ...

    def run(self, names, feeds, options=None): ...

    def get_providers(self):
        return self.active

    def get_inputs(self):
        return []

    get_outputs = get_overridable_initializers = get_provider_graph_assignment_info = get_inputs

    def get_provider_options(self):
        return {ort.CUDA: {"device_id": "0"}}


def test_a_silent_fallback_of_onnxruntime_is_an_error(scale_model, cuda_build, monkeypatch):
    """A session that came up without the provider it was asked for, as ONNX Runtime's do with a line in the log."""
    real = ort.onnxruntime().InferenceSession

    def session(model, options, *, providers, **rest):
        return (
            real(model, options, providers=providers)
            if providers == [ort.CPU]
            else FakeSession(model, options, active=[ort.CPU], providers=providers, **rest)
        )

    monkeypatch.setattr(ort.onnxruntime(), "InferenceSession", session)
    with pytest.raises(DeviceError, match="the provider 'cuda' did not come up for the model, ONNX Runtime would run it on cpu instead"):
        Engine(scale_model, device="cuda")
    with pytest.raises(DeviceError, match="did not come up"):
        Engine(scale_model, providers=["cuda"])
    engine = Engine(scale_model, device="auto")
    assert engine.device == "cpu"
    assert "did not come up" in engine.device_reason


def test_cuda_that_comes_up(scale_model, cuda_build, monkeypatch):
    def session(model, options, **given):
        return FakeSession(model, options, active=[ort.CUDA, ort.CPU], **given)

    monkeypatch.setattr(ort.onnxruntime(), "InferenceSession", session)
    for arguments in ({"device": "cuda"}, {"device": "auto"}, {"providers": ["cuda", "cpu"]}):
        engine = Engine(scale_model, **arguments)
        assert (engine.device, engine.providers) == ("cuda", (ort.CUDA, ort.CPU))
        assert engine._session.given == {ort.CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}, ort.CPU: {}}
        assert engine._session.rest == {"enable_fallback": 0, "read_config_from_model": 0}
    options = {"device_id": 1, "use_tf32": "1"}
    engine = Engine(scale_model, providers=[("cuda", options)])
    assert engine._session.given[ort.CUDA] == {"use_tf32": "1", "cudnn_conv_algo_search": "HEURISTIC", "device_id": 1}
    assert options == {"device_id": 1, "use_tf32": "1"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h", "CUDA failure 2: out of memory"),
        (
            "Non-zero status code returned while running Expand node. Name:'' Status Message: "
            "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) "
            "Failed to allocate memory for requested buffer of size 17592186044416",
            r"node \(no name\) \(Expand\): Failed to allocate memory",
        ),
    ],
)
def test_a_gpu_that_fails_in_a_run(scale_model, cuda_build, monkeypatch, said, words):
    state = ort.onnxruntime().capi.onnxruntime_pybind11_state

    class Failing(FakeSession):
        def get_inputs(self):
            return []

        def run(self, names, feeds, options=None):
            raise state.Fail(f"[ONNXRuntimeError] : 1 : FAIL : {said}")

    monkeypatch.setattr(
        ort.onnxruntime(), "InferenceSession", lambda model, options, **given: Failing(model, options, active=[ort.CUDA, ort.CPU], **given)
    )
    with pytest.raises(DeviceError, match=f"the GPU failed while running the model: {words}.*try a smaller batch"):
        Engine(scale_model, device="cuda").run({})


def test_a_provider_problem_is_told_from_a_broken_file(build_onnx, cuda_build, monkeypatch):
    """What the CPU says too is the file's fault; what only the provider says is the provider's."""
    real, state = ort.onnxruntime().InferenceSession, ort.onnxruntime().capi.onnxruntime_pybind11_state

    def session(model, options, *, providers, **rest):
        if ort.CUDA in providers and b"Relu" in model:
            raise state.NotImplemented("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no such kernel")
        return real(model, options, providers=[ort.CPU])

    monkeypatch.setattr(ort.onnxruntime(), "InferenceSession", session)
    with pytest.raises(DeviceError, match="the provider 'cuda' cannot run the model: no such kernel"):
        Engine(unary(build_onnx, "Relu", shape=[1]), device="cuda")
    with pytest.raises(ArtifactError, match=r"cannot load the model: .*No Op registered for NoSuch"):
        Engine(unary(build_onnx, "NoSuch", shape=[1]), device="cuda")


@pytest.fixture
def libraries(monkeypatch):
    """The CUDA libraries that can be loaded, as a set to fill; ONNX Runtime's preload_dlls prints, as it does, what it misses."""
    present: set[str] = set()

    def load(name, **_):
        if name not in present:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ort.ctypes, "CDLL", load)
    monkeypatch.setattr(ort.sys, "platform", "linux")
    monkeypatch.setattr(ort.onnxruntime(), "preload_dlls", lambda: print("Failed to load libcublas"), raising=False)
    monkeypatch.setattr(ort.onnxruntime(), "cuda_version", "13.0", raising=False)
    ort._library_problem.cache_clear()
    yield present
    ort._library_problem.cache_clear()


def test_missing_cuda_libraries_are_named(libraries, capfd):
    words = ort._library_problem()
    assert words.startswith("a library of CUDA 13 is missing (libcudart.so.13: cannot open shared object file)")
    assert install_command("cuda") in words
    libraries |= {"libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13"}
    ort._library_problem.cache_clear()
    assert "libcurand.so.10" in ort._library_problem()  # ONNX Runtime would only log it
    libraries.add("libcurand.so.10")
    ort._library_problem.cache_clear()
    assert "libcudnn.so.9" in ort._library_problem()  # the provider loads without it, and fails at the first convolution
    libraries.add("libcudnn.so.9")
    ort._library_problem.cache_clear()
    assert ort._library_problem() is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(nvidia.cuda_devices() == 0, reason="no NVIDIA GPU here")
def test_on_a_gpu(build_onnx):
    assert ort.cuda_problem() is None
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    data = build_onnx([node], [("x", FLOAT, ["n", 3, "h", "w_"])], [("y", FLOAT, None)], [weight]).SerializeToString()
    engine = Engine(data, device="cuda")
    assert (engine.device, engine.providers[0]) == ("cuda", ort.CUDA)
    assert Engine(data, device="auto").device == "cuda"
    x = rng.standard_normal((2, 3, 9, 7)).astype(np.float32)
    np.testing.assert_allclose(engine.run({"x": x})["y"], Engine(data, device="cpu").run({"x": x})["y"], rtol=1e-4, atol=1e-5)


# The wheel


def test_without_onnxruntime(scale_model, monkeypatch):
    ort.onnxruntime.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    words = r"needs the package 'onnxruntime', .*pip install .*\[cpu\]'? \(or \[gpu\] for NVIDIA GPUs\)"
    with pytest.raises(MissingExtraError, match=words):
        Engine(scale_model)
    ort.onnxruntime.cache_clear()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "only half installed"),
        ("import not_there", "cannot be imported .*not_there"),
        ("raise OSError('DLL')", "cannot be imported .*DLL"),
    ],
)
def test_a_broken_onnxruntime(tmp_path, body, words):
    (tmp_path / "onnxruntime.py").write_text(body)
    code = (
        "from onnxferry.runtime import errors\nfrom onnxferry.runtime.engine import ort\n"
        "try: ort.onnxruntime()\nexcept errors.DeviceError as e: print(e)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in done.stdout
    assert re.search(words, done.stdout)


def test_importing_the_engine_imports_no_onnxruntime():
    heavy = {"onnxruntime", "torch", "onnx", "PIL", "rich", "typer"}
    code = f"import sys, onnxferry.runtime.engine.engine; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_node_model_is_what_it_says():
    model = onnx.load_from_string(ort.ONE_NODE_MODEL)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    assert ort.provider_problem("cpu") is None


def test_provider_problem_names_what_comes_out_wrong(monkeypatch):
    ort._trial.cache_clear()

    class Wrong(FakeSession):
        def run(self, names, feeds, options=None):
            return [np.zeros(1, np.float32)]

    monkeypatch.setattr(
        ort.onnxruntime(), "InferenceSession", lambda model, options, **given: Wrong(model, options, active=[ort.CPU], **given)
    )
    assert ort.provider_problem("cpu") == "a one-node model gives 0.0 instead of 9 on 'cpu'"
    ort._trial.cache_clear()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:181 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&) Unsupported model IR version: 14",
            "Unsupported model IR version: 14",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Add node. Name:'sum' Status Message: "
            "C:\\a\\_work\\1\\s\\onnxruntime\\core\\x.h:10 void onnxruntime::F::G(const T&) const [with T = std::function<void(int)>] "
            "axis == 1 was false.",
            "node sum (Add): axis == 1 was false",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Div node. Name:'' Status Message: "
            "element_wise_ops.cc:692 Compute Integer division by zero",
            "node (no name) (Div): Integer division by zero",
        ),
        ("plain\nwords\x1b[31m", "plain words [31m"),
        ("", "ValueError"),
    ],
)
def test_words(raw, words):
    assert ort.message_of(ValueError(raw)) == words


def test_words_are_bounded_in_length_and_time():
    started = time.monotonic()
    assert len(ort.message_of(ValueError("/a" * 10**6))) <= 600
    assert time.monotonic() - started < 2
    assert ort.message_of(MemoryError()) == "out of memory"


def test_path_objects_are_kept(scale_model, tmp_path):
    (tmp_path / "m.onnx").write_bytes(scale_model)
    engine = Engine(os.fspath(tmp_path / "m.onnx"), device="cpu")
    assert isinstance(engine.path, Path)


def test_an_output_that_is_an_input_is_a_copy_of_it(monkeypatch):
    """ONNX Runtime 1.20 to 1.24 returns the caller's own memory for it, which is imitated here."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "through",
        [info("x", FLOAT, ["n"])],
        [info("x", FLOAT, ["n"]), info("y", FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    x = np.ones(3, np.float32)
    with Engine(model, device="cpu") as engine:
        real = engine._call

        def aliasing(names, feeds, options):
            return [feeds.get(name, array) for name, array in zip(names, real(names, feeds, options), strict=True)]

        monkeypatch.setattr(engine, "_call", aliasing)
        for outputs in (engine.run({"x": x}), engine.run({"x": x}, ["x"]), asyncio.run(engine.arun({"x": x}))):
            assert not np.shares_memory(outputs["x"], x)
            np.testing.assert_array_equal(outputs["x"], x)


def test_maps_and_sequences_are_lists_and_dicts(tmp_path):
    zipmap = helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    value = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, [])))
    graph = helper.make_graph(
        [zipmap], "classifier", [helper.make_tensor_value_info("p", FLOAT, ["n", 2])], [helper.make_value_info("z", value)]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "zipmap.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    with Engine(path, device="cpu") as engine:
        assert engine.outputs[0].dtype == "seq(map(string,tensor(float)))"
        (first, second) = engine.run({"p": np.array([[0.25, 0.75], [1, 0]], np.float32)})["z"]
        assert first == {"a": 0.25, "b": 0.75}
        assert second == {"a": 1, "b": 0}
    with load(path, isolated=True) as model, pytest.raises(InputError, match="output 'z' is a list, and only arrays of numbers leave"):
        model.run({"p": np.zeros((1, 2), np.float32)})


def test_a_missing_input_of_many_is_named_in_a_few_words(build_onnx):
    names = [f"x{i}" for i in range(500)]
    node = helper.make_node("Sum", names, ["y"])
    model = build_onnx([node], [(name, FLOAT, [1]) for name in names], [("y", FLOAT, None)]).SerializeToString()
    with Engine(model, device="cpu") as engine, pytest.raises(InputError, match=r"'x7' is missing; .* and 480 more") as caught:
        engine.run({name: np.zeros(1, np.float32) for name in names if name != "x7"})
    assert len(str(caught.value)) < 1000


def test_open_models_say_why_they_do_not_pickle(scale):
    for opened, words in [(scale, r"Engine\(path\)"), (Model(scale), r"load\(path\) in each process")]:
        for copy in (pickle.dumps, deepcopy):
            with pytest.raises(InputError, match=words):
                copy(opened)


def test_bytes_of_other_kinds_open_too(scale_model):
    for data in (bytearray(scale_model), memoryview(scale_model)):
        with Engine(data, device="cpu") as engine:
            np.testing.assert_array_equal(engine.run({"x": rows(1)})["y"], [[0, 2, 4]])
    with pytest.raises(InputError, match=r"its name or path, got bytes; a file's bytes are opened with Engine\(data\)"):
        load(scale_model)


def test_a_view_larger_than_memory_is_one_clear_error(scale_model: Path) -> None:
    with (
        Engine(scale_model, device="cpu") as engine,
        pytest.raises(InputError, match=r"'x' of shape .* takes \d+ bytes, which there are not"),
    ):
        engine.run({"x": np.broadcast_to(np.zeros((1, 3), np.float32), (2**45, 3))})
