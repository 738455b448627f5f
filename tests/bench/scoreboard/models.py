"""The models of the scoreboard: all that are shipped, and those that are made for measuring."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

from onnxferry.export.bench.workloads import BenchModel, bench_model
from onnxferry.runtime.artifact.zoo import zoo_names
from onnxferry.runtime.engine.ort import ONE_NODE_MODEL
from onnxferry.runtime.errors import ExportError
from onnxferry.runtime.files import downloads_folder, written_whole
from onnxferry.runtime.onnx_file.reader import file_sha256

MADE = ("resnet18", "lstm-2x512", "one-node")
"""Made when they are first asked for: see synthetic.py. ``one-node`` squares a number."""


def shipped_rows() -> tuple[str, ...]:
    """Names of the shipped models in the tables; both halves of an autoencoder."""
    names = zoo_names()
    return tuple(sorted((*names, *(f"{name}.decoder" for name in names if name.endswith("-ae")))))


def image_rows() -> tuple[str, ...]:
    """Those that are one network of convolutions, which can be built again from the file."""
    others = ("dates", "digit-scenes", "sentiment-en", "sentiment-zh", "shakespeare")
    return tuple(name for name in shipped_rows() if name not in others)


def scoreboard_model(name: str) -> BenchModel:
    """A shipped model, or one that is made. Raises ExportError where making it fails."""
    if name not in MADE:
        return bench_model(name)
    model = replace(bench_model(str(_made(name))), name=name)
    return replace(model, factory="scoreboard.synthetic:resnet18", seeded=True) if name == "resnet18" else model


def _made(name: str) -> Path:
    """Out of the cache, made if it is not there."""
    source = file_sha256(Path(__file__).with_name("synthetic.py"))[:8]
    path = downloads_folder() / "bench" / f"{name}-{source}.onnx"
    if name == "one-node" and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_bytes(ONE_NODE_MODEL)
    if not path.is_file():
        # Aside, because it takes PyTorch, whose threads and memory have no business here while others are timed.
        process = multiprocessing.get_context("spawn").Process(target=_make, args=(name, path))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise ExportError(f"the model {name!r} could not be made: its process ended with {process.exitcode}")
    return path


def _make(name: str, path: Path) -> None:
    from scoreboard.synthetic import make

    make(name, path)
