"""One thread for tiny recurrent models, all there are for the rest."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.zoo import find_model, zoo_names
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.machine import cpu

FLOAT = TensorProto.FLOAT


def recurrent(build_onnx, operator: str, width: int, extra: str | None = None) -> bytes:
    gates = {"LSTM": 4, "GRU": 3}[operator]
    weights = [numpy_helper.from_array(np.zeros((1, gates * width, size), np.float32), name) for name, size in (("W", 3), ("R", width))]
    nodes = [helper.make_node(operator, ["x", "W", "R"], ["", "h"], hidden_size=width)]
    inputs, outputs = [("x", FLOAT, ["t", "b", 3])], [("h", FLOAT, [1, "b", width])]
    if extra:
        nodes.append(helper.make_node(extra, ["p", "k"], ["q"]))
        weights.append(numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "k"))
        inputs.append(("p", FLOAT, ["n", 1, "y", "z"]))
        outputs.append(("q", FLOAT, None))
    return build_onnx(nodes, inputs, outputs, weights).SerializeToString()


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch):
    monkeypatch.setattr(cpu, "default_threads", lambda: 5)


@pytest.mark.parametrize(
    ("operator", "width", "extra", "threads"),
    [
        ("LSTM", 64, None, 1),
        ("LSTM", 600, None, 5),
        ("GRU", 128, None, 1),
        ("GRU", 400, None, 1),  # 1.9 MB: a GRU's limit is higher
        ("GRU", 700, None, 5),
        ("LSTM", 64, "Conv", 5),
    ],
)
def test_tiny_recurrent_models_get_one(build_onnx, operator, width, extra, threads):
    model = recurrent(build_onnx, operator, width, extra)
    engine = Engine(model, device="cpu")
    assert engine.threads == threads == engine._session.get_session_options().intra_op_num_threads
    assert Engine(model, device="cpu", threads=3).threads == 3  # who says a number gets it


@pytest.mark.parametrize("name", zoo_names())
def test_shipped_models_get_all_but_the_small_recurrent_ones(name):
    """Convolutions, and an LSTM of 2 x 512, which two threads run faster."""
    small = name in ("dates", "sentiment-en", "sentiment-zh")
    assert Engine(find_model(name), device="cpu").threads == (1 if small else 5)


def test_threads_spin_but_a_short_while_after_a_run(scale_model, monkeypatch):
    """What it does is tested with the engine; here that it is asked for, and that the spinning within a run is left on."""
    options = Engine(scale_model, device="cpu")._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "1000"
    monkeypatch.setattr(ort, "SHORT_SPIN_SINCE", (99, 0))  # an older ONNX Runtime, which does not know it
    older = Engine(scale_model, device="cpu")._session.get_session_options()
    assert older.get_session_config_entry("session.force_spinning_stop") == "1"
    with pytest.raises(RuntimeError):
        older.get_session_config_entry("session.intra_op.spin_duration_us")
    with pytest.raises(RuntimeError):  # not set: ONNX Runtime's default, which is on
        options.get_session_config_entry("session.intra_op.allow_spinning")
