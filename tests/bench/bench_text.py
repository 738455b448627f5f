"""Seconds for one more byte at batch 1: the exported graph against the ways to do it in PyTorch, in one run.

    python tests/bench/bench_text.py                            # the shape of the shipped model
    python tests/bench/bench_text.py --cell gru --width 256 --depth 1
    python tests/bench/bench_text.py --bits 8                   # with weights that are stored in 8 bits

All write the same bytes from the same uniform numbers, with the same weights, at temperature 0.8:

    runtime           TextGenerator.generate
    network           the training network itself, a byte at a time
    cells             torch.lstm_cell or torch.gru_cell, layer by layer, in inference mode
    compiled cells    the same under torch.compile
    traced cells      the same under torch.jit.trace and freeze

Each is warmed up and then timed in rounds that take turns; the median of its rounds counts, with one thread and with all
cores, whichever is faster for it. Nothing else should run meanwhile. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onnxferry.export import export_checkpoint
from onnxferry.export.families.rnn.bits import rounded
from onnxferry.runtime import TextGenerator, load
from onnxferry.train.families.rnn import START, Rnn, RnnConfig, choose, state_after
from onnxferry.train.loop.checkpoint import Checkpoint
from scoreboard.rebuilt import Cells

TEMPERATURE = 0.8
Step = Callable[..., tuple[Tensor, ...]]


def with_cells(step: Step, start: Tensor) -> Callable[[np.ndarray], bytes]:
    def write(uniforms: np.ndarray) -> bytes:
        written = []
        sharpness = torch.tensor(1 / TEMPERATURE)
        with torch.inference_mode():
            state = start.unbind(dim=1)
            for uniform in torch.from_numpy(uniforms).split(1):
                byte, *after = step(uniform, sharpness, *state)
                # A compiled step may reuse its outputs' memory.
                written.append(int(byte))
                state = tuple(after)
        return bytes(written)

    return write


def with_network(network: Rnn, start: Tensor) -> Callable[[np.ndarray], bytes]:
    def write(uniforms: np.ndarray) -> bytes:
        written, state = [], start
        with torch.inference_mode():
            for uniform in torch.from_numpy(uniforms).split(1):
                byte = choose(network.logits_of(state), uniform, TEMPERATURE)
                _, state = network(byte[None], state)
                written.append(int(byte))
        return bytes(written)

    return write


def ways(network: Rnn, start: Tensor) -> dict[str, Callable[[np.ndarray], bytes]]:
    cells = Cells(network).eval()
    example = (torch.tensor([0.5]), torch.tensor(1 / TEMPERATURE), *start.unbind(dim=1))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; it is measured all the same
        traced = torch.jit.freeze(torch.jit.trace(cells, example))
    return {
        "network": with_network(network, start),
        "cells": with_cells(cells, start),
        "compiled cells": with_cells(torch.compile(cells), start),  # type: ignore[arg-type]
        "traced cells": with_cells(traced, start),
    }


def alike(a: bytes, b: bytes) -> int:
    """Bytes before the first that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=("lstm", "gru"), default="lstm")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--skip", action="store_true")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=16, help="that a weight is stored in")
    parser.add_argument("--bytes", type=int, default=500, help="written in a round")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    config = RnnConfig(cell=arguments.cell, depth=arguments.depth, width=arguments.width, skip=arguments.skip)
    network = Rnn(config).eval()
    with torch.no_grad():
        network.head.weight.normal_(0, 0.3)
    network = rounded(rounded(network, 16), arguments.bits)
    network.requires_grad_(False)
    start = state_after(network, START)
    uniforms = np.random.Generator(np.random.PCG64(0)).random(arguments.bytes, dtype=np.float32)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    runs: dict[str, Callable[[], bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "best.pt")
        examples = {"text": torch.arange(256, dtype=torch.uint8)}
        Checkpoint("rnn", vars(config), dict(network.state_dict()), data={"name": "none"}, examples=examples).save(source)
        export_checkpoint(source, Path(folder, "model.onnx"), bits=arguments.bits)
        for threads in sorted({1, cores}):
            model = load(Path(folder, "model.onnx"), device="cpu", threads=threads)
            assert isinstance(model, TextGenerator)

            def with_runtime(model: TextGenerator = model) -> bytes:
                feeds = {"uniforms": uniforms[None], "prompt": np.zeros((1, 0), np.uint8), "temperature": np.float32(TEMPERATURE)}
                return bytes(model.run(feeds)["bytes"][0].tobytes())

            runs[f"runtime, {threads} threads"] = with_runtime
        torch_ways = ways(network, start)
        for threads, (name, way) in itertools.product(sorted({1, cores}), torch_ways.items()):

            def with_torch(threads: int = threads, way: Callable[[np.ndarray], bytes] = way) -> bytes:
                torch.set_num_threads(threads)
                return way(uniforms)

            runs[f"{name}, {threads} threads"] = with_torch
        texts = {name: run() for name, run in runs.items()}  # warms up, and shows that all do the same
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                seconds[name].append((time.perf_counter() - begun) / arguments.bytes)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = min(value for name, value in medians.items() if name.startswith("runtime"))
    theirs = {name: value for name, value in medians.items() if not name.startswith("runtime")}
    best = min(theirs, key=theirs.__getitem__)
    expected = texts["cells, 1 threads"]
    print(
        json.dumps(
            {
                "model": vars(config),
                "bits of a weight": arguments.bits,
                "microseconds a byte, medians": {name: round(1e6 * value, 1) for name, value in medians.items()},
                "bytes of a round": arguments.bytes,
                "bytes before the first that differs": {name: alike(text, expected) for name, text in texts.items()},
                "best of PyTorch": best,
                "times as fast as the best of PyTorch": round(theirs[best] / ours, 2),
                "machine": f"{platform.machine()}, {cores} cores",
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
