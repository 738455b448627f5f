"""Many threads on many models for a long time: every answer is the single-threaded one, and memory does not grow.

    python tests/bench/bench_soak.py --seconds 600 --threads 32

Each thread runs a model that all share, at one of several batch sizes, by run, run_into or arun; now and then it opens one of its own
and closes it. ``growth``: resident memory at the end over that after a quarter of the time. Wrong answers: 0; growth: at most 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from onnxferry.runtime import load
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import OnnxFerryError

MODELS = ("digits", "fashion", "digits-ae", "digits-gan", "fashion-gan")
BATCHES = (1, 2, 3, 8)
Feeds = dict[str, np.ndarray]


def feeds_of(engine: Engine, batch: int) -> Feeds:
    rng = np.random.default_rng(batch)
    made: Feeds = {}
    for spec in engine.inputs:
        if spec.dtype == "uint8":
            made[spec.name] = rng.integers(0, 256, (batch, 28, 28, 1), dtype=np.uint8)
        elif spec.dtype == "int64":
            made[spec.name] = (np.arange(batch) % 10).astype(np.int64)
        else:
            made[spec.name] = rng.standard_normal((batch, *(size for size in spec.shape[1:] if isinstance(size, int))), dtype=np.float32)
    return made


def resident() -> int:
    """Bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    import resource

    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=32)
    asked = parser.parse_args()
    engines = {}
    for name in MODELS:
        runner = load(name, device="cpu", threads=1).engine
        if not isinstance(runner, Engine):
            raise SystemExit(f"{name} does not run on the engine")
        engines[name] = runner
    right = {(name, batch): engines[name].run(feeds_of(engines[name], batch)) for name in MODELS for batch in BATCHES}
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    end = time.monotonic() + asked.seconds

    def work(number: int) -> None:
        rng = random.Random(number)
        own: Counter[str] = Counter()
        while time.monotonic() < end:
            name, batch, how = rng.choice(MODELS), rng.choice(BATCHES), rng.random()
            engine, wanted = engines[name], right[name, batch]
            feeds = feeds_of(engine, batch)
            try:
                if how < 0.02:
                    with load(name, device="cpu", threads=1) as model:
                        found = model.run(feeds)
                    own["opens"] += 1
                elif how < 0.3:
                    found = {key: np.empty_like(array) for key, array in wanted.items()}
                    engine.run_into(feeds, found)
                elif how < 0.35:
                    found = asyncio.run(engine.arun(feeds))
                else:
                    found = engine.run(feeds)
            except OnnxFerryError:
                own["errors"] += 1
                continue
            own["runs"] += 1
            own["wrong"] += any(not np.array_equal(found[key], array) for key, array in wanted.items())
        with lock:
            counts.update(own)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(asked.threads)]
    for thread in threads:
        thread.start()
    time.sleep(asked.seconds / 4)
    before = resident()
    for thread in threads:
        thread.join()
    after = resident()
    growth = round(after / before - 1, 4) if before else None
    figures = {"seconds": asked.seconds, "threads": asked.threads, "runs": counts["runs"], "opens": counts["opens"]}
    print(json.dumps({**figures, "wrong": counts["wrong"], "errors": counts["errors"], "growth": growth}, indent=2))
    sys.exit(counts["wrong"] + counts["errors"] > 0)


if __name__ == "__main__":
    main()
