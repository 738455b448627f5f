"""What ``onnxferry.runtime`` promises to have, it has, and no more is imported for it than is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import onnxferry.runtime
from onnxferry.runtime import errors


def test_the_public_list_is_sorted_and_true() -> None:
    names = onnxferry.runtime.__all__
    assert names == sorted(names, key=lambda name: (name.lower() == name, name))
    for name in names:
        value = getattr(onnxferry.runtime, name)
        assert name == "__version__" or value is not None
        assert name in dir(onnxferry.runtime)
        if isinstance(value, type):
            assert value.__name__ == name
            assert value.__module__.startswith("onnxferry.runtime.")


def test_every_lazy_name_is_in_the_list_and_typed() -> None:
    assert set(onnxferry.runtime._MODULES) | {"__version__", "errors"} == set(onnxferry.runtime.__all__)
    source = Path(onnxferry.runtime.__file__).read_text(encoding="utf-8")
    for name in onnxferry.runtime._MODULES:
        assert f"import {name} as {name}\n" in source  # what type checkers see


def test_what_is_fixed() -> None:
    from onnxferry.runtime import Classifier, Engine, Model, Prediction, load

    assert onnxferry.runtime.__version__ == metadata.version("onnxferry")
    assert onnxferry.runtime.errors is errors
    assert issubclass(Classifier, Model)
    assert callable(load)
    assert callable(Engine)
    assert Prediction.__slots__ == ("label", "index", "probability", "probabilities", "labels", "unknown", "known")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Loader'"):
        onnxferry.runtime.Loader  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Loader'"):
        from onnxferry.runtime import Loader  # type: ignore[attr-defined]  # noqa: F401


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("numpy", "PIL", "onnxruntime", "typer", "rich", "torch", "onnx")
    code = f"import sys, onnxferry.runtime; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"


def test_arrays_need_no_pillow_and_models_no_command_line(recogniser) -> None:
    code = (
        "import sys, numpy; from onnxferry.runtime import load; "
        "print(load(sys.argv[1]).predict(numpy.zeros((4, 4), 'uint8'))[0].label, "
        "[m for m in ('PIL', 'typer', 'rich', 'torch', 'onnx', 'hashlib', 'asyncio') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(recogniser)], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "black []"
