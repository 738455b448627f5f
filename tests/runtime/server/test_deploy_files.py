"""The Dockerfile and the compose file name what exists: they cannot be built here."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from onnxferry.runtime.cli.serve import TOKEN_VARIABLE, app

FOLDER = Path(__file__).parents[3] / "docs" / "deploy"


def options_of_serve() -> set[str]:
    command = typer.main.get_command(app)
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def commands() -> list[list[str]]:
    lines = (FOLDER / "Dockerfile").read_text().splitlines() + (FOLDER / "compose.yaml").read_text().splitlines()
    found = [re.search(r"(?:^CMD|command:) (\[.*\])$", line) for line in lines]
    return [json.loads(match[1]) for match in found if match]


def test_the_commands_are_the_servers() -> None:
    made = commands()
    assert len(made) == 2
    for words in made:
        assert words[:2] == ["onnxferry", "serve"]
        assert {word for word in words if word.startswith("--")} <= options_of_serve()


def test_the_image_is_small_and_not_root() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    last = text.rsplit("FROM ", 1)[1]
    assert "USER 10001" in last
    assert "HEALTHCHECK" in last
    assert "pip install" not in last  # what builds stays behind
    assert "[cpu,serve]" in text
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.startswith("RUN "):
            shlex.split(line)


def test_the_compose_file() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["onnxferry"]
    assert service["read_only"] is True
    assert TOKEN_VARIABLE in service["environment"]
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == FOLDER / "Dockerfile"
