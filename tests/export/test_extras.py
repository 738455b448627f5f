"""What each extra can do without the packages of the others: exports in a child process in which those cannot be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""

TRAINING_ONLY = ("lightning_fabric", "lightning", "mlxtend", "matplotlib")


def child(blocked: tuple[str, ...], program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=blocked) + program], capture_output=True, text=True, check=False, cwd=folder
    )


CHECKPOINT = """
import torch
from onnxferry.export import export_checkpoint
from onnxferry.train.families.gan import GanConfig, Generator
from onnxferry.train.loop.checkpoint import Checkpoint
import dataclasses, pathlib

config = GanConfig(labels=("a", "b"), noise=4, width=8)
network = Generator(config)
examples = {"noise": torch.randn(4, 4), "label": torch.arange(4) % 2}
Checkpoint("gan", dataclasses.asdict(config), network.state_dict(), examples=examples).save(pathlib.Path("best.pt"))
assert export_checkpoint("best.pt", "gan.onnx").passed
"""


def test_a_checkpoint_is_exported_without_what_only_training_needs(tmp_path: Path) -> None:
    result = child(TRAINING_ONLY, CHECKPOINT, tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "gan.onnx").is_file()


OPTIMIZE = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper
from onnxferry.runtime.cli.main import main

graph = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["y"])],
    "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "mine.onnx")
np.savez("samples.npz", x=np.ones((4, 3), np.float32))
sys.exit(main(["optimize", "mine.onnx", "--data", "samples.npz", "--batch", "1", "--seconds", "0.01", "-o", "out", *sys.argv[1:]]))
"""


def test_a_model_with_samples_is_optimized_without_what_only_training_needs(tmp_path: Path) -> None:
    result = child(("torch", *TRAINING_ONLY), OPTIMIZE, tmp_path)
    assert result.returncode == 0, result.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.optimize.json"]


def test_a_chart_that_cannot_be_drawn_is_refused_before_the_work(tmp_path: Path) -> None:
    result = child(TRAINING_ONLY, OPTIMIZE.replace("*sys.argv[1:]", '"--plot", "speeds.png"'), tmp_path)
    assert result.returncode == 1
    assert re.search(r"--plot needs the package 'matplotlib', which is not installed: pip install .*\[train\]", result.stderr)
    assert not (tmp_path / "out").exists()
    result = child(
        TRAINING_ONLY,
        "import sys\nfrom onnxferry.runtime.cli.main import main\nsys.exit(main(['bench', 'digits', '--plot', 'p.svg']))",
        tmp_path,
    )
    assert result.returncode == 1
    assert "--plot needs the package 'matplotlib'" in result.stderr


ESTIMATOR = """
import numpy as np
from sklearn.linear_model import LogisticRegression

def fitted():
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return LogisticRegression().fit(rows, rows[:, 0] > 0)
"""

SKLEARN = """
import sys
import numpy as np
from onnxferry.runtime.cli.main import main
np.savez("rows.npz", X=np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32))
assert main(["export", "estimator:fitted", "--samples", "rows.npz", "-o", "m.onnx"]) == 0
assert main(["verify", "m.onnx", "estimator:fitted"]) == 0
from onnxferry.export import export_model
from estimator import fitted
assert export_model(fitted(), np.load("rows.npz")["X"], "n.onnx").passed
assert not {"torch", "lightgbm", "xgboost", "catboost"} & set(sys.modules)
"""


def test_scikit_learn_is_exported_and_verified_without_torch(tmp_path: Path) -> None:
    (tmp_path / "estimator.py").write_text(ESTIMATOR)
    result = child(("torch", "onnxscript", "onnx_ir", *TRAINING_ONLY), SKLEARN, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_torch_a_pytorch_model_s_error_has_the_install_line(tmp_path: Path) -> None:
    program = """
from onnxferry.export import export_model
from onnxferry.runtime.errors import MissingExtraError
try:
    export_model("program.pt2", None, "m.onnx")
except MissingExtraError as error:
    print(error)
"""
    result = child(("torch",), program, tmp_path)
    assert re.search(r"pip install .*\[export\]", result.stdout), result.stdout + result.stderr


MISSING = """
import json, pathlib
from onnxferry.export import export_model
from onnxferry.runtime.errors import MissingExtraError

folder = pathlib.Path("folder")
folder.mkdir()
folder.joinpath("config.json").write_text(json.dumps({"model_type": "bert"}))
pathlib.Path("booster.txt").write_text("tree")
pathlib.Path("m.keras").write_bytes(b"PK")
estimator = type("Estimator", (), {"__module__": "sklearn.tree", "fit": lambda self, x: self})()
function = type("Module", (), {"__module__": "flax.nnx", "__call__": lambda self, x: x})()
given = {"keras": pathlib.Path("m.keras"), "boosted": pathlib.Path("booster.txt"), "transformers": folder}
given |= {"sklearn": estimator, "jax": function}
for extra, model in given.items():
    try:
        export_model(model, [[1.0]] if extra in ("sklearn", "jax") else None, "m.onnx")
    except MissingExtraError as error:
        print(extra, error)
assert not pathlib.Path("m.onnx").exists()
"""


def test_the_install_line_of_every_framework(tmp_path: Path) -> None:
    """A model of a framework whose packages are not there; see the tests of timm and TensorFlow for theirs."""
    result = child(("keras", "lightgbm", "xgboost", "catboost", "transformers", "sklearn", "skl2onnx", "jax", "flax"), MISSING, tmp_path)
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    for extra in ("keras", "boosted", "transformers", "sklearn", "jax"):
        assert re.search(rf"needs the package '\w+', which is not installed: pip install .*\[{extra}\]", lines[extra]), result.stderr
