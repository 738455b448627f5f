"""What became of a candidate, and which of those that may be kept is the best."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxferry.export.optimize.score import Score, needed_budget
from onnxferry.export.optimize.timing import Speed
from onnxferry.runtime.formats import json_safe


@dataclass(frozen=True)
class Verdict:
    """The result of one candidate, and why it was kept or not."""

    tag: str
    what: str
    kept: bool
    words: str
    bytes: int | None = None
    score: Score | None = None
    speed: Mapping[int, Speed] = field(default_factory=dict)  # by batch size
    rows_alone: bool = False
    file: str = ""  # name of what was written
    rung: str = ""  # how much of the model it takes, where several share a tag
    precision: str = ""  # of the same graph on OpenVINO; "" for ONNX Runtime
    transferred: int | None = None  # bytes with gzip; of variants for the browser
    rms: Mapping[str, float] = field(default_factory=dict)  # by output, of the differences where it was scored, as a share of it
    seconds: float = 0.0  # that making, scoring and timing it took

    @property
    def name(self) -> str:
        """Tag and rung, for display."""
        return f"{self.tag} ({self.rung})" if self.rung else self.tag

    @property
    def needs(self) -> str:
        """The budget that it would be inside of, where it is outside of the given one: ``rtol 2e-3``; "" for any other."""
        return "" if self.score is None or self.score.inside else needed_budget(self.score)[0]

    @property
    def needs_size(self) -> float:
        """To compare what candidates need: the smaller, the less."""
        return math.inf if self.score is None else needed_budget(self.score)[1]

    def to_json(self) -> dict[str, Any]:
        """As strict JSON: a score that is not finite is null."""
        speed = {str(b): dataclasses.asdict(s) for b, s in self.speed.items()}
        score = None if self.score is None else dataclasses.asdict(self.score)
        return dataclasses.asdict(self) | {"speed": speed, "score": json_safe(score)}


def better(verdict: Verdict, alive: Sequence[Verdict], goal: str) -> Verdict | None:
    """Who beats it, among all that may be kept; never everybody is beaten.

    Of a tag's rungs one is enough: the one that is surely the fastest over all batch sizes. Between the best of each tag only what is
    faster at every batch size beats: 8 bits may win with one image and lose with many. The smallest is one alone,
    and so is the smallest download.
    """
    if goal != "faster":
        best = min(alive, key=lambda other: (other.transferred or other.bytes or 0, other.name))
        return None if best is verdict else best
    ranks = {tag: max((v for v in alive if v.tag == tag), key=lambda v: (_sure(v), v.name)) for tag in {v.tag for v in alive}}
    best = ranks[verdict.tag]
    if best is not verdict:
        return best
    others = (other for other in ranks.values() if all(other.speed[batch].ratio > verdict.speed[batch].ratio for batch in verdict.speed))
    return next(others, None)


def _sure(verdict: Verdict) -> float:
    """Geometric mean of the ratios, each less twice its noise."""
    return math.exp(statistics.fmean(math.log(max(s.ratio - 2 * s.noise, 0.01)) for s in verdict.speed.values()))
