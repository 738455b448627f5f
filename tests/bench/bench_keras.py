"""One image through the exported file beside Keras' own ``predict``: the classic MNIST sample, Conv2D, MaxPooling2D, Flatten, Dense.

    python tests/bench/bench_keras.py [--backend torch]

Microseconds a call of one image, the best of several turns, Keras and the file in turns; one thread for the file. ``model(x)``, a call
without the loop of ``predict``, is shown too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TURNS = 7

SAMPLE = """
from keras import layers
from keras import models

model = models.Sequential()
model.add(layers.Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)))
model.add(layers.MaxPooling2D((2, 2)))
model.add(layers.Conv2D(64, (3, 3), activation='relu'))
model.add(layers.MaxPooling2D((2, 2)))
model.add(layers.Conv2D(64, (3, 3), activation='relu'))
model.add(layers.Flatten())
model.add(layers.Dense(64, activation='relu'))
model.add(layers.Dense(10, activation='softmax'))
"""
"""As it is printed in books and courses."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="torch", choices=("torch", "jax", "tensorflow"))
    os.environ["KERAS_BACKEND"] = backend = parser.parse_args().backend
    import numpy as np

    from onnxferry.runtime import Engine

    made: dict[str, Any] = {}
    exec(SAMPLE, made)  # noqa: S102  our own text
    model, image = made["model"], np.random.default_rng(0).random((1, 28, 28, 1), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        saved, path = Path(folder) / "sample.keras", Path(folder) / "sample.onnx"
        model.save(saved)
        environment = {**os.environ, "KERAS_BACKEND": "torch"}
        command = [sys.executable, "-m", "onnxferry.runtime", "export", str(saved), "-o", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        with Engine(path, device="cpu", threads=1) as engine:
            name = engine.inputs[0].name
            calls: dict[str, tuple[Callable[[], Any], int]] = {
                "predict": (lambda: model.predict(image, verbose=0), 20),
                "call": (lambda: model(image), 50),
                "file": (lambda: engine.run({name: image}), 500),
            }
            best = dict.fromkeys(calls, float("inf"))
            for _ in range(TURNS):
                for key, (call, times) in calls.items():
                    best[key] = min(best[key], seconds(call, times))
            difference = float(np.abs(engine.run({name: image})["output"] - model.predict(image, verbose=0)).max())
    shown = ", ".join(f"{key} {value * 1e6:.0f} µs" for key, value in best.items())
    print(
        f"Keras on {backend}: {shown}: {best['predict'] / best['file']:.1f} times as fast as predict; largest difference {difference:.1e}"
    )


def seconds(call: Callable[[], Any], times: int) -> float:
    call()
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    main()
