"""What a training run has shown so far: the file that ``onnxferry.export.families.live`` writes, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.files import UNREADABLE, read_npz

WATCHED = "watched.npz"


FILE = "digits.onnx"


RECORDED = Path(__file__).parents[1] / "assets" / "training"
"""The folder of a run that was recorded by tests/bench/record_training.py."""


@dataclass(frozen=True, eq=False)
class Frames:
    """All looks at a run."""

    record: Mapping[str, Any]
    seconds: np.ndarray  # float32 (n,)
    loss: np.ndarray  # float32 (n,)
    accuracy: np.ndarray  # float32 (n,): of held-out images
    updates: np.ndarray  # float32 (n,)
    kernels: np.ndarray  # float16 (n, maps, side, side)
    wrong: np.ndarray  # int16 (n, shown): positions in images, -1 for none
    said: np.ndarray  # int16 (n, shown)
    images: np.ndarray  # uint8 (m, height, width)
    labels: np.ndarray  # int16 (m,)

    @property
    def state(self) -> str:
        """``training``, ``exporting``, ``done`` or ``failed``."""
        return str(self.record.get("state", "training"))

    def __len__(self) -> int:
        return len(self.seconds)

    def mistakes(self, look: int) -> list[tuple[np.ndarray, int, int]]:
        """The mistakes that were seen at a look: image uint8 (height, width), its label, and what was read."""
        pairs = zip(self.wrong[look].tolist(), self.said[look].tolist(), strict=True)
        return [(self.images[i], int(self.labels[i]), said) for i, said in pairs if i >= 0]


def read_frames(folder: Path) -> Frames | None:
    """None where nothing was written yet. Raises ArtifactError for a file that is damaged."""
    path = folder / WATCHED
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path)
        record = json.loads(str(arrays.pop("record")))
        return Frames(record, **arrays)
    except (*_DAMAGED,) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); train again") from error


_DAMAGED: tuple[type[Exception], ...] = (*UNREADABLE, KeyError, TypeError)
