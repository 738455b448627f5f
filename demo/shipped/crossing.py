"""One drawing through PyTorch's recorded answers, the ONNX file as float32, and the same file in 8 bits.

What PyTorch answered was recorded by ``tests/bench/record_crossing.py``, with the network rebuilt from the shipped file's weights.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.runtime import Classifier
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.files import UNREADABLE, read_npz

MODEL = "digits"


RECORD = Path(__file__).parents[1] / "assets" / "crossing.npz"


_TIMED = 9  # answers, of which the median is shown


@dataclass(frozen=True, eq=False)
class Recorded:
    """What PyTorch answered, and what it was run with."""

    images: tuple[np.ndarray, ...]  # uint8 (height, width, 1): drawings, then held-out digits
    strokes: tuple[str, ...]  # of the drawings
    labels: tuple[int, ...]  # the truth
    probabilities: np.ndarray  # float32 (n, 10)
    record: Mapping[str, Any]  # sha256 of the file, torch, milliseconds, threads, processor, bytes


@dataclass(frozen=True, eq=False)
class Leg:
    """One way across."""

    probabilities: np.ndarray  # float32 (10,)
    milliseconds: float  # of one answer, median
    bytes: int  # of the file

    @property
    def answer(self) -> int:
        return int(self.probabilities.argmax())


@dataclass(frozen=True)
class SelfTest:
    """What a file's golden samples say of it on this machine."""

    passed: int
    count: int


@st.cache_resource(show_spinner=False)
def recorded() -> Recorded:
    """Raises ArtifactError where the record is damaged."""
    try:
        arrays = read_npz(RECORD)
    except UNREADABLE as error:
        raise ArtifactError(f"{RECORD} cannot be read ({error}); install onnxferry again") from error
    try:
        drawn, held_out = arrays["drawn"], arrays["held_out"]
        return Recorded(
            images=(*drawn, *held_out),
            strokes=tuple(map(str, arrays["strokes"])),
            labels=(*range(len(drawn)), *map(int, arrays["labels"])),
            probabilities=np.concatenate([arrays["drawn_probabilities"], arrays["held_out_probabilities"]]),
            record=json.loads(str(arrays["record"])),
        )
    except KeyError as error:
        raise ArtifactError(f"{RECORD} has no {error}; install onnxferry again") from error


def variant() -> Path | None:
    """The file in 8 bits, if it ships."""
    file = zoo_model(MODEL).path.with_name(f"{MODEL}.int8.onnx")
    return file if file.is_file() else None


def leg(path: Path, image: np.ndarray) -> Leg:
    """One image, uint8 (height, width, 1), through a shipped file."""
    model = models.opened_file(path, Classifier)
    taken = []
    for _ in range(_TIMED):
        begun = time.perf_counter()
        prediction = model.predict_one(image)
        taken.append(1000 * (time.perf_counter() - begun))
    return Leg(prediction.probabilities, statistics.median(taken), path.stat().st_size)


def self_test(path: Path) -> SelfTest:
    """A shipped file's golden samples, replayed once in this process."""
    return _replayed(str(path))


@st.cache_resource(show_spinner=False)
def _replayed(path: str) -> SelfTest:
    report = replay(models.opened_file(Path(path), Classifier).engine)
    return SelfTest(sum(each.passed for each in report.comparisons), len(report.comparisons))
