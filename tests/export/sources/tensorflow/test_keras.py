""".keras files of Keras' TensorFlow backend: tables for text at the inputs, layers that every backend has, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports it
pytest.importorskip("keras", reason="keras is not installed: pip install 'onnxferry[keras]'")

import onnx

from onnxferry.export import export_model
from onnxferry.runtime import Engine
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ExportError, InputError, OnnxFerryError
from tests.export.sources.tensorflow.conftest import made_by

pytestmark = [
    pytest.mark.network,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras 3.15 on numpy 2.3
]

TABLES = [
    "sequences",
    "sequences of 4",
    "sequences of pairs",
    "sequences of triples and words",
    "lower alone",
    "strip alone",
    "as it is",
    "whole texts",
    "multi-hot",
    "counts of pairs and triples",
    "tf-idf",
    "padded",
    "tf-idf classifier",
    "mean",
    "masked LSTM",
    "open GRU",
    "places",
    "masked places",
    "single places",
    "one-hot",
    "several hot",
    "counts",
    "known alone",
    "table",
]

PLAIN = ["convolution", "LSTM", "both ways", "cells", "ConvLSTM", "attention"]

REFUSED = {
    "characters": r"TextVectorization '\w+' has split='character', and ONNX has no operator that takes a string apart by characters",
    "hashed places": r"StringLookup '\w+' has num_oov_indices=3, which hashes with FarmHash",
    "salted numbers": r"IntegerLookup '\w+' has num_oov_indices=3, which hashes with FarmHash",
    "hashing": r"Hashing layer '\w+' hashes with FarmHash, which ONNX has not: take StringLookup",
    "ragged": r"TextVectorization '\w+' has ragged=True: set output_sequence_length",
    "sparse": r"StringLookup '\w+' has sparse=True, and a file gives dense arrays",
    "text out": r"StringLookup '\w+' gives text \(invert=True\): leave it out, and give the classes with --labels",
    "one row for all": r"StringLookup '\w+' has output_mode='multi_hot' on an input of 1 axes, batch included: give it Input",
    "function": r"Keras [\d.]+ cannot open the file: |has a function of its own as standardize",
    "behind": r"IntegerLookup '\w+' looks up what the model computes: put it at an input",
}


@pytest.fixture(scope="module")
def saved(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by(python, "save_keras.py", tmp_path_factory.mktemp("saved"))


def check_answers(path: Path, known: Path) -> None:
    """The file's answers beside those of Keras on TensorFlow, all rows and one alone, on inputs that the export never saw."""
    with Engine(path, device="cpu") as engine, np.load(known) as held:
        given = [held[f"input {place}"] for place in range(len(engine.inputs))]
        found = engine.run({spec.name: array for spec, array in zip(engine.inputs, given, strict=True)})
        wanted = [held[f"output {place}"] for place in range(len(found))]
        for spec, want in zip(engine.outputs, wanted, strict=True):
            array = found[spec.name]
            assert array.dtype == want.dtype
            if want.dtype.kind == "f":
                np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize("name", TABLES)
def test_tables_at_the_inputs(name: str, python: Path, saved: Path, tmp_path: Path) -> None:
    report = export_model(saved / f"{name}.keras", None, tmp_path / "m.onnx", python=python)
    assert report.passed
    assert any(case.compared for case in report.cases if not case.traced)
    check_answers(tmp_path / "m.onnx", saved / f"{name}.npz")
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert engine.contract.provenance["framework"] == "keras"
        assert {"keras", "tensorflow"} <= set(engine.contract.provenance["versions"])


@pytest.mark.parametrize("name", PLAIN)
def test_layers_of_every_backend_need_no_tensorflow(name: str, saved: Path, tmp_path: Path) -> None:
    """Open time and masks too."""
    assert export_model(saved / f"plain {name}.keras", None, tmp_path / "m.onnx").passed
    check_answers(tmp_path / "m.onnx", saved / f"plain {name}.npz")


NETWORKS = """
import keras

def untrained(path):
    return keras.models.clone_model(keras.models.load_model(path, compile=False))

def convolution():
    return untrained({convolution!r})

def recurrent():
    return untrained({recurrent!r})
"""


