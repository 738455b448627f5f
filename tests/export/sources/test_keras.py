"""Keras models: on the torch backend, from memory and from .keras files, by their own names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports it
pytest.importorskip("keras", reason="keras is not installed: pip install 'onnxferry[keras]'")

import keras
import onnx
import torch
from keras import layers
from PIL import Image

from onnxferry.export import export_model
from onnxferry.export.pipeline.verify import verify_file
from onnxferry.runtime import load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError, InputError

# Keras 3.15 on numpy 2.3
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(0)


def classifier() -> Any:
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(layers.Flatten()(layers.MaxPooling2D()(x)))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def sequential() -> Any:
    return keras.Sequential([keras.Input((16,)), layers.Dense(8, activation="gelu"), layers.LayerNormalization(), layers.Dense(4)])


def attention() -> Any:
    x = keras.Input((None, 8), name="words")
    return keras.Model(x, layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(x, x) + x))


def two_of_each() -> Any:
    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    both = layers.Concatenate()([left, right])
    return keras.Model([left, right], [layers.Dense(3, name="kind")(both), layers.Dense(1, name="price")(both)])


def by_keys() -> Any:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model({"a": a, "b": b}, {"sum": a + b, "product": a * b})


def recurrent() -> Any:
    return keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(9, 4), layers.LSTM(5), layers.Dense(2)])


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (classifier, {"image": ("batch", 28, 28, 1)}, ["output"]),
        (sequential, {"input": ("batch", 16)}, ["output"]),
        (attention, {"words": ("batch", "words_dim1", 8)}, ["output"]),
        (two_of_each, {"left": ("batch", 4), "right": ("batch", 6)}, ["kind", "price"]),
        (by_keys, {"a": ("batch", 4), "b": ("batch", 4)}, ["product", "sum"]),
    ],
)
def test_models_keep_their_names_and_open_axes(
    tmp_path: Path, make: Callable[[], Any], inputs: dict[str, tuple[Any, ...]], outputs: list[str]
) -> None:
    model = make()
    report = export_model(model, None, tmp_path / "m.onnx")
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 4
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert {spec.name: spec.shape for spec in engine.inputs} == inputs
        assert [spec.name for spec in engine.outputs] == outputs
        feeds = {
            name: RNG.normal(size=[size if isinstance(size, int) else 7 for size in shape]).astype(np.float32)
            for name, shape in inputs.items()
        }
        found = engine.run(feeds)
    wanted = model(feeds if make is by_keys else [feeds[name] for name in inputs] if len(inputs) > 1 else next(iter(feeds.values())))
    wanted = [wanted[name] for name in outputs] if make is by_keys else wanted if len(outputs) > 1 else [wanted]
    for name, tensor in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_it_is_given_may_be_arrays_tensors_lists_and_dicts(tmp_path: Path) -> None:
    left, right = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 6))  # float64: Keras takes them as float32
    for given in ([left, right], (torch.from_numpy(left), torch.from_numpy(right)), {"left": left, "right": right}):
        assert export_model(two_of_each(), given, tmp_path / "m.onnx").passed
    with load(tmp_path / "m.onnx", device="cpu") as file:
        np.testing.assert_array_equal(file.contract.goldens[0].inputs["left"], left.astype(np.float32))
        assert file.contract.provenance["framework"] == "keras"
        assert file.contract.provenance["versions"]["keras"] == keras.__version__


def masked(*stack: Any) -> Any:
    return keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(9, 4, mask_zero=True), *stack])


def float_steps(*stack: Any) -> Any:
    return keras.Sequential([keras.Input((None, 3)), *stack])


@pytest.mark.parametrize(
    ("make", "operator"),
    [
        (recurrent, "LSTM"),
        (lambda: float_steps(layers.GRU(4, return_sequences=True, go_backwards=True)), "GRU"),
        (lambda: float_steps(layers.RNN([layers.SimpleRNNCell(3), layers.GRUCell(2)])), "Scan"),
        (lambda: float_steps(layers.Masking(0.5), layers.SimpleRNN(4, return_sequences=True, go_backwards=True)), "Scan"),
        (lambda: masked(layers.Bidirectional(layers.GRU(3, return_sequences=True))), "Scan"),
    ],
    ids=["lstm", "gru backwards", "stacked cells", "masking", "masked bidirectional gru"],
)
def test_recurrent_layers_take_any_length(tmp_path: Path, make: Callable[[], Any], operator: str) -> None:
    """keras issues 21390 and 23058, tensorflow-onnx 1871: masks inside, at the start and over whole rows; lengths never traced."""
    model = make()
    assert export_model(model, None, tmp_path / "m.onnx").passed
    file = onnx.load(tmp_path / "m.onnx")
    assert operator in {node.op_type for node in file.graph.node}
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        (spec,) = engine.inputs
        for batch, steps in ((1, 1), (3, 13)):
            shape = (batch, steps, *spec.shape[2:])
            x = RNG.integers(0, 3, shape).astype(spec.dtype)  # many zeros, which are masked
            x[0] = 0
            found = engine.run({spec.name: x})["output"]
            np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_stateful_layers_start_from_the_states_at_the_export(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input(batch_shape=(2, 5, 3)), layers.LSTM(4, stateful=True)])
    x = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    model(x)  # states that are not zero
    before = [state.numpy().copy() for state in model.layers[0].states]
    report = export_model(model, x, tmp_path / "m.onnx")
    assert any("stateful layers are not kept between calls" in note for note in report.notes)
    for state, kept in zip(model.layers[0].states, before, strict=True):
        np.testing.assert_array_equal(state.numpy(), kept)
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        first, second = (engine.run({"input": x})["output"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_dynamic_axes_of_ones_own_choice(tmp_path: Path) -> None:
    assert export_model(attention(), None, tmp_path / "m.onnx", dynamic_shapes={"words": {1: "time"}}).passed
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert engine.inputs[0].shape == (4, "time", 8)


def test_the_file_can_be_judged_again(tmp_path: Path) -> None:
    model = two_of_each()
    export_model(model, None, tmp_path / "m.onnx")
    assert verify_file(tmp_path / "m.onnx", model).passed
    model.layers[-1].set_weights([weight + 1e-2 for weight in model.layers[-1].get_weights()])
    assert not verify_file(tmp_path / "m.onnx", model).passed


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


@pytest.mark.parametrize(
    ("make", "given", "error", "text"),
    [
        (sequential, np.zeros((3, 5)), InputError, r"the example of 'input' must have shape \(None, 16\), got \(3, 5\)"),
        (sequential, [np.zeros((3, 16))] * 2, InputError, r"the model has 1 inputs \(input\), the examples are 2"),
        (two_of_each, {"left": np.zeros((3, 4))}, InputError, "do not agree on the input 'right'; the inputs are left, right"),
        (Subclassed, np.zeros((3, 5)), ExportError, "does not declare its inputs: build it from keras.Input"),
    ],
)
def test_refusals(tmp_path: Path, make: Callable[[], Any], given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        export_model(make(), given, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_backend_is_told_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(InputError, match=r"runs on tensorflow.*onnxferry export model.keras -o model.onnx"):
        export_model(sequential(), None, tmp_path / "m.onnx")


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier().save(tmp_path / "m.keras")
    assert main(["export", str(tmp_path / "m.keras"), "-o", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]
    assert main(["check", str(tmp_path / "m.onnx"), "--device", "cpu"]) == 0
    (tmp_path / "broken.keras").write_bytes((tmp_path / "m.keras").read_bytes()[:500])
    x = keras.Input((2,))
    keras.Model(x, layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "code.keras")
    capsys.readouterr()
    for name, text in (("broken", "Keras cannot open broken.keras"), ("code", "Keras cannot open code.keras"), ("no", "there is no file")):
        assert main(["export", str(tmp_path / f"{name}.keras"), "-o", str(tmp_path / "no.onnx")]) == 1
        assert text in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "no.onnx").exists()


SAVED = """
import sys
import numpy as np
sys.path.insert(0, {bench!r})
from bench_keras import SAMPLE
exec(SAMPLE)
image = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
model.save("sample.keras")
model.save_weights("sample.weights.h5")
np.savez("answers.npz", image=image, answer=np.asarray(model.predict(image, verbose=0)))
"""

NETWORK = """
import os
os.environ["KERAS_BACKEND"] = "torch"
from bench_keras import SAMPLE

