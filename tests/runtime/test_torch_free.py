"""The runtime where neither torch nor onnx, nor anything that brings them, can be imported."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import onnxferry.runtime

FORBIDDEN = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "lightning",
    "lightning_fabric",
    "mlxtend",
    "sklearn",
    "scipy",
    "pandas",
)

SITE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN}:
            raise ModuleNotFoundError(f"{{name}} is refused in this test", name=name)

sys.meta_path.insert(0, Refuse())
"""

MODULES = sorted(module.name for module in pkgutil.walk_packages(onnxferry.runtime.__path__, "onnxferry.runtime."))


@pytest.fixture
def bare(tmp_path: Path):
    """Runs Python with arguments where FORBIDDEN cannot be imported."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, env=environment, check=False
        )

    return run


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_the_fence_holds(bare, name: str) -> None:
    result = bare("-c", f"import {name}")
    assert result.returncode == 1
    assert f"{name} is refused in this test" in result.stderr


def test_every_module_of_the_runtime_can_be_imported(bare) -> None:
    assert "onnxferry.runtime.tasks.loading" in MODULES
    # The module for MLServer is imported by MLServer, in an environment of its own.
    names = [name for name in MODULES if not name.endswith(("__main__", "mlserver_runtime"))]
    code = f"import importlib; [importlib.import_module(m) for m in {names}]"
    result = bare("-c", code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("verb", ["predict", "evaluate", "check", "inspect", "doctor", "models"])
def test_every_verb_of_the_runtime_works(bare, recogniser: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "data" / "white").mkdir(parents=True)
    Image.new("L", (4, 4), 250).save(tmp_path / "data" / "white" / "1.png")
    arguments: dict[str, list[str | Path]] = {
        "predict": [recogniser, tmp_path / "data" / "white"],
        "evaluate": [recogniser, "--data", tmp_path / "data", "--plot", tmp_path / "c.png"],
        "check": [recogniser],
        "inspect": [recogniser],
    }
    result = bare("-m", "onnxferry.runtime", verb, *arguments.get(verb, []))
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_verbs_of_other_extras_print_the_install_line(bare) -> None:
    result = bare("-m", "onnxferry.runtime", "train", "cnn")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.search(r"pip install .*\[train\]", result.stderr)
