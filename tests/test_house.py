"""The house rules that no other tool holds: what lies at the top, sizes, local paths, public names, verbs, one version."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from release import project_files

from onnxferry.runtime.cli.main import VERBS, main
from onnxferry.runtime.kinds import FAMILIES, KINDS

ROOT = Path(__file__).parents[1]

OURS = ("runtime", "export", "train", "demo")

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "README.zh-CN.md",
    "SECURITY.md",
    "demo",
    "docs",
    "export",
    "mkdocs.yml",
    "pyproject.toml",
    "runtime",
    "tests",
    "train",
    "typings",
}

# What other people's programs rely on. A name may join its package's __all__ freely; one that leaves breaks somebody.
PROMISED = {
    "onnxferry": {"__version__", "errors", "export_checkpoint", "export_model", "load"},
    "onnxferry.runtime": {"Classifier", "Contract", "Engine", "Model", "Prediction", "__version__", "errors", "load", "tune"},
    "onnxferry.export": {"ParityError", "export_checkpoint", "export_model"},
}
PROMISED_ERRORS = {
    "ArtifactError",
    "CheckFailedError",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "ExportError",
    "InputError",
    "MissingExtraError",
    "OnnxFerryError",
    "ParityError",
    "TrainingError",
    "UntrustedModelError",
}


def texts() -> dict[Path, str]:
    """The project's text files, by path. A file that is not UTF-8 is binary."""
    found = {}
    for path in project_files():
        try:
            found[path] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Wide and plain, so that a line is matched as it was written.
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run([sys.executable, "-m", "onnxferry.runtime", *arguments], capture_output=True, text=True, env=environment)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command line prints, wide and plain. In this process: a fresh one would import torch for each."""
    for name, value in (("COLUMNS", "200"), ("TERMINAL_WIDTH", "200"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)

    def run_here(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run_here


def test_the_walk_sees_the_project() -> None:
    """Without this, a walk that finds nothing would pass every test below."""
    seen = {path.relative_to(ROOT).as_posix() for path in project_files()}
    assert {"pyproject.toml", "README.md", "runtime/errors.py", "train/loop/loop.py", "tests/test_house.py"} <= seen


def test_top_level_holds_what_it_should() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in project_files()}
    assert top <= TOP_LEVEL, "a new top-level entry needs a reason, and its name in TOP_LEVEL"


def test_no_file_is_large() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in project_files()}
    assert {name: size for name, size in sizes.items() if size > 9_000_000} == {}
    assert sum(size for name, size in sizes.items() if name.startswith("runtime/zoo/")) <= 30_000_000, "the zoo travels in the wheel"


def test_no_local_path_is_left_in_a_file() -> None:
    # Tests may hold invented paths, as the bad input that they are about; no file may name this checkout.
    somebodys_folder = re.compile(r"(?<![\w.~-])/(?:home|root|work|Users|mnt)/[\w.-]+")
    found = {}
    for path, text in texts().items():
        name = path.relative_to(ROOT).as_posix()
        hits = somebodys_folder.findall(text) if not name.startswith("tests/") else []
        hits += [str(ROOT)] if str(ROOT) in text else []
        if hits:
            found[name] = hits
    assert found == {}


def test_modules_are_small() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): text.count("\n") for path, text in texts().items() if path.suffix == ".py"}
    assert {name: n for name, n in lengths.items() if n > 500 and not name.startswith("tests/")} == {}, "one module, one job"


def test_folders_are_small() -> None:
    """A folder that holds more than can be taken in at a glance is two folders."""
    ours = [
        path
        for path in project_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("runtime", "export", "train", "demo")
    ]
    files = Counter(path.parent.relative_to(ROOT).as_posix() for path in ours)
    assert "runtime/engine" in files
    assert {folder: n for folder, n in files.items() if n > 15} == {}


def test_every_package_says_what_it_holds() -> None:
    """In one sentence, at the top of its __init__.py: the listing of the folders is the map."""
    names = [path for path in project_files() if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in OURS]
    assert len(names) > 30
    assert [path.relative_to(ROOT).as_posix() for path in names if len(ast.get_docstring(ast.parse(path.read_text())) or "") < 30] == []


def test_tests_mirror_the_folders() -> None:
    """Tests of a package stand in the folder of the same name, so that neither needs to be searched for."""
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in project_files() if path.match("tests/*/**/test_*.py")}
    assert "runtime/engine" in folders
    assert [folder for folder in sorted(folders) if not (ROOT / folder).is_dir()] == []


def test_kinds_and_families_are_named_in_one_place() -> None:
    """A string compared elsewhere is a place that a new family would have to be added to."""
    names = "|".join(name for name in (*KINDS, *FAMILIES) if name not in ("model", "encoder", "decoder"))  # words of other things too
    quoted = re.compile(rf"""["'](?:{names})["']""")
    found = {path.relative_to(ROOT).as_posix() for path, text in texts().items() if path.suffix == ".py" and quoted.search(text)}
    assert {name for name in found if not name.startswith("tests/")} == {"runtime/kinds.py"}, "use the rows of runtime/kinds.py"


def test_tolerances_stand_in_two_modules_with_their_reasons() -> None:
    """Numbers in ``rtol=``, ``atol=``, ``Tolerance(…)`` or a numpy comparison: a tolerance that nobody finds is loosened unseen."""
    homes = {"runtime/artifact/tolerances.py", "export/parity/tolerances.py"}
    number = re.compile(r"""\b[ra]tol\b\s*(?::\s*float\s*)?=\s*[\d.]|\bTolerance\(\s*[\d.]|\b(?:allclose|isclose|assert_allclose)\(""")
    assert number.search("Tolerance(rtol=0.0, atol=1e-5)")
    assert number.search("Tolerance(1e-3, x)")
    found = {path.relative_to(ROOT).as_posix() for path, text in texts().items() if path.suffix == ".py" and number.search(text)}
    assert {name for name in found if not name.startswith("tests/")} == homes, "use or extend export/parity/tolerances.py"


def test_temporary_names_are_made_in_one_place() -> None:
    # The others write several files at once, or resume a download.
    homes = {"runtime/files.py", "export/graphs/writer.py", "train/data/download.py"}
    by_hand = re.compile(
        r"""\bos\.(replace|rename)\(|\bmkstemp\(|\.(tmp|part)["'{]|getpid\(\)[^\n]*(tmp|part)|(tmp|part)[^\n]*getpid\(\)"""
    )
    found = {path.relative_to(ROOT).as_posix() for path, text in texts().items() if path.suffix == ".py" and by_hand.search(text)}
    assert {name for name in found if not name.startswith("tests/")} == homes, "use runtime/files.py"


@pytest.mark.parametrize("package", PROMISED)
def test_promised_names_are_public(package: str) -> None:
    module = importlib.import_module(package)
    assert PROMISED[package] <= set(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    missing = [name for name in module.__all__ if getattr(module, name, None) is None]
    assert missing == [], "listed in __all__ and not there"


def test_error_tree_is_complete_and_has_one_root() -> None:
    from onnxferry.runtime import errors

    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__}
    assert set(classes) >= PROMISED_ERRORS
    assert [name for name, value in classes.items() if not issubclass(value, errors.OnnxFerryError)] == []
    drawn = errors.__doc__ or ""
    assert [name for name in classes if name not in drawn] == [], "the tree in the docstring lacks a class"


def test_unknown_attribute_is_an_attribute_error() -> None:
    # The packages import their names lazily; a typo must still be one.
    for package in PROMISED:
        module = importlib.import_module(package)
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = module.no_such_name


def test_version_is_one() -> None:
    from onnxferry.runtime import __version__

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert {"changelog": newest[1], "installed": version("onnxferry"), "module": __version__} == {
        "changelog": declared,
        "installed": declared,
        "module": declared,
    }
    assert run("--version").stdout.split()[-1] == declared


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_help_with_an_example(verb: str, shown: Callable[..., str]) -> None:
    text = shown(verb, "--help")
    uses = [line for line in text.splitlines() if f"onnxferry {verb}" in line and "Usage:" not in line]
    assert uses, f"no example in:\n{text}"
    if verb not in ("train", "deploy"):  # groups: the option is their sub-commands'
        assert "--json" in text


def test_every_kind_of_training_has_help_with_an_example(shown: Callable[..., str]) -> None:
    import typer

    from onnxferry.train.cli.app import app

    command = typer.main.get_command(app)
    kinds = sorted(getattr(command, "commands", {}))
    assert "cnn" in kinds
    for kind in kinds:
        text = shown("train", kind, "--help")
        assert [line for line in text.splitlines() if f"onnxferry train {kind}" in line and "Usage:" not in line], text
        assert "--json" in text


@pytest.mark.parametrize("kind", ["triton", "mlserver", "kserve"])
def test_every_kind_of_deployment_has_help_with_an_example(shown: Callable[..., str], kind: str) -> None:
    text = shown("deploy", kind, "--help")
    assert [line for line in text.splitlines() if f"onnxferry deploy {kind}" in line and "Usage:" not in line], text
    assert "--json" in text


def test_help_lists_every_verb_and_readme_too(shown: Callable[..., str]) -> None:
    text = shown("--help")
    readme = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if verb not in text] == []
    assert [verb for verb in VERBS if not re.search(rf"`onnxferry {verb}[` ]", readme)] == []


def test_licences_stand_beside_what_ships() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in project["project"]["license-files"]:
        assert (ROOT / name).read_text().strip()
    notice = (ROOT / "runtime/zoo/NOTICE").read_text()
    used_by = {name for line in re.findall(r"Used by: (.*)\.", notice) for name in line.split(", ")}
    assert "digits" in used_by
    shipped = {path.name for path in (ROOT / "runtime/zoo").iterdir() if (path / f"{path.name}.onnx").is_file()}
    assert shipped <= used_by, "a model whose data's licence is not in NOTICE"
