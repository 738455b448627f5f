"""``import onnxferry``: every public name of the runtime and the export, each imported when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import onnxferry
import onnxferry.export
import onnxferry.runtime


def test_it_has_what_its_packages_have() -> None:
    assert onnxferry.load is onnxferry.runtime.load
    assert onnxferry.errors is onnxferry.runtime.errors
    assert onnxferry.__version__ == onnxferry.runtime.__version__
    assert onnxferry.ParityError is onnxferry.export.ParityError
    names = onnxferry.__all__
    assert set(names) == {*onnxferry.runtime.__all__, *onnxferry.export.__all__}
    assert {*names, "train", "demo"} <= set(dir(onnxferry))


def test_a_name_of_both_is_one_thing() -> None:
    for name in set(onnxferry.runtime.__all__) & set(onnxferry.export.__all__):
        assert getattr(onnxferry.runtime, name) is getattr(onnxferry.export, name)


@pytest.mark.parametrize("name", ["Loader", "face", "__wrapped__"])
def test_a_typo_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'onnxferry' has no attribute '{name}'"):
        getattr(onnxferry, name)


def test_a_first_line_needs_no_second_import() -> None:
    code = (
        "import sys, onnxferry; before = {'numpy', 'onnxruntime', 'torch', 'onnx', 'typer'} & set(sys.modules); "
        "onnxferry.export; onnxferry.train; print(sorted(before), 'digits' in onnxferry.zoo_names(), 'numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[] True False"


def test_python_dash_m() -> None:
    result = subprocess.run([sys.executable, "-m", "onnxferry", "--version"], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == f"onnxferry {onnxferry.__version__}\n"
