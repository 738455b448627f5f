"""The table of kinds and families names modules, verbs and pages as strings: they must all be there."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from onnxferry.runtime.artifact.contract import Contract, kind_of
from onnxferry.runtime.cli.console import try_command
from onnxferry.runtime.cli.main import VERBS
from onnxferry.runtime.kinds import DECODER, FAMILIES, KINDS, MODEL, RECOGNISER, Family, Kind, imported
from onnxferry.runtime.tasks.model import Model


def test_names_are_those_that_files_hold() -> None:
    """Shipped files and checkpoints carry these names: one that leaves makes them unreadable."""
    images = ["recogniser", "detector", "text-generator", "image-generator", "encoder", "decoder", "translator"]
    assert list(KINDS) == [*images, "text-classifier", "text-tagger", "text-embedder", "text-decoder", "model"]
    assert list(FAMILIES) == ["cnn", "rnn", "ae", "gan", "seq2seq", "detector", "text-classifier"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_kind_has_its_class_and_its_verb(kind: Kind) -> None:
    assert issubclass(kind.task_class, Model)
    assert kind.task_class.noun == (kind.noun if kind.verb else MODEL.noun)
    assert kind.verb in ("", *VERBS)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_family_has_its_modules_and_its_page(family: Family) -> None:
    assert callable(importlib.import_module(family.training).model_from_config)
    assert "checkpoint" in inspect.signature(imported(family.exporter)).parameters
    pages = Path(__file__).parents[2] / "demo" / "pages"
    assert (pages / f"{family.page}.py").is_file()


def test_a_file_without_a_contract_is_a_model() -> None:
    assert kind_of(None) is MODEL
    assert kind_of(Contract(kind="recogniser", name="x", labels=("a",))) is RECOGNISER


def test_example_command_ends_with_what_the_verb_takes() -> None:
    assert try_command(RECOGNISER, "my digits.onnx") == ("onnxferry predict 'my digits.onnx' IMAGE.png",)
    assert try_command(DECODER, "x.onnx") == ()
