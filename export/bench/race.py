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
from dataclasses import dataclass
from pathlib import Path

from onnxferry.export.bench.contenders.base import version_of
from onnxferry.export.bench.correctness import judge
from onnxferry.export.bench.results import Measured, Row
from onnxferry.export.bench.worker import Turn, Worker, WorkerError
from onnxferry.export.bench.workloads import TEXT_STEPS, BenchModel, Feeds, Job, make_job
from onnxferry.runtime.timing import rotated

LARGE = 64 * 2**20
"""Bytes of feeds beyond which fewer rotate: there, one does not fit any cache, and checking them all would take minutes."""


FEW_FEEDS = 4


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
            for name in rotated(list(racing), number):
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
    times = sorted(time for turn in turns for time in turn.times)
    return Measured(
        "timed",
        measured.words,
        measured.version,
        measured.precision,
        measured.how,
        median_s=statistics.median(times),
        p10_s=times[len(times) // 10],
        p90_s=times[(len(times) * 9) // 10],
        round_medians_s=tuple(statistics.median(turn.times) for turn in turns),
        runs=len(times),
        idle_cpu_s=statistics.median(turn.idle_cpu_s for turn in turns),
    )
