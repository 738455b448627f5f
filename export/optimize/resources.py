"""What optimizing takes: time and memory, estimated before each candidate, and what does not fit is skipped with the reason.

A candidate is timed for long enough to tell it from the original; a slow model gets fewer inputs and rounds for that, not more time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from onnxferry.export.graphs.nodes import weight_bytes
from onnxferry.export.graphs.writer import write_artifact
from onnxferry.export.optimize.samples import Samples
from onnxferry.export.optimize.score import SCORE_BATCH_SIZE, outputs_of
from onnxferry.export.optimize.timing import timing_seconds
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.machine.memory import memory_to_open, peak_memory, resident_memory, shortage
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.timing import clock

WITHIN = 600.0
"""Seconds that all candidates of a model may take by default."""


SCORING_SHARE = 0.1
"""Of the time limit, for running one candidate on the samples that it is scored on: of more samples, some are taken."""


COPIES = 2
"""Of the weights, while a candidate is made: the candidate, and the file or message that it is opened from."""


RUNNING = 1.7
"""Memory of a candidate's runs, as a multiple of the original's: with another layout of its convolutions, a ResNet-50 in float32 needs so
much more (64 images: 1.5 GB in place of 0.9)."""


FILE_FROM = 128 * 2**20
"""Bytes of weights from which on a candidate is opened from a file whose weights lie outside, which ONNX Runtime maps: as one message
they would be in memory twice more, and from 2 GB on protobuf cannot hold them."""


@dataclass(frozen=True)
class Making:
    """Memory that making a candidate takes beside copies of the weights, bytes."""

    kept: int = 0  # for the candidates after it
    meanwhile: int = 0


NOTHING_MORE = Making()


@dataclass
class Allowance:
    """What may be used, and what the original needs. ``say``: receives a line about anything that is left out."""

    seconds: float
    weights: int  # bytes
    say: Callable[[str], None]
    begun: float = field(default_factory=clock)
    runs: dict[int, float] = field(default_factory=dict)  # seconds of a run of the original, by batch size
    scoring: float = 0.0  # seconds to run it on all samples
    running: int = 0  # bytes that these runs needed beside the weights

    def measure(
        self, original: Runner, samples: Samples, feeds: Mapping[int, Mapping[str, np.ndarray]]
    ) -> tuple[Samples, dict[str, np.ndarray]]:
        """Runs the original: the samples that there is time to score on, and its outputs for them. ``feeds``: by batch size."""
        held = resident_memory()
        first = samples.take(slice(0, SCORE_BATCH_SIZE))
        start = clock()
        outputs_of(original, first.feeds)
        once = clock() - start
        rows = len(samples)
        fits = max(len(first), int(rows * self.seconds * SCORING_SHARE / max(once * rows / max(len(first), 1), 1e-9)))
        if fits < rows:
            self.say(f"scored on {fits} of {rows} samples: all would take {once * rows / len(first):.0f} s a candidate")
            samples = samples.take(np.sort(np.random.default_rng(0).permutation(rows)[:fits]))
        start = clock()
        expected = outputs_of(original, samples.feeds)
        self.scoring = clock() - start
        for batch, feed in feeds.items():
            for _ in range(2):  # from the second run of a shape on, ONNX Runtime has its values in one piece, beside the first one's
                start = clock()
                original.run(feed)
                self.runs[batch] = clock() - start
        most = peak_memory()
        if held is not None and most is not None:
            self.running = max(0, most - held.rss)
        return samples, expected

    def candidate_seconds(self, timing: float) -> float:
        """Of scoring and timing one candidate, about; making it is not counted. ``timing``: seconds at a batch size at least."""
        return self.scoring + sum(timing_seconds(run, timing) for run in self.runs.values())

    def candidate_bytes(self, making: Making = NOTHING_MORE) -> int:
        """Memory that one candidate needs beside what is held already, about."""
        running = memory_to_open(self.weights) + int(RUNNING * self.running)
        return COPIES * self.weights + making.kept + max(running, making.meanwhile)

    def refusal(self, timing: float, making: Making = NOTHING_MORE) -> str:
        """Why the next candidate is skipped; "" where it fits."""
        reason = shortage(self.candidate_bytes(making))
        if reason:
            return f"skipped: {reason}"
        needed, left = self.candidate_seconds(timing), self.begun + self.seconds - clock()
        return f"skipped: it needs about {needed:.0f} s, and {max(left, 0):.0f} of {self.seconds:.0f} s are left" if needed > left else ""


@contextlib.contextmanager
def as_source(model: onnx.ModelProto) -> Iterator[bytes | Path]:
    """A candidate as an engine takes it: its bytes, or a file in a temporary folder with the weights beside it."""
    if weight_bytes(model) < FILE_FROM:
        yield model.SerializeToString(deterministic=True)
        return
    with tempfile.TemporaryDirectory(prefix="onnxferry-") as folder:
        path = Path(folder).resolve() / "model.onnx"
        write_artifact(model, None, path, external_data_bytes=0)
        yield path


def bytes_of(source: bytes | Path) -> int:
    """Of a model, external weights included."""
    if isinstance(source, bytes):
        return len(source)
    return sum(file.stat().st_size for file in (source, *read_model(source).weight_files(source)))
