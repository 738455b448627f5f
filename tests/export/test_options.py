"""One set of options: the keywords that type checkers see are the fields of the dataclass."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from onnxferry.export import ExportOptions, export_model
from onnxferry.export.options import ModelKeywords
from onnxferry.export.sources.choose import COMMON, FRAMEWORKS
from onnxferry.runtime.errors import InputError


def test_the_keywords_are_the_fields() -> None:
    assert get_type_hints(ModelKeywords) == get_type_hints(ExportOptions)


def test_given_options_are_those_that_were_set() -> None:
    assert ExportOptions().given() == {}
    assert ExportOptions(samples=[], output_names=None, dynamic_shapes={}, golden=True).given() == {}
    assert set(ExportOptions(rtol=0.0, golden=False, bits=32, name="m").given()) == {"rtol", "golden", "bits", "name"}


def test_the_table_of_frameworks_names_options_that_exist() -> None:
    known = {field.name for field in fields(ExportOptions)}
    assert known >= COMMON
    assert all(framework.options <= known for framework in FRAMEWORKS)


def test_an_option_that_does_not_apply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the option bits does not apply to a torch\.nn\.Module"):
        export_model(torch.nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "m.onnx", bits=8)
    with pytest.raises(InputError, match="example inputs do not apply to a run folder"):
        export_model(tmp_path, torch.zeros(1, 2), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module.*, got int"):
        export_model(3, torch.zeros(1, 2), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
