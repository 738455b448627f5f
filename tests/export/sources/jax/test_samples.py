"""The sample functions, each through the whole export: carried and right, or refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxferry.export import export_model
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
