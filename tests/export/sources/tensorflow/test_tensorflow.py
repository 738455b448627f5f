"""TensorFlow models from an environment of their own: SavedModels and TensorFlow Lite files, right, or refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxferry.export import export_model
from onnxferry.export.sources.tensorflow.process import child_of
from onnxferry.runtime import Engine
from onnxferry.runtime.errors import ExportError, InputError, MissingExtraError, ParityError
from tests.export.sources.tensorflow.conftest import made_by

RIGHT = {
    "perceptron": (["features"], ["scores"]),
    "two ends": (["left", "right"], ["largest", "total"]),
    "convolution": (["image"], ["y"]),
    "gather": (["ids"], ["rows"]),
    "branch": (["x"], ["y"]),  # tf2onnx multiplies by masks there, and infinity times 0 is NaN
    "sorted": (["x"], ["places", "values"]),
    "while": (["x"], ["state"]),
    "digits": (["x"], ["output_0"]),
    "lstm": (["x"], ["output_0"]),
    "gru": (["x"], ["output_0"]),
    "both ways": (["x"], ["output_0"]),
    "upwards": (["x"], ["output_0"]),
    "embedding": (["x"], ["output_0"]),
    "rescaled": (["x"], ["output_0"]),
    "digits.tflite": (["x"], ["output_0"]),
    "perceptron.tflite": (["features"], ["scores"]),
}
"""By name: the signature's inputs and outputs."""

REFUSED = {
    "no signatures": r"has no signatures, so it does not say what it takes: save it with tf\.saved_model\.save",
    "text": r"input 'words' is text \(tf\.string\), and an exported file takes and gives numbers",
    "text out": r"output 'words' is text \(tf\.string\)",
    "text inside": r"tf2onnx .* has no conversion for StringLength",
    "table": r"looks numbers or text up in a table \(LookupTableFindV2\), which is a resource",
    "counting": r"changes a variable when it runs \(AssignAddVariableOp\)",
    "antialias": r"tf2onnx .* has no conversion for ScaleAndTranslate",
    "any rank": r"input 'x' has no number of axes: declare its shape",
    "two signatures": r"has the signatures more, twice: choose one with --signature NAME",
    # TensorFlow Lite reads past the end of such a file: what is in memory there decides whether it says so or dies
    "cut.tflite": r"ended with code -\d+ when it was asked to open it: is the file damaged\?|Lite cannot read the file: ",
}

WRONG = {
    "drawn": r"changes from run to run on the same input",
}
"""What tf2onnx writes without a word, and what is said of it here."""


@pytest.fixture(scope="module")
def saved(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by(python, "save_models.py", tmp_path_factory.mktemp("saved"))


pytestmark = [pytest.mark.network, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", RIGHT)
def test_a_model_is_carried(name: str, python: Path, saved: Path, tmp_path: Path) -> None:
    report = export_model(saved / name, None, tmp_path / "m.onnx", python=python)
    assert report.passed
    assert any(case.compared for case in report.cases if not case.traced)
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert ([spec.name for spec in engine.inputs], sorted(spec.name for spec in engine.outputs)) == RIGHT[name]
        assert engine.contract is not None
        assert engine.contract.provenance["framework"] == "tensorflow"
        child = child_of(python)
        opened = child.ask(do="open", path=str(saved / name), kind="lite" if name.endswith(".tflite") else "saved", signature=None)
        rng = np.random.default_rng(8)
        for open_size in (1, 5):
            feeds = {
                spec.name: rng.integers(0, 2, shape).astype(spec.dtype)
                if "int" in spec.dtype
                else rng.normal(size=shape).astype(spec.dtype)
                for spec in engine.inputs
                for shape in [tuple(size if isinstance(size, int) and size > 0 else open_size for size in spec.shape)]
            }
            found, want = engine.run(feeds), child.run(opened["id"], feeds)
            for output, array in want.items():
                np.testing.assert_allclose(found[output], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*REFUSED, *WRONG])
def test_what_cannot_be_carried_says_why(name: str, python: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises((ExportError, ParityError), match={**REFUSED, **WRONG}[name]) as caught:
        export_model(saved / name, None, tmp_path / "m.onnx", python=python)
    assert name in WRONG or "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_on_the_command_line(python: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxferry.runtime.cli.main import main

    out = str(tmp_path / "m.onnx")
    model = str(saved / "two signatures")
    assert main(["export", model, "--signature", "twice", "--python", str(python), "-o", out]) == 0
    assert main(["verify", out, model, "--signature", "twice", "--python", str(python)]) == 0
    assert main(["verify", out, model, "--signature", "more", "--python", str(python)]) == 1
    assert main(["export", model, "--signature", "less", "--python", str(python), "-o", out]) == 1
    assert "no signature 'less'; it has more, twice" in " ".join(capsys.readouterr().err.split())
    with Engine(out, device="cpu") as engine:
        np.testing.assert_array_equal(engine.run({"x": np.ones((3, 2), np.float32)})["y"], np.full((3, 2), 2.0))


FUNCTION = """
import sys
import numpy as np
sys.path.append(sys.argv[1])
import tensorflow as tf
import torch
from onnxferry.export import export_model
from onnxferry.export.pipeline.verify import verify_file
from onnxferry.runtime import Engine

scale = tf.Variable(np.arange(4, dtype=np.float32))

@tf.function
def scaled(x, shift):
    return {"y": tf.nn.relu(x * scale + shift)}

given = {"x": np.ones((2, 4), np.float32), "shift": np.ones((2, 1), np.float32)}
axes = {"x": {0: "batch"}, "shift": {0: "batch"}}
report = export_model(scaled, given, "m.onnx", dynamic_shapes=axes, python=sys.argv[2])
assert report.passed and report.summary()["untraced_shapes"] > 2, report.summary()
with Engine("m.onnx", device="cpu") as engine:
    x, shift = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), np.full((3, 1), -1.0, np.float32)
    np.testing.assert_allclose(engine.run({"x": x, "shift": shift})["y"], scaled(x, shift)["y"].numpy(), rtol=1e-5)
assert verify_file("m.onnx", scaled, python=sys.argv[2]).passed
scale.assign_add(tf.ones(4))
assert not verify_file("m.onnx", scaled, python=sys.argv[2]).passed
"""


def test_a_function_of_this_process(python: Path, tmp_path: Path) -> None:
    """TensorFlow and PyTorch in one process: the function is saved with its variables, and goes to the child process."""
    where = "import tensorflow, pathlib; print(pathlib.Path(tensorflow.__file__).parents[1])"
    packages = subprocess.run([str(python), "-c", where], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    done = subprocess.run([sys.executable, "-c", FUNCTION, packages, str(python)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_environment_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"there is no .*nowhere; --python takes the path of a Python interpreter"):
        export_model(tmp_path / "saved", None, tmp_path / "m.onnx", python=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"the option python does not apply to .*it names the environment"):
        export_model(tmp_path / "m.onnx", None, tmp_path / "n.onnx", python=sys.executable)
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(
            MissingExtraError, match=r"needs the package 'tensorflow'.*\[tensorflow\].*or name an environment that has it: --python"
        ):
            export_model(tmp_path / "saved", None, tmp_path / "m.onnx")
