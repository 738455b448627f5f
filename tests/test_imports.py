"""Who may import whom: the contracts in pyproject.toml really refuse, and the runtime really runs without the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache", "--no-logo"]

# Neither of these may be needed by the runtime, and the last two by nothing but the command line.
HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "tensorflow",
    "keras",
    "jax",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "mlxtend",
    "lightning_fabric",
)
FACE = ("typer", "rich", "click")


def modules(folder: str) -> list[str]:
    """Every module below a top-level folder, found on disk. __main__ runs when imported, and so does the demo's app."""
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py") if path.name not in ("__main__.py", "app.py")]
    paths = [path for path in paths if not path.name.startswith("hook-")]  # PyInstaller's, which reads them as files
    paths.remove(Path("runtime", "face", "__init__.py")) if folder == "runtime" else None  # it is `onnxferry` itself
    names = [(path.parent if path.name == "__init__.py" else path.with_suffix("")).parts for path in paths]
    return sorted(f"onnxferry.{'.'.join(parts)}" for parts in names)


def runtime_modules(*, commands: bool) -> list[str]:
    """Every module of the runtime; the command line's own only where asked for."""
    names = modules("runtime")
    assert {"onnxferry.runtime.engine.engine", "onnxferry.runtime.cli.main"} <= set(names)
    names.remove("onnxferry.runtime.server.deploy.mlserver_runtime")  # MLServer imports it, in its own environment
    commanded = ("onnxferry.runtime.cli", "onnxferry.runtime.server.http.connections")  # uvicorn brings click
    return [name for name in names if commands or not name.startswith(commanded)]


def python(program: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the contracts look at, to plant violations in."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("runtime", "train", "export", "demo", "typings"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.onnx", "*.npz"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    # typings/ maps the folders to their import names; first on the path, it goes before the installed package.
    environment = os.environ | {"PYTHONPATH": str(tree / "typings"), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(LINT, cwd=tree, capture_output=True, text=True, env=environment)


def test_contracts_are_kept(tree: Path) -> None:
    result = lint(tree)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("runtime/artifact/contract.py", "import torch", "onnxferry.runtime.artifact.contract -> torch"),
        ("runtime/engine/engine.py", "def late():\n    import onnx.helper", "onnxferry.runtime.engine.engine -> onnx"),
        ("runtime/artifact/zoo.py", "from onnxferry.train.loop import loop", "onnxferry.runtime.artifact.zoo -> onnxferry.train.loop.loop"),
        (
            "train/loop/loop.py",
            "from onnxferry.export.parity import compare",
            "onnxferry.train.loop.loop -> onnxferry.export.parity.compare",
        ),
        ("demo/shipped/models.py", "from onnxferry.train.data import text", "onnxferry.demo.shipped.models -> onnxferry.train.data.text"),
        ("demo/widgets/components.py", "import torch", "onnxferry.demo.widgets.components -> torch"),
        (
            "runtime/tasks/loading.py",
            "from onnxferry.demo.widgets import html",
            "onnxferry.runtime.tasks.loading -> onnxferry.demo.widgets.html",
        ),
        ("demo/widgets/html.py", "import typer", "onnxferry.demo.widgets.html -> typer"),
        ("runtime/engine/engine.py", "import rich.console", "onnxferry.runtime.engine.engine -> rich"),
        ("train/loop/loop.py", "import rich", "onnxferry.train.loop.loop -> rich"),
        ("export/pipeline/export.py", "import typer", "onnxferry.export.pipeline.export -> typer"),
        ("runtime/tasks/loading.py", "import typer", "onnxferry.runtime.tasks.loading -> typer"),
        (
            "runtime/tasks/loading.py",
            "from onnxferry.runtime.cli import console",
            "onnxferry.runtime.tasks.loading -> onnxferry.runtime.cli.console",
        ),
        (
            "runtime/engine/engine.py",
            "from onnxferry.runtime.cli import main",
            "onnxferry.runtime.engine.engine -> onnxferry.runtime.cli.main",
        ),
        ("runtime/engine/open.py", "import onnxruntime", "onnxferry.runtime.engine.open -> onnxruntime"),
        ("export/parity/compare.py", "import torch", "onnxferry.export.parity.compare -> torch"),
        ("export/optimize/samples.py", "import torch", "onnxferry.export.optimize.samples -> torch"),
        (
            "runtime/engine/open.py",
            "from onnxferry.runtime.tasks import loading",
            "onnxferry.runtime.engine is not allowed to import onnxferry.runtime.tasks",
        ),
        (
            "export/graphs/diff.py",
            "from onnxferry.export.cli import diff",
            "onnxferry.export.graphs is not allowed to import onnxferry.export.cli",
        ),
        (
            "train/data/text.py",
            "from onnxferry.train.families import rnn",
            "onnxferry.train.data is not allowed to import onnxferry.train.families",
        ),
        (
            "demo/widgets/html.py",
            "from onnxferry.demo.pages import write",
            "onnxferry.demo.widgets is not allowed to import onnxferry.demo.pages",
        ),
    ],
)
def test_contracts_refuse_a_planted_import(tree: Path, file: str, line: str, broken: str) -> None:
    path = tree / file
    kept = path.read_text()
    path.write_text(f"{kept}\n{line}\n")
    try:
        result = lint(tree)
    finally:
        path.write_text(kept)
    assert result.returncode == 1, result.stdout + result.stderr
    assert broken in result.stdout


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
import importlib
"""


def test_block_blocks() -> None:
    assert python(BLOCK.format(names=HEAVY) + "import torch").returncode == 1


def test_runtime_and_its_commands_import_without_torch_or_onnx() -> None:
    program = BLOCK.format(names=HEAVY) + f"for name in {runtime_modules(commands=True)!r}: importlib.import_module(name)"
    result = python(program)
    assert result.returncode == 0, result.stderr


def test_the_demo_imports_without_torch_or_onnx() -> None:
    """Streamlit itself needs pandas; nothing else that is heavy."""
    names = [f"onnxferry.demo.{path.stem}" for path in (ROOT / "demo").glob("*.py") if path.stem not in ("__init__", "app")]
    names += [f"onnxferry.demo.pages.{path.stem}" for path in (ROOT / "demo" / "pages").glob("*.py") if path.stem != "__init__"]
    assert "onnxferry.demo.pages.recognise" in names
    blocked = tuple(name for name in HEAVY if name != "pandas")
    result = python(BLOCK.format(names=blocked) + f"for name in {names!r}: importlib.import_module(name)")
    assert result.returncode == 0, result.stderr


def test_library_imports_without_the_command_line() -> None:
    program = BLOCK.format(names=HEAVY + FACE) + f"for name in {runtime_modules(commands=False)!r}: importlib.import_module(name)"
    result = python(program)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["onnxferry", "onnxferry.runtime", "onnxferry.runtime.cli.main"])
def test_import_is_light(module: str) -> None:
    """Cold start is a promise: what a first call does not need is not imported before it."""
    program = f"import {module}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = python(program)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "onnxferry" in loaded
    assert loaded & {*HEAVY, "onnxruntime", "PIL"} == set()
    if module != "onnxferry.runtime.cli.main":
        assert loaded & {*FACE, "numpy"} == set()
