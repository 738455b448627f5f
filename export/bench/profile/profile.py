"""Where a run's time goes, by operator and by node: ONNX Runtime's profiler, run with the session options of our engine.

An operator with a subgraph (Scan, Loop, If) is counted without what runs inside it. The trace is ONNX Runtime's file, unchanged, in the
Trace Event Format (JSON array): https://ui.perfetto.dev opens it.
"""

from __future__ import annotations

import bisect
import json
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxferry.export.bench.profile.op_counts import KERNEL, OpCounts, count_ops, label
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import DeviceError
from onnxferry.runtime.files import written_whole
from onnxferry.runtime.timing import repeat_for, time_call
from onnxferry.runtime.tuning.tune import open_as
from onnxferry.runtime.tuning.tuned_engine import open_tuned

WARM_RUNS = 5


PROFILED_S = 0.5
"""Seconds of runs that are profiled."""


MAX_RUNS = 200


GRAPH = "optimised.onnx"


@dataclass(frozen=True)
class Share:
    """An operator or a node. Times are of one run, without those of subgraphs."""

    name: str
    calls: float  # a run
    seconds: float  # a run
    share: float  # of all operators' time


@dataclass(frozen=True)
class Profile:
    """``run_s`` and ``session_s`` are medians over ``runs`` runs; profiling slows small operators down a little."""

    runs: int
    run_s: float  # Engine.run, without the profiler
    session_s: float  # ONNX Runtime's own run, under the profiler
    operators: tuple[Share, ...]
    nodes: tuple[Share, ...]
    ops: OpCounts = field(default_factory=OpCounts)  # of one run

    @property
    def between_s(self) -> float:
        """Seconds of a run that are not inside an operator: memory allocation, and the time between operators."""
        return max(0.0, self.session_s - sum(operator.seconds for operator in self.operators))


def profile(engine: Engine, feeds: Sequence[Mapping[str, np.ndarray]], trace: Path | None = None) -> Profile:
    """Profile runs of ``feeds``, in turns. ``trace``: where to save the trace. Raises DeviceError if the profiler writes nothing."""
    outputs = [spec.name for spec in engine.outputs]
    for i in range(WARM_RUNS):
        engine.run(feeds[i % len(feeds)])
    times = [time_call(engine.run, feeds[i % len(feeds)]) for i in repeat_for(PROFILED_S, at_most=MAX_RUNS)]
    with tempfile.TemporaryDirectory(prefix="onnxferry-profile-") as folder:
        session = _profiled_session(engine, Path(folder))
        for i in range(WARM_RUNS + len(times)):
            session.run(outputs, dict(feeds[i % len(feeds)]))
        written = Path(session.end_profiling())
        events = read_trace(written)
        if trace is not None:
            with written_whole(trace) as part:
                shutil.copyfile(written, part)
        # Without the weights: their shapes are enough.
        ops = count_ops(last_run(events), onnx.load(Path(folder, GRAPH), load_external_data=False))
    return replace(summed(events, WARM_RUNS, statistics.median(times)), ops=ops)


def open_as_tuned(path: Path, feeds: Mapping[str, np.ndarray], threads: int | None) -> Engine:
    """The engine that a tuned model runs such feeds on. Raises as :func:`onnxferry.runtime.tuning.tune.tune`."""
    with open_tuned(describe(path), device="cpu", threads=threads) as tuned:
        setting, files = tuned.setting_for(feeds), tuned.tuning.files
    engine = open_as(setting, files[setting.variant], device="cpu")
    if isinstance(engine, Engine):
        return engine
    engine.close()
    words = f"{path.name} runs fastest on {setting.backend}, which has no profiler here: this is the profile of the default setting"
    warnings.warn(words, RuntimeWarning, stacklevel=2)
    return Engine(files[""], device="cpu", threads=setting.threads)


def _profiled_session(engine: Engine, folder: Path) -> Any:
    """A session of the engine's file with its providers and options, and the profiler on. Saves the optimized graph in ``folder``."""
    runtime = ort.onnxruntime()
    session = engine._session
    options = session.get_session_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "trace")
    options.optimized_model_filepath = str(folder / GRAPH)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{GRAPH}.weights")  # may be over 2 GB
    try:
        return runtime.InferenceSession(engine.path, options, providers=list(engine.providers))
    finally:
        options.enable_profiling = False
        options.optimized_model_filepath = ""


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a profiler's file. Raises DeviceError for a file that is not a trace, or one without operators."""
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        raise DeviceError(f"ONNX Runtime's profiler wrote no readable trace ({error})") from error
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise DeviceError("ONNX Runtime's profiler wrote something that is not a list of events")
    if not any(_is_kernel(event) for event in events):
        raise DeviceError("ONNX Runtime's profiler names no operators; it cannot profile on this provider")
    return events


def summed(events: Iterable[Mapping[str, Any]], skipped: int, run_s: float) -> Profile:
    """Times by operator and node: medians over all runs but the first ``skipped``."""
    every = sorted((e for e in events if "dur" in e and "ts" in e), key=lambda e: (e["ts"], -e["dur"]))
    runs = [event for event in every if event.get("name") == "model_run"][skipped:]
    starts = [event["ts"] for event in runs]
    kernels = [event for event in every if _is_kernel(event) and event["ts"] >= starts[0]]
    own = _own_times(kernels)
    by_operator: dict[str, list[list[float]]] = {}
    by_node: dict[str, list[list[float]]] = {}
    for event, microseconds in zip(kernels, own, strict=True):
        operator = str(event["args"]["op_name"])
        run = bisect.bisect_right(starts, event["ts"]) - 1
        for table, name in ((by_operator, operator), (by_node, label(event))):
            table.setdefault(name, [[] for _ in runs])[run].append(microseconds)
    session_s = statistics.median(event["dur"] for event in runs) / 1e6
    return Profile(len(runs), run_s, session_s, _shares(by_operator), _shares(by_node))


def last_run(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The kernels of the last run, in order."""
    every = [event for event in events if "ts" in event and "dur" in event]
    begun = max((event["ts"] for event in every if event.get("name") == "model_run"), default=0)
    return sorted((event for event in every if _is_kernel(event) and event["ts"] >= begun), key=lambda e: (e["ts"], -e["dur"]))


def _own_times(kernels: Sequence[Mapping[str, Any]]) -> list[float]:
    """Microseconds of each kernel without those that ran inside it. ``kernels``: sorted by start, the longer first."""
    own: list[float] = []
    stack: list[int] = []
    for index, event in enumerate(kernels):
        own.append(float(event["dur"]))
        while stack and event["ts"] >= kernels[stack[-1]]["ts"] + kernels[stack[-1]]["dur"]:
            stack.pop()
        if stack:
            own[stack[-1]] -= event["dur"]
        stack.append(index)
    return [max(0.0, microseconds) for microseconds in own]


def _shares(table: Mapping[str, Sequence[Sequence[float]]]) -> tuple[Share, ...]:
    medians = {name: statistics.median(map(sum, runs)) for name, runs in table.items()}
    whole = sum(medians.values()) or 1.0
    found = [
        Share(name, statistics.fmean(map(len, table[name])), microseconds / 1e6, microseconds / whole)
        for name, microseconds in medians.items()
    ]
    return tuple(sorted(found, key=lambda share: -share.seconds))


def _is_kernel(event: Mapping[str, Any]) -> bool:
    arguments = event.get("args")
    return (
        event.get("cat") == "Node"
        and str(event.get("name", "")).endswith(KERNEL)
        and isinstance(arguments, dict)
        and "op_name" in arguments
    )
