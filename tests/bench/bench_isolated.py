"""What a confined child process costs: one run of a shipped model behind it, over one run here, in turns.

python tests/bench/bench_isolated.py [--model digits] [--batch 1] [--rounds 200]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from onnxferry.runtime import Classifier, load
from onnxferry.runtime.timing import time_in_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (arguments.batch, 28, 28, 1), dtype=np.uint8)
    started = time.perf_counter()
    with load(arguments.model, isolated=True, threads=arguments.threads) as isolated:
        opened = time.perf_counter() - started
        with load(arguments.model, device="cpu", threads=arguments.threads) as here:
            if not (isinstance(isolated, Classifier) and isinstance(here, Classifier)):
                raise SystemExit(f"{arguments.model} is no image classifier")
            calls = {"here": lambda: here.engine.run({"image": image}), "isolated": lambda: isolated.engine.run({"image": image})}
            time_in_turns(calls, 0, 20)  # after these, both are warm
            times = time_in_turns(calls, 0, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    figures = {
        "model": arguments.model,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "here, microseconds": round(medians["here"] * 1e6, 1),
        "isolated, microseconds": round(medians["isolated"] * 1e6, 1),
        "ratio": round(medians["isolated"] / medians["here"], 3),
        "opening, seconds": round(opened, 2),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
