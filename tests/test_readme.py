"""What the README shows works: its Python runs, its commands parse, its links lead somewhere, and .ci/run runs its two commands."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from onnxferry.runtime.cli.main import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def command_lines() -> list[str]:
    """Every command line of ours in a code block, and those of the table of verbs."""
    lines = [line.removeprefix("$ ") for language in ("bash", "console") for block in blocks(language) for line in block.splitlines()]
    return [line for line in lines if line.startswith("onnxferry ")]


@pytest.fixture(scope="module")
def after_quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a reader is in after the first command; one epoch is enough for what is shown."""
    folder = tmp_path_factory.mktemp("reader")
    command = [sys.executable, "-m", "onnxferry.runtime", "quickstart", "--out", "quickstart", "--epochs", "1"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder):
        yield


@pytest.mark.slow
def test_python_examples_run_in_order(after_quickstart: Path) -> None:
    """In one namespace, as somebody who pastes them one after the other."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    printed = []
    examples = blocks("python")
    assert len(examples) == 7
    for number, example in enumerate(examples):
        out = io.StringIO()
        with inside(after_quickstart), contextlib.redirect_stdout(out):
            exec(compile(example, f"README.md, example {number + 1}", "exec"), namespace)  # noqa: S102  our own README
        printed.append(out.getvalue())
    export, forest, predict, anything, mistake, merged, bare = printed
    assert re.fullmatch(r"True at [1-9]\d* shapes that were never traced\n", export)
    assert float(forest.removeprefix("right: ")) > 0.9
    assert re.fullmatch(r"(\d [01]\.\d{3}\n){2}", predict)
    assert re.fullmatch(r"\{'.*': \(7, 4\)\}\n", anything)
    # What the comment in the example promises is what is printed.
    (promised,) = re.findall(r"print\(error\)  # (.*)", examples[4])
    assert mistake == promised + "\n"
    assert merged == "{'3'}\n", "a hundred equal images, and one answer"
    assert bare == predict.splitlines(keepends=True)[1], "the file alone says what the runtime says"


@pytest.mark.parametrize("line", command_lines())
def test_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verb, options and values are what the command takes: parsed by its own parser, not run."""
    monkeypatch.chdir(tmp_path)
    _, verb, *arguments = shlex.split(line)
    module, _, attribute = VERBS[verb][0].partition(":")
    command: Any = typer.main.get_command(getattr(import_module(module), attribute))
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    with command.make_context(verb, arguments) as context:
        assert context.params


def test_a_wrong_option_does_not_parse() -> None:
    """The test above can fail."""
    from onnxferry.runtime.cli.check import app

    command: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option"):
        command.make_context("check", ["x.onnx", "--no-such-option"])


def test_table_of_verbs_is_the_command_line() -> None:
    rows = re.findall(r"^\| `onnxferry ([a-z]+)", README, re.MULTILINE)
    assert set(rows) == set(VERBS)


def test_the_two_commands_come_first() -> None:
    """People and .ci/run rely on it: the first two bash blocks are everything, from the clone's root, commands only."""
    install, tests = (block.strip().splitlines() for block in blocks("bash")[:2])
    assert install[-1].startswith("onnxferry quickstart")
    assert any(line.startswith("pip install ") for line in install)
    assert tests[-1] == "python -m pytest -n 2"
    assert not any(line.startswith(("#", "$")) for line in install + tests)


def test_extras_table_is_pyproject() -> None:
    import tomllib

    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert set(re.findall(r"^\| `onnxferry\[(\w+)\]`", README, re.MULTILINE)) == declared


def test_links_lead_to_files() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
        local = [target for target in targets if "://" not in target]
        assert [target for target in local if not (ROOT / target).exists()] == []
    assert "LICENSE" in re.findall(r"\]\(([^)#]+)\)", README)


def test_contract_keys_are_documented() -> None:
    import numpy as np

    from onnxferry.runtime.artifact.contract import Contract, Golden
    from onnxferry.runtime.artifact.metadata import metadata_from_contract

    one = {"x": np.zeros(1, np.float32)}
    full = Contract(
        "model",
        "m",
        goldens=(Golden(one, one),),
        provenance={"a": 1},
        metrics={"a": 1},
        parity={"a": 1},
        labels=("a",),
        license="x",
        description="d",
    )
    keys = {key for key in metadata_from_contract(full) if key.startswith("onnxferry.")}
    assert {key for key in keys if f"`{key}`" not in README} == set()
