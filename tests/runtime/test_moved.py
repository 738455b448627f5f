"""Import paths of earlier versions: each works with a warning that names the new one, or fails with one line that does."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from onnxferry.runtime import moved

PAIRS = [
    ("onnxferry.runtime.untrusted", "check_file", "onnxferry.runtime.sandbox.jobs"),
    ("onnxferry.runtime.catalog", "zoo_names", "onnxferry.runtime.artifact.zoo"),
    ("onnxferry.runtime.text", "TextGenerator", "onnxferry.runtime.tasks.text_generator"),
    ("onnxferry.runtime.engine", "Engine", "onnxferry.runtime.engine.engine"),
    ("onnxferry.runtime.artifact", "Contract", "onnxferry.runtime.artifact.contract"),
    ("onnxferry.runtime.onnx_file", "Limits", "onnxferry.runtime.onnx_file.summary"),
    ("onnxferry.runtime.tasks", "Classifier", "onnxferry.runtime.tasks.classifier"),
    ("onnxferry.runtime.tasks", "load", "onnxferry.runtime.tasks.loading"),
    ("onnxferry.runtime.images", "ImageGenerator", "onnxferry.runtime.tasks.image_generator"),
    ("onnxferry.export.parity", "ParityReport", "onnxferry.export.parity.report"),
    ("onnxferry.export.sources", "Source", "onnxferry.export.source"),
]


@pytest.mark.parametrize(("old", "name", "new"), PAIRS)
def test_an_old_path_works_and_names_the_new_one(old: str, name: str, new: str) -> None:
    sys.modules.pop(old, None) if old in moved.MODULES else None
    with pytest.warns(DeprecationWarning, match=rf"{old}.* is now {new}"):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)


def test_every_new_path_exists() -> None:
    for new in moved.MODULES.values():
        assert find_spec(new) is not None, new
    for package, names in moved.NAMES.items():
        for name, place in names.items():
            module = importlib.import_module(place if place.startswith("..") else f".{place}", package)
            assert hasattr(module, name), (package, name)
            assert getattr(importlib.import_module(package), "__getattr__", None) is not None, package
    for old in (*moved.MODULES, *moved.GONE):
        parent, _, name = old.rpartition(".")
        assert not any((p / f"{name}.py").exists() or (p / name).exists() for p in map(_path, importlib.import_module(parent).__path__)), (
            old
        )


def _path(folder: str):

    return Path(folder)


def test_a_name_that_stands_for_something_else_says_what_to_write() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no module onnxferry.runtime.tune any more: from onnxferry.runtime import tune"):
        importlib.import_module("onnxferry.runtime.tune")
    from onnxferry.runtime import tune

    assert callable(tune)


def test_what_never_was_is_an_ordinary_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'onnxferry\.runtime\.nonsense'"):
        importlib.import_module("onnxferry.runtime.nonsense")
    with pytest.raises(AttributeError, match=r"module 'onnxferry\.runtime\.engine' has no attribute 'Nonsense'"):
        getattr(importlib.import_module("onnxferry.runtime.engine"), "Nonsense")  # noqa: B009
    with pytest.raises(AttributeError, match=r"module 'onnxferry\.runtime\.sandbox\.jobs' has no attribute"):
        getattr(importlib.import_module("onnxferry.runtime.untrusted"), "nonsense")  # noqa: B009


def test_nothing_of_ours_uses_an_old_path() -> None:
    code = (
        "import warnings, importlib; warnings.simplefilter('error', DeprecationWarning); "
        "import onnxferry; onnxferry.load('digits').close(); "
        "onnxferry.check_file; onnxferry.tune; onnxferry.Batcher; onnxferry.ParityReport"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, check=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_path_is_the_new_module_itself() -> None:
    for old, new in moved.MODULES.items():
        assert importlib.import_module(old) is importlib.import_module(new), old
