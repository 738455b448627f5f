"""Interleaved timing of several backends on one model. Only backends whose outputs are correct are timed.

    bench = Bench(rounds=9, turn_s=0.2)
    for row in bench.rows(bench_model("digits"), [1, 64], "1", ["onnxferry", "onnxruntime"]):
        row.contenders["onnxferry"].median_s

Times are medians over all runs of all turns. Contenders take turns in rounds, and each round begins with another one, so that a
disturbance of the machine affects all of them.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxferry.export.bench.contenders.base import CONTENDERS, ContenderSpec, version_of
from onnxferry.export.bench.correctness import compare_answers
from onnxferry.export.bench.report import Results, wanted_rows
from onnxferry.export.bench.results import Measured, Row
from onnxferry.export.bench.worker import Turn, Worker, WorkerError
from onnxferry.export.bench.workloads import TEXT_STEPS, BenchModel, Feeds, Job, make_job
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.machine.memory import memory_to_open, shortage
from onnxferry.runtime.timing import clock, rotated

LARGE = 64 * 2**20
"""Bytes of inputs above which only FEW_FEEDS are used: one alone exceeds the caches then, and checking all would take minutes."""


FEW_FEEDS = 4


WITHIN = 300.0
"""Seconds that a row may take by default."""


FEW_ROUNDS = 3


ANSWERS_SHARE = 0.05
"""Of a row's time limit, for the plain file's outputs."""


WARMING = 4
"""Runs of a contender before it is timed, about, besides those that are checked: two ways are tried of some."""


def row_seconds(run_s: float, feeds: int, contenders: int, rounds: int, turn_s: float) -> float:
    """What a row takes, about, where a run takes ``run_s`` seconds: each contender is warmed, checked, and timed after a run to warm up."""
    return contenders * ((WARMING + feeds) * run_s + rounds * max(turn_s, 2 * run_s))


@dataclass(frozen=True)
class Bench:
    """How long and how often to measure."""

    rounds: int = 9  # 0: open and verify all, time nothing
    turn_s: float = 0.2  # seconds a contender runs in a round
    feeds: Feeds | None = None  # to make inputs of, for a model of no known kind
    table: Mapping[str, ContenderSpec] = field(default_factory=lambda: CONTENDERS)  # how contenders are opened
    within: float = WITHIN  # seconds that a row may take, about

    def rows(
        self,
        model: BenchModel,
        batches: Sequence[int],
        threads: str,
        contenders: Sequence[str],
        say: Callable[[str], None] = lambda line: None,
        note: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Row]:
        """Yields a row for each batch size; the processes stay open in between.

        ``say`` receives progress messages, ``note`` what rows are expected to take and took. A contender for which there is no memory is
        left out, and so is a row for which there is no time: their words say so.
        """
        needed = memory_to_open(describe(model.path).summary.weight_bytes)
        count = None if threads == "all" else int(threads)
        with tempfile.TemporaryDirectory(prefix="onnxferry-bench-") as folder:
            workers: dict[str, Worker] = {}
            lost: dict[str, Measured] = {}
            try:
                for name in contenders:
                    full = shortage(needed)
                    if full:
                        lost[name] = Measured("failed", f"skipped: {full}", version_of(self.table[name]))
                        continue
                    say(f"{model.name}: opening {name}")
                    workers[name] = Worker(self.table[name], model, count, Path(folder, f"{name}.log"))
                    try:
                        workers[name].open()
                    except WorkerError as error:
                        lost[name] = Measured("failed", str(error), version_of(self.table[name]))
                for batch in batches:
                    ready = {name: worker for name, worker in workers.items() if name not in lost}
                    yield self._row(model, batch, threads, ready, lost, say, note)
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
        note: Callable[[str], None],
    ) -> Row:
        start = clock()
        job = make_job(model, batch, self.feeds, seconds=self.within * ANSWERS_SHARE)
        if sum(array.nbytes for feed in job.feeds for array in feed.values()) > LARGE:
            job = Job(job.feeds[:FEW_FEEDS], job.answers[:FEW_FEEDS], job.contract, job.run_s)
        title = f"{model.name}, batch {batch}, {threads} threads"
        rounds = self.rounds
        expected = row_seconds(job.run_s, len(job.feeds), len(workers), rounds, self.turn_s)
        if expected > self.within and rounds > FEW_ROUNDS:
            rounds = FEW_ROUNDS
            expected = row_seconds(job.run_s, len(job.feeds), len(workers), rounds, self.turn_s)
        if expected > self.within:
            words = f"skipped: it would take about {expected:.0f} s, and a row may take {self.within:.0f}"
            note(f"{title}: {words}; raise --within")
            skipped = {name: Measured("failed", words, version_of(self.table[name])) for name in workers}
            return Row(model.name, batch, threads, model.sha256, len(job.feeds), 0, {**skipped, **lost})
        memory = human_bytes(len(workers) * memory_to_open(describe(model.path).summary.weight_bytes))
        note(f"{title}: about {expected:.0f} s, {rounds} rounds, {memory} of memory for weights")
        found: dict[str, Measured] = dict(lost)
        for name, worker in workers.items():
            say(f"{title}: checking the answers of {name}")
            found[name] = _checked(worker, job, version_of(self.table[name]))
        racing = {name: worker for name, worker in workers.items() if found[name].status == "right"}
        turns: dict[str, list[Turn]] = {name: [] for name in racing}
        for number in range(rounds):
            say(f"{title}: round {number + 1} of {rounds}")
            for name in rotated(list(racing), number):
                try:
                    turns[name].append(racing[name].turn(self.turn_s))
                except WorkerError as error:
                    found[name] = Measured("failed", str(error), version_of(self.table[name]))
                    del racing[name]
        for name in racing:
            if turns[name]:
                found[name] = _summed(found[name], turns[name])
        order = [name for name in (*workers, *lost) if name in found]
        per_run = TEXT_STEPS if model.writes else 0
        note(f"{title}: took {clock() - start:.0f} s")
        return Row(model.name, batch, threads, model.sha256, len(job.feeds), per_run, {name: found[name] for name in order})


def race(
    measuring: Bench,
    model: BenchModel,
    batches: Sequence[int],
    counts: Sequence[str],
    contenders: Sequence[str],
    results: Results,
    *,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """All rows of one model, added to ``results``; ``resume``: only those that it lacks. ``keep`` is called after each row."""
    for count in counts:
        left = wanted_rows(results, model.sha256, model.name, batches, count, contenders, measuring.rounds) if resume else batches
        if left:
            for row in measuring.rows(model, left, count, contenders, say, note):
                results.add(row)
                keep()


def _checked(worker: Worker, job: Job, version: str) -> Measured:
    """Its outputs verified: ``right``, ``wrong`` or ``failed``."""
    try:
        about = worker.prepare(job.feeds)
        answers = worker.answers()
    except WorkerError as error:
        return Measured("failed", str(error), version)
    judgement = compare_answers(job.answers, answers, job.contract, about["precision"] != "float32")
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
