"""Throughput of concurrent single calls, with and without a Batcher, as ratios in one run.

    python tests/bench/bench_batcher.py
    python tests/bench/bench_batcher.py --model fashion --callers 1 --callers 8 --callers 64

Callers are threads that each ask for one answer after another, with rows that differ from call to call. Rounds with and without
take turns; medians count. Before anything is timed, the answers of both are compared. Nothing else should run meanwhile. Prints
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from onnxferry.runtime import Batcher, load
from onnxferry.runtime.machine.cpu import cpu_name
from onnxferry.runtime.tuning.inputs import make_feeds

Call = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def answers_a_second(call: Call, feeds: list[dict[str, np.ndarray]], callers: int, seconds: float) -> float:
    """All callers together."""
    counts = [0] * callers
    start, stop = threading.Barrier(callers + 1), threading.Event()

    def ask(caller: int) -> None:
        start.wait()
        while not stop.is_set():
            call(feeds[(caller + counts[caller]) % len(feeds)])
            counts[caller] += 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def compare(name: str, callers: int, options: argparse.Namespace) -> dict[str, Any]:
    with (
        load(name, device="cpu") as model,
        Batcher(model.engine, max_batch_size=options.max_batch_size, max_wait=options.max_wait) as batcher,
    ):
        feeds = make_feeds(model.contract, model.engine.inputs, 1, count=16)
        for each in feeds:
            alone, merged = model.run(each), batcher.run(each)
            for output, array in alone.items():
                np.testing.assert_allclose(merged[output], array, rtol=1e-3, atol=1e-3 if array.dtype.kind == "f" else 1)
        found: dict[str, list[float]] = {"alone": [], "batcher": []}
        for turn in range(options.rounds):
            ways: list[tuple[str, Call]] = [("alone", model.run), ("batcher", batcher.run)]
            for way, call in ways if turn % 2 else ways[::-1]:
                found[way].append(answers_a_second(call, feeds, callers, options.seconds))
    alone_median, batcher_median = (statistics.median(found[way]) for way in ("alone", "batcher"))
    ratios = [b / a for a, b in zip(found["alone"], found["batcher"], strict=True)]
    return {
        "model": name,
        "callers": callers,
        "alone_per_second": round(alone_median, 1),
        "batcher_per_second": round(batcher_median, 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="default: digits, digits-gan and shakespeare")
    parser.add_argument("--callers", action="append", type=int, help="default: 1, 8 and 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--max-batch-size", type=int, default=32)
    parser.add_argument("--max-wait", type=float, default=0.005)
    options = parser.parse_args()
    models, callers = options.model or ["digits", "digits-gan", "shakespeare"], options.callers or [1, 8, 32]
    rows = [compare(model, count, options) for model in models for count in callers]
    machine = {"cpu": cpu_name(), "cpus": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    settings = {"max_batch_size": options.max_batch_size, "max_wait": options.max_wait, "rounds": options.rounds}
    print(json.dumps({"machine": machine, "settings": settings, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