def network():
    made = {}
    exec(SAMPLE, made)
    return made["model"]
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_classic_sample_word_for_word_from_each_backend(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Conv2D, MaxPooling2D, Flatten, Dense: the whole file, and its weights alone."""
    program = SAVED.format(bench=str(Path(__file__).parents[2] / "bench"))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "KERAS_BACKEND": backend}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]
    known = np.load(tmp_path / "answers.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"network_{backend}.py").write_text(NETWORK)
    assert main(["export", "sample.keras", "-o", "m.onnx"]) == 0
    assert main(["export", f"network_{backend}:network", "--weights", "sample.weights.h5", "-o", "w.onnx"]) == 0
    for name in ("m.onnx", "w.onnx"):
        with Engine(tmp_path / name, device="cpu") as engine:
            for rows in (1, 3):
                found = engine.run({engine.inputs[0].name: known["image"][:rows]})["output"]
                np.testing.assert_allclose(found, known["answer"][:rows], rtol=1e-4, atol=1e-6)
    capsys.readouterr()
    (tmp_path / "other.weights.h5").write_bytes(b"no weights")
    for weights, text in (
        ("other.weights.h5", "do not fit the model"),
        ("no.weights.h5", "there is no file"),
        ("m.onnx", "holds no weights"),
    ):
        assert main(["export", f"network_{backend}:network", "--weights", weights, "-o", "n.onnx"]) == 1
        assert text in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "n.onnx").exists()


RECURRENT = """
import numpy as np
import keras
from keras import layers

keras.utils.set_random_seed(0)
words = [keras.Input((None,), dtype="int32", name="words"), layers.Embedding(9, 4, mask_zero=True)]
stack = [layers.Bidirectional(layers.GRU(3, return_sequences=True)), layers.LSTM(5), layers.Dense(2)]
model = keras.Sequential([*words, *stack])
model.save("recurrent.keras")
asked = np.random.default_rng(0).integers(0, 3, (3, 13)).astype(np.int32)
asked[0] = 0
np.savez("answers.npz", asked=asked, long=np.asarray(model(asked)), short=np.asarray(model(asked[1:2, :2])))
"""


def test_a_recurrent_file_of_the_jax_backend(tmp_path: Path) -> None:
    """Open time and masks, a row that is all masked among them, at lengths that were never traced."""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", RECURRENT], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    known = np.load(tmp_path / "answers.npz")
    assert export_model(tmp_path / "recurrent.keras", None, tmp_path / "m.onnx").passed
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        for asked, answer in ((known["asked"], known["long"]), (known["asked"][1:2, :2], known["short"])):
            np.testing.assert_allclose(engine.run({"words": asked})["output"], answer, rtol=1e-4, atol=1e-5)


def test_the_backend_is_chosen_where_nobody_did(tmp_path: Path) -> None:
    sequential().save(tmp_path / "m.keras")
    command = [sys.executable, "-m", "onnxferry.runtime", "export", str(tmp_path / "m.keras"), "-o", str(tmp_path / "m.onnx")]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(command, env={**environment, "KERAS_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    other = subprocess.run(command, env={**environment, "KERAS_BACKEND": "jax"}, capture_output=True, text=True, timeout=300)
    assert other.returncode == 1
    assert "KERAS_BACKEND is jax: unset it, or set it to torch" in " ".join(other.stderr.split())


def test_image_layers_that_draw_even_when_they_do_not_train(tmp_path: Path) -> None:
    """They drop what they drew; a graph cannot hold the draw."""
    drawing = [layers.RandomHue(0.2), layers.RandomSaturation(0.4), layers.RandomSharpness(0.5)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *drawing, layers.Rescaling(0.5)])
    image = RNG.uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    assert export_model(model, image, tmp_path / "m.onnx").passed
    with load(tmp_path / "m.onnx", device="cpu") as file:
        np.testing.assert_allclose(next(iter(file.run({"input": image}).values())), image * 0.5, rtol=1e-6)


def test_from_keras_s_mnist_example_to_a_label_in_two_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """The network of https://keras.io/examples/vision/mnist_convnet, not trained: pixels 0 to 1."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    convolutions = [layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(8, 3, activation="relu")]
    head = [layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *head])
    model.save("digits.keras")
    pixels = RNG.integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save("7.png")
    assert main(["export", "digits.keras", "--labels", "0,1,2,3,4,5,6,7,8,9", "--scale", "1/255", "-o", "digits.onnx"]) == 0
    capfd.readouterr()
    assert main(["predict", "digits.onnx", "7.png", "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)["predictions"]
    expected = keras.ops.convert_to_numpy(model(pixels[None, ..., None].astype(np.float32) / 255))[0]
    assert found["label"] == str(expected.argmax())
    assert found["probability"] == pytest.approx(float(expected.max()), abs=1e-5)
