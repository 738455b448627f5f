"""Rows that must not share a run: where a batch shares one scale, each text runs in a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxferry.runtime.artifact.variants import rows_alone
from onnxferry.runtime.engine.engine import Engine

_BY_ROW = ("prompt", "uniforms", "prompt_length", "state")


class Runs(Protocol):
    """As :meth:`Engine.run`."""

    def __call__(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]: ...


def row_by_row(engine: Engine) -> Runs:
    """The engine's ``run``; of a text generator whose rows must run alone, one that does so."""
    contract = engine.contract
    if contract is None or contract.kind != "text-generator" or not rows_alone(contract):
        return engine.run
    if not all(spec.ranked and spec.shape for spec in engine.outputs):  # it only says that it writes text
        return engine.run

    def run(feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        return _run_rows_alone(engine, feeds, outputs) if _rows(feeds) > 1 else engine.run(feeds, outputs)

    return run


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    """Texts side by side in feeds whose batch fits together; 0 in feeds that the engine will refuse."""
    prompt, uniforms = feeds.get("prompt"), feeds.get("uniforms")
    if not all(isinstance(array, np.ndarray) and array.ndim == 2 for array in (prompt, uniforms)):
        return 0
    rows = len(prompt)  # type: ignore[arg-type]
    sides = [feeds[name] for name in ("uniforms", "prompt_length", "state") if name in feeds]
    return rows if all(np.ndim(side) and len(side) in (1, rows) for side in sides) and len(sides[0]) == rows else 0


def _run_rows_alone(engine: Engine, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Each text in a run of its own, without the padding that its neighbours asked for; outputs as of one run."""
    prompt = feeds["prompt"]
    width = prompt.shape[1]
    parts = []
    for row in range(len(prompt)):
        own = {name: array[row : row + 1] if name in _BY_ROW and len(array) > 1 else array for name, array in feeds.items()}
        if "prompt_length" in own:
            length = int(own.pop("prompt_length")[0])
            own["prompt"] = own["prompt"][:, : width if length < 0 else length]
        made = engine.run(own, outputs)
        if "log_probabilities" in made:
            read = made["log_probabilities"]
            made["log_probabilities"] = np.pad(read, ((0, 0), (0, width - read.shape[1])))
        parts.append(made)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
