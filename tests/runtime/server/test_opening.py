"""How many requests share a run: decided by what runs were measured to take when the model was opened."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine.open import identity_of
from onnxferry.runtime.server import opening
from onnxferry.runtime.server.opening import PATIENT_GAIN, _Speed, open_to_serve
from onnxferry.runtime.server.options import Measured, ServeOptions, model_source
from onnxferry.runtime.server.process import prepared

MS = 0.001


def speed(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float]) -> _Speed:
    monkeypatch.setattr(opening, "_least_seconds", lambda engine, choices: dict(seconds))
    nothing: Any = None
    return _Speed(nothing, {rows: {} for rows in seconds})


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({1: 1.0 * MS}, 1),  # no batch can be made
        ({1: 1.0 * MS, 8: 7.8 * MS, 16: 15.4 * MS, 32: 33.0 * MS}, 8),  # a larger one brings next to nothing
        ({1: 1.0 * MS, 8: 7.8 * MS, 16: 13.0 * MS, 32: 25.9 * MS}, 16),
        ({1: 50 * MS, 8: 400 * MS}, 1),  # to begin a run takes nothing beside it
        ({1: 1.0 * MS, 8: 12.0 * MS, 16: 26.0 * MS}, 1),  # a batch that does not fit a cache
        ({1: 0.02 * MS, 8: 0.16 * MS, 16: 0.32 * MS, 32: 0.64 * MS}, 32),  # next to nothing but beginning a run
        ({1: 1.0 * MS, 8: 2.0 * MS, 16: 4.0 * MS}, 32),  # worth waiting for: as many as come
    ],
)
def test_the_smallest_batch_whose_rows_cost_next_to_least(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], rows: int) -> None:
    assert speed(monkeypatch, seconds).rows == rows


def test_what_beginning_a_run_takes_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speed(monkeypatch, {1: 0.02 * MS, 8: 0.16 * MS}).gain == pytest.approx(1.0)
    assert speed(monkeypatch, {1: 1.0 * MS, 8: 2.0 * MS}).gain >= PATIENT_GAIN


def test_what_was_measured_is_not_measured_again_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digits.onnx"
    shutil.copy(find_model("digits"), path)
    identity = identity_of(describe(path))
    assert identity is not None
    asked: list[Any] = []
    monkeypatch.setattr(_Speed, "of", lambda engine: asked.append(engine))
    options = ServeOptions((model_source(str(path)),), device="cpu", measured={identity: Measured(threads=1, rows=16, gain=3.0)})
    opened = open_to_serve(path, options)
    opened.model.close()
    assert not asked
    assert (opened.model.engine.threads, opened.scheduler.rows, opened.scheduler.max_wait) == (1, 16, options.max_wait)
    path.write_bytes(path.read_bytes())  # another time of writing
    opened = open_to_serve(path, options)
    opened.model.close()
    assert len(asked) == 1
    assert opened.scheduler.rows == 1


def test_the_workers_get_what_was_measured_and_copies_to_map(tmp_path: Path) -> None:
    options = ServeOptions((model_source("digits"),), device="cpu", workers=2)
    copies, measured = prepared(options, tmp_path)
    assert len(copies) == len(measured) == 1
    (found,) = measured.values()
    assert found.threads >= 1
    assert found.gain > 0
    assert prepared(ServeOptions((model_source("digits"),), device="cpu", workers=2, isolated=True), tmp_path) == ({}, {})
