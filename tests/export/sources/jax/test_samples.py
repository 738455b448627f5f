"""The sample functions, each through the whole export: carried and right, or refused with its reason."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest
from jax.extend import core

from onnxferry.export import export_model
from onnxferry.export.sources.jax import lowerings as lowerings
from onnxferry.export.sources.jax.convert import LOWERINGS
from onnxferry.runtime.errors import ExportError
from tests.export.sources.jax.sample_functions import REFUSED, SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample(name: str, tmp_path: Path) -> None:
    model, examples, axes = SAMPLES[name]()
    if name in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[name]):
            export_model(model, examples, tmp_path / "m.onnx", dynamic_shapes=axes)
        assert not (tmp_path / "m.onnx").exists()
        return
    report = export_model(model, examples, tmp_path / "m.onnx", dynamic_shapes=axes)
    assert report.passed
    assert any(case.compared for case in report.cases if not case.traced), "no other size was compared"


def test_most_are_carried() -> None:
    assert len(SAMPLES) - len(REFUSED) >= 22


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_says_what_is_carried_and_names_what_is_refused(language: str) -> None:
    page = (Path(__file__).parents[4] / "docs" / language / "how-to" / "jax.md").read_text(encoding="utf-8")
    refused = re.findall(r"`(\w+)`", page[page.index("`svd`") : page.index("`psum`") + len("`psum`")])
    assert len(refused) == 23
    known = {value.name for value in vars(core.primitives).values() if isinstance(value, core.Primitive)}
    known |= {value.name for value in vars(jax.lax.linalg).values() if isinstance(value, core.Primitive)}
    assert "dot_general" in LOWERINGS
    assert not set(refused) & set(LOWERINGS)
    assert set(refused) <= known, set(refused) - known
    samples = page[page.index("jax2onnx") :]
    assert [int(number) for number in re.findall(r"(?<!\w)\d+(?!\w)", samples)[:2]] == [len(SAMPLES), len(SAMPLES) - len(REFUSED)]
