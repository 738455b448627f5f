"""One row through the exported file beside JAX's jitted function: a perceptron of 64 -> 256 -> 256 -> 10, answers as numpy arrays.

    python tests/bench/bench_jax.py

Microseconds a call, the best of 7 turns of 3,000 calls each, JAX and the file in turns; one thread for the file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from onnxferry.export import export_model
from onnxferry.runtime import Engine

CALLS, TURNS = 3_000, 7


def main() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) * 0.1 for shape in ((64, 256), (256, 256), (256, 10))]
    row = rng.standard_normal((1, 64)).astype(np.float32)

    def perceptron(x: Any) -> Any:
        for weight in weights[:-1]:
            x = jax.nn.relu(x @ weight)
        return jax.nn.softmax(x @ weights[-1])

    jitted = jax.jit(perceptron)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perceptron.onnx"
        export_model(perceptron, (row,), path, dynamic_shapes=({0: "batch"},))
        with Engine(path, device="cpu", threads=1) as engine:
            best = {"jax": float("inf"), "file": float("inf")}
            calls: dict[str, Callable[[], Any]] = {"jax": lambda: np.asarray(jitted(row)), "file": lambda: engine.run({"x": row})}
            for _ in range(TURNS):
                for name, call in calls.items():
                    best[name] = min(best[name], seconds(call))
    print(f"JAX {best['jax'] * 1e6:.1f} µs, file {best['file'] * 1e6:.1f} µs: {best['jax'] / best['file']:.2f} times as fast")


def seconds(call: Callable[[], Any]) -> float:
    call()
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS


if __name__ == "__main__":
    main()
