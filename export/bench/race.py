"""Contenders against each other on one task, in turns: who is how fast, once all of them have given the right answers.

    bench = Bench(rounds=9, turn_s=0.2)
    for row in bench.rows(bench_model("digits"), [1, 64], "1", ["onnxferry", "onnxruntime"]):
        row.contenders["onnxferry"].median_s

Times are medians over all runs of all turns. Contenders take turns in rounds, each round beginning with another, so that what
slows the machine for a while slows all of them.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxferry.export.bench.contenders.base import OURS, PEERS, version_of
from onnxferry.export.bench.correctness import judge
from onnxferry.export.bench.worker import Turn, Worker, WorkerError
from onnxferry.export.bench.workloads import TEXT_STEPS, BenchModel, Feeds, Job, make_job

LARGE = 64 * 2**20
"""Bytes of feeds beyond which fewer rotate: there, one does not fit any cache, and checking them all would take minutes."""


FEW_FEEDS = 4


@dataclass(frozen=True)
class Measured:
    """One contender in one row. Seconds are of one run of the whole batch."""

    status: str  # timed, right (its answers were, and it was not timed), wrong, failed
    words: str = ""  # why it failed or is wrong; else how far its answers are from the reference
    version: str = ""
    precision: str = ""
    how: str = ""
    median_s: float | None = None
    p10_s: float | None = None
    p90_s: float | None = None
    round_medians_s: tuple[float, ...] = ()
    runs: int = 0
    idle_cpu_s: float | None = None  # CPU used after the last run of a turn, the median turn's

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
    bytes_per_run: int  # a text generator's, for each row; 0 for others
    contenders: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, str]:
        return self.model, self.batch, self.threads

    @property
    def best_peer(self) -> str | None:
        """The fastest of those that a user would pick instead; None where none was timed."""
        timed = {name: m.median_s for name, m in self.contenders.items() if name in PEERS and m.median_s is not None}
        return min(timed, key=timed.__getitem__) if timed else None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the best peer we are; None where either was not timed."""
        best, ours = self.best_peer, self.contenders.get(OURS)
        if best is None or ours is None or ours.median_s is None:
            return None
        theirs = self.contenders[best].median_s
        return None if theirs is None else theirs / ours.median_s

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def row_from_document(document: Mapping[str, Any]) -> Row:
    """The row that :meth:`Row.document` wrote. Raises KeyError or TypeError for anything else."""
    contenders = {
        name: Measured(**{**entry, "round_medians_s": tuple(entry["round_medians_s"])}) for name, entry in document["contenders"].items()
    }
    return Row(**{**document, "contenders": contenders})


@dataclass(frozen=True)
class Bench:
    """How long and how often."""

    rounds: int = 9  # 0: open and check all, time nothing
    turn_s: float = 0.2  # seconds a contender runs in a round
    feeds: Feeds | None = None  # to make feeds of, for a file that is nobody's we know

    def rows(
        self,
        model: BenchModel,
        batches: Sequence[int],
        threads: str,
        contenders: Sequence[str],
        say: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Row]:
        """A row for every batch size, as it is done; the processes stay open in between. ``say`` is told what happens."""
        count = None if threads == "all" else int(threads)
        with tempfile.TemporaryDirectory(prefix="onnxferry-bench-") as folder:
            workers: dict[str, Worker] = {}
            lost: dict[str, Measured] = {}
            try:
                for name in contenders:
                    say(f"{model.name}: opening {name}")
                    workers[name] = Worker(name, model, count, Path(folder, f"{name}.log"))
                    try:
                        workers[name].open()
                    except WorkerError as error:
                        lost[name] = Measured("failed", str(error), version_of(name))
                for batch in batches:
                    ready = {name: worker for name, worker in workers.items() if name not in lost}
                    yield self._row(model, batch, threads, ready, lost, say)
            finally:
                for worker in workers.values():
                    worker.close()

    def _row(
        self,
        model: BenchModel,
        batch: int,
        threads: str,
        workers: Mapping[str, Worker],
        lost: Mapping[str, Measured],
        say: Callable[[str], None],
    ) -> Row:
        job = make_job(model, batch, self.feeds)
        if sum(array.nbytes for feed in job.feeds for array in feed.values()) > LARGE:
            job = Job(job.feeds[:FEW_FEEDS], job.answers[:FEW_FEEDS], job.contract)
        found: dict[str, Measured] = dict(lost)
        for name, worker in workers.items():
            say(f"{model.name}, batch {batch}, {threads} threads: checking the answers of {name}")
            found[name] = _checked(name, worker, job)
        racing = {name: worker for name, worker in workers.items() if found[name].status == "right"}
        turns: dict[str, list[Turn]] = {name: [] for name in racing}
        for number in range(self.rounds):
            say(f"{model.name}, batch {batch}, {threads} threads: round {number + 1} of {self.rounds}")
            order = list(racing)
            shift = number % len(order) if order else 0
            for name in order[shift:] + order[:shift]:
                try:
                    turns[name].append(racing[name].turn(self.turn_s))
                except WorkerError as error:
                    found[name] = Measured("failed", str(error), version_of(name))
                    del racing[name]
        for name in racing:
            if turns[name]:
                found[name] = _summed(found[name], turns[name])
        order = [name for name in (*workers, *lost) if name in found]
        per_run = TEXT_STEPS if model.writes else 0
        return Row(model.name, batch, threads, model.sha256, len(job.feeds), per_run, {name: found[name] for name in order})


def _checked(name: str, worker: Worker, job: Job) -> Measured:
    """What its answers are worth: ``right``, ``wrong`` or ``failed``."""
    version = version_of(name)
    try:
        about = worker.prepare(job.feeds)
        answers = worker.answers()
    except WorkerError as error:
        return Measured("failed", str(error), version)
    judgement = judge(job.answers, answers, job.contract, about["precision"] != "float32")
    return Measured("right" if judgement.passed else "wrong", judgement.words(), version, about["precision"], about["how"])


def _summed(measured: Measured, turns: Sequence[Turn]) -> Measured:
    times = sorted(time / 1e9 for turn in turns for time in turn.times)
    return Measured(
        "timed",
        measured.words,
        measured.version,
        measured.precision,
        measured.how,
        median_s=statistics.median(times),
        p10_s=times[len(times) // 10],
        p90_s=times[(len(times) * 9) // 10],
        round_medians_s=tuple(statistics.median(turn.times) / 1e9 for turn in turns),
        runs=len(times),
        idle_cpu_s=statistics.median(turn.idle_cpu_s for turn in turns),
    )