def test_weights_alone(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved by Keras on TensorFlow, and put into a network that is made anew with the torch backend."""
    files = {"convolution": "plain convolution", "recurrent": "plain both ways"}
    program = NETWORKS.format(**{name: str(saved / f"{file}.keras") for name, file in files.items()})
    (tmp_path / "networks_of_tensorflow.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, file in files.items():
        assert main(["export", f"networks_of_tensorflow:{name}", "-o", "untrained.onnx"]) == 0
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check_answers(tmp_path / "untrained.onnx", saved / f"{file}.npz")
        weights = str(saved / f"{file}.weights.h5")
        assert main(["export", f"networks_of_tensorflow:{name}", "--weights", weights, "-o", "m.onnx"]) == 0
        check_answers(tmp_path / "m.onnx", saved / f"{file}.npz")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_says_why(name: str, python: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=REFUSED[name]) as caught:
        export_model(saved / f"{name}.keras", None, tmp_path / "m.onnx", python=python)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_texts_that_hold_no_word(python: Path, saved: Path, tmp_path: Path) -> None:
    """A sequence of no steps."""
    export_model(saved / "sequences.keras", None, tmp_path / "m.onnx", python=python)
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert engine.run({"text": np.array(["", " .", "!?"])})["output"].shape == (3, 0)


def test_unknown_words_where_there_is_no_place_for_them(python: Path, saved: Path, tmp_path: Path) -> None:
    """Keras raises an error there, and so does the run of the file."""
    export_model(saved / "known alone.keras", None, tmp_path / "m.onnx", python=python)
    with Engine(tmp_path / "m.onnx", device="cpu") as engine, pytest.raises(OnnxFerryError, match="has_no_place_for_what_it_does_not_know"):
        engine.run({"text": np.array([["a", "b", "a", "b", "other"]])})


def test_other_operators_of_tensorflow(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(OnnxFerryError, match=r"Keras cannot open saved model inside\.keras \(") as caught:
        export_model(saved / "saved model inside.keras", None, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_examples_and_options(python: Path, saved: Path, tmp_path: Path) -> None:
    file = saved / "sequences of 4.keras"
    assert export_model(file, np.array(["the cat", "a dog!"]), tmp_path / "m.onnx", python=python).passed
    for given, text in (
        (np.zeros((3, 1), np.float32), "the example of 'text' is float32, and the model takes string"),
        (np.array([["a", "b"]]), r"the example of 'text' must have shape \(None, 1\), got \(1, 2\)"),
        ({"words": np.array(["a"])}, "do not agree on the input 'words'; the inputs are text"),
    ):
        with pytest.raises(InputError, match=text):
            export_model(file, given, tmp_path / "n.onnx", python=python)
    with pytest.raises(InputError, match=r"the option python does not apply to this \.keras file: none of its layers needs TensorFlow"):
        export_model(saved / "plain LSTM.keras", None, tmp_path / "n.onnx", python=python)
    assert not (tmp_path / "n.onnx").exists()


def test_a_text_classifier_on_the_command_line(python: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(saved / "mean.keras"), str(tmp_path / "m.onnx")
    assert main(["export", model, "--python", str(python), "--labels", "bad,good", "-o", out]) == 0
    assert main(["verify", out, model, "--python", str(python)]) == 0
    assert main(["check", out, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["predict", out, "The CAT sat, on the mat!", "don't   stop\tthe\x0bdog\x0csat\r\n now", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert found[0]["text"] == "The CAT sat, on the mat!"
    with np.load(saved / "mean.npz") as held:
        for each, row in zip(found, held["output 0"][[0, 4]], strict=True):
            assert each["label"] == ("bad", "good")[int(row.argmax())]
            assert each["probability"] == pytest.approx(float(row.max()), abs=1e-5)
    operators = {node.op_type for node in onnx.load(out).graph.node}
    assert {"StringNormalizer", "StringSplit", "LabelEncoder"} <= operators


def test_without_tensorflow(tmp_path: Path, saved: Path) -> None:
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(OnnxFerryError, match=r"needs the package 'tensorflow'.*or name an environment that has it: --python"):
            export_model(saved / "sequences.keras", None, tmp_path / "m.onnx")
