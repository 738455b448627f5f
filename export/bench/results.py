"""Results of one benchmark row, and its JSON form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxferry.export.bench.contenders.base import OURS, PEERS

SCATTERED_RUNS, SCATTERED_ROUNDS = 3.0, 1.5
"""Times of the same run that scatter more than so were disturbed, most likely by other programs."""


@dataclass(frozen=True)
class Measured:
    """One contender in one row. Seconds are of one run of a whole batch."""

    status: str  # timed, right (correct outputs, not timed), wrong (wrong outputs) or failed
    words: str = ""  # why it failed or is wrong; else how far its outputs are from the reference
    version: str = ""
    precision: str = ""
    how: str = ""
    median_s: float | None = None
    p10_s: float | None = None
    p90_s: float | None = None
    round_medians_s: tuple[float, ...] = ()
    runs: int = 0
    idle_cpu_s: float | None = None  # CPU seconds used after the last run of a turn, median

    @property
    def scattered(self) -> bool:
        """Whether rounds differ by more than half, or a tenth of the runs take three times the median."""
        if self.median_s is None or self.p90_s is None:
            return False
        rounds = self.round_medians_s
        return self.p90_s > SCATTERED_RUNS * self.median_s or (len(rounds) > 1 and max(rounds) > SCATTERED_ROUNDS * min(rounds))

    @property
    def timed(self) -> bool:
        return self.status == "timed"


@dataclass(frozen=True)
class Row:
    """One model at one batch size and number of threads."""

    model: str
    batch: int
    threads: str  # "1" or "all"
    sha256: str
    feeds: int
    bytes_per_run: int  # bytes that a text generator writes a run, for each row of the batch; 0 for other models
    contenders: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, str]:
        return self.model, self.batch, self.threads

    @property
    def best_peer(self) -> str | None:
        """The fastest alternative; None if none was timed."""
        timed = {name: m.median_s for name, m in self.contenders.items() if name in PEERS and m.median_s is not None}
        return min(timed, key=timed.__getitem__) if timed else None

    @property
    def ratio(self) -> float | None:
        """Time of the best peer / time of onnxferry; None if either was not timed."""
        return self._ratio_of(lambda measured: measured.median_s)

    @property
    def undisturbed_ratio(self) -> float | None:
        """As :attr:`ratio`, of the tenth percentiles of all runs' times.

        On a CPU whose cores are shared with other programs' threads, runs take one of two times, far apart, and a median falls on either.
        """
        return self._ratio_of(lambda measured: measured.p10_s)

    def _ratio_of(self, seconds: Callable[[Measured], float | None]) -> float | None:
        found = {name: time for name, measured in self.contenders.items() if (time := seconds(measured)) is not None}
        theirs = [time for name, time in found.items() if name in PEERS]
        return min(theirs) / found[OURS] if theirs and OURS in found else None

    @property
    def disturbed(self) -> bool:
        """Whether the times of what was compared, ours and the best peer's, scatter as they do where other programs run meanwhile."""
        compared = (self.contenders.get(name) for name in (OURS, self.best_peer or ""))
        return any(measured is not None and measured.scattered for measured in compared)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def row_from_document(document: Mapping[str, Any]) -> Row:
    """The row that :meth:`Row.document` wrote. Raises KeyError or TypeError for anything else."""
    contenders = {
        name: Measured(**{**entry, "round_medians_s": tuple(entry["round_medians_s"])}) for name, entry in document["contenders"].items()
    }
    return Row(**{**document, "contenders": contenders})
