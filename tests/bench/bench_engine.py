"""What the engine costs: calls of a one-node model against bare ONNX Runtime, and the start of a fresh process.

    python tests/bench/bench_engine.py                  # prints JSON; --rounds, --starts

``one_node``: microseconds a call, the median over rounds that are interleaved call by call, of y = x * x for one float32. Bare are
``InferenceSession.run`` with the outputs' names, the fastest way to call it, and ``run_with_iobinding`` on arrays bound once.
``arun`` is one awaited run in an event loop that has nothing else to do, beside ONNX Runtime's own ``run_async``.

``start``: seconds from the start of the process to its end for ``load("digits").predict(image)``, and of CPU time, beside a process
that imports numpy and onnxruntime and does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime

from onnxferry.runtime import Engine
from onnxferry.runtime.engine import ort
from onnxferry.runtime.machine.cpu import cpu_name

CALLS = 20  # in a row of one kind: the clock is read once for them

START = "from onnxferry.runtime import load\nimport numpy\nprint(load('digits').predict(numpy.zeros((28, 28), 'uint8'))[0].label)"
BARE_START = "import numpy, onnxruntime"


def median_of(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median microseconds of each way, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, call in ways.items():
            started = time.perf_counter_ns()
            for _ in range(CALLS):
                call()
            if turn:  # the first warms up
                times[name].append((time.perf_counter_ns() - started) / CALLS / 1e3)
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def one_node(rounds: int) -> dict[str, float]:
    engine = Engine(ort.ONE_NODE_MODEL, device="cpu", threads=1)
    session = onnxruntime.InferenceSession(ort.ONE_NODE_MODEL, session_options(1), providers=["CPUExecutionProvider"])
    x, y = np.full(1, 3, np.float32), np.empty(1, np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(y))
    feeds, outputs = {"x": x}, {"y": y}
    engine.run_into(feeds, outputs)
    assert y[0] == 9 == engine.run(feeds)["y"][0] == session.run(["y"], feeds)[0][0]
    fresh = session.io_binding()
    fresh.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    fresh.bind_output("y")

    def bound_with_new_outputs() -> None:
        session.run_with_iobinding(fresh)
        fresh.copy_outputs_to_cpu()

    ways: dict[str, Callable[[], object]] = {
        "bare run": lambda: session.run(["y"], feeds),
        "engine run": lambda: engine.run(feeds),
        "engine run_into": lambda: engine.run_into(feeds, outputs),
        "engine run_into, new arrays": lambda: engine.run_into({"x": x.copy()}, {"y": np.empty(1, np.float32)}),
        "bare run_with_iobinding": lambda: session.run_with_iobinding(binding),
        "bare run_with_iobinding, new outputs": bound_with_new_outputs,
    }
    result = median_of(ways, rounds)
    result["engine run - bare run"] = round(result["engine run"] - result["bare run"], 3)
    return result


def awaited(rounds: int) -> dict[str, float]:
    engine = Engine(ort.ONE_NODE_MODEL, device="cpu", threads=2)
    session = onnxruntime.InferenceSession(ort.ONE_NODE_MODEL, session_options(2), providers=["CPUExecutionProvider"])
    feeds = {"x": np.full(1, 3, np.float32)}

    async def own() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future = loop.create_future()
        session.run_async(["y"], feeds, lambda results, _, error: loop.call_soon_threadsafe(future.set_result, results), None)
        await future

    async def main() -> dict[str, float]:
        times: dict[str, list[float]] = {"engine arun": [], "run_async": []}
        for turn in range(rounds + 1):
            for name, call in (("engine arun", lambda: engine.arun(feeds)), ("run_async", own)):
                started = time.perf_counter_ns()
                await call()
                if turn:
                    times[name].append((time.perf_counter_ns() - started) / 1e3)
        return {name: round(statistics.median(each), 1) for name, each in times.items()}

    return asyncio.run(main())


def session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def starts(times: int) -> dict[str, float]:
    measured: dict[str, list[tuple[float, float]]] = {"start": [], "numpy and onnxruntime alone": []}
    for turn in range(times + 1):
        for name, code in (("start", START), ("numpy and onnxruntime alone", BARE_START)):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - started
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if turn:  # the first fills the page cache
                measured[name].append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    result = {}
    for name, each in measured.items():
        result[name] = round(statistics.median(wall for wall, _ in each), 4)
        result[f"{name}, CPU"] = round(statistics.median(cpu for _, cpu in each), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help=f"of {CALLS} calls of each way")
    parser.add_argument("--starts", type=int, default=15)
    arguments = parser.parse_args()
    figures = {
        "machine": {"cpu": cpu_name(), "cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
        "one_node_us": one_node(arguments.rounds),
        "awaited_us": awaited(arguments.rounds),
        "start_s": starts(arguments.starts),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
