"""A run's folder: one training at a time, what a killed one left behind, and that a run is resumed with what it was begun with."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onnxferry.runtime.errors import TrainingError
from onnxferry.runtime.formats import json_safe
from onnxferry.train.loop.learner import Learner

LOCK = ".run.json.lock"


_LEFTOVER = re.compile(r"\.(best|last|run|curves|metrics|sample|samples|reconstructions)\.[0-9a-f]{8}\.tmp(\.\w+)?")
"""Temporary names of ``onnxferry.runtime.files.written_whole`` for the files of a run."""


@contextmanager
def one_run_at_a_time(out: Path) -> Iterator[None]:
    """Makes the folder, and keeps other trainings out of it. Raises TrainingError if one is running there.

    Then what earlier ones that were killed have left half-written is removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(f"another training is running in {out}: wait for its end, or name another folder with --out") from None
    try:
        for path in out.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.release()


def record_of(learner: Learner) -> dict[str, Any]:
    """What a run was begun with, as run.json keeps it: family, configuration, options, data, seed."""
    checkpoint = learner.described()
    record = {
        "family": learner.family,
        "config": checkpoint["config"],
        "options": dataclasses.asdict(learner.options) if hasattr(learner, "options") else {},
        "data": checkpoint["data"],
        "parts": learner.parts(),
        "seed": learner.seed,
    }
    read: dict[str, Any] = json.loads(json.dumps(json_safe(record)))  # as it will be read again: lists for tuples
    return read


def check_same_run(out: Path, learner: Learner, config: Mapping[str, Any]) -> None:
    """Raises TrainingError if ``learner`` or ``config`` (device count, precision) differ from the run in ``out``; --epochs may differ."""
    path = out / "run.json"
    how = "resume it with the command in run.json plus --resume, or begin another run in another --out"
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{path} cannot be read, so nothing says what the run was begun with: begin another run in another --out"
        ) from error
    if not isinstance(begun, dict):
        raise TrainingError(f"{path} is not a run's record: begin another run in another --out")
    now = {**record_of(learner), **config}
    if begun.get("family") != now["family"]:
        raise TrainingError(f"the run in {out} is of the family {begun.get('family')!r}, not {now['family']!r}: name another --out")
    differ = [f"{name} was {_short(was)}, is {_short(is_)}" for name, was, is_ in _differences(begun, now) if name != "options.epochs"]
    data = [words for words in differ if words.startswith(("data.", "parts."))]
    if any(words.startswith("data.sha256") for words in data):
        raise TrainingError(f"the data are not those that the run in {out} was begun with ({'; '.join(data)}): {how}")
    if differ:
        raise TrainingError(f"the run in {out} was begun with other options ({'; '.join(differ[:5])}): {how}")


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Names, dotted, of values of ``now`` that are others in ``was``. What an earlier version did not record is not compared."""
    for name, value in now.items():
        if name not in was:
            continue
        if isinstance(value, Mapping) and isinstance(was[name], Mapping):
            yield from _differences(was[name], value, f"{prefix}{name}.")
        elif was[name] != value:
            yield prefix + name, was[name], value


def _short(value: object) -> str:
    text = value[:12] + "…" if isinstance(value, str) and len(value) == 64 else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
