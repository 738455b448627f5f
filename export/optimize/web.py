"""Variants for the browser: onnxruntime-web in Node.js opens them, replays their golden samples and times them beside the original.

with web_bench(path, load_onnx(path), contract, None) as bench:
    refused, facts = bench.judged(variant, contract, {1: feeds}, seconds=1.0)

A variant for the browser is one that is smaller to download (with gzip, as web servers send files) and not slower there. Where
onnxruntime-web cannot be run, speed is not measured, and what is known to be slow in WebAssembly is refused.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx

from onnxferry.export.graphs.writer import write_artifact
from onnxferry.export.optimize.timing import MIN_ROUNDS, Speed
from onnxferry.runtime import embed
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.metadata import json_from_array
from onnxferry.runtime.embed.web_runtime import PACKAGE, SLOW, VERSION, lacking, web_runtime
from onnxferry.runtime.errors import DataError, DeviceError, InputError
from onnxferry.runtime.timing import median_and_error, ratios

MIN_SMALLER = 0.95
"""Maximum size of a variant for the browser, as a share of the original's; both with gzip."""


_SLOWER = 0.98
"""Below it, and by more than the noise, a variant is slower than its original."""


_PATIENCE = 600  # seconds for one answer


class WebRuntime:
    """onnxruntime-web in a process of Node.js. A model that ends the process ends that answer only: the next one starts another.

    Raises DeviceError where Node.js does not answer or the model cannot run there.
    """

    def __init__(self, package: Mapping[str, bytes], node: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxferry-web-")
        self._node = node
        self._process: subprocess.Popen[str] | None = None
        self._opened: dict[str, Path] = {}
        place = Path(self._folder.name)
        for name, data in package.items():
            (place / name).write_bytes(data)
        modules = files(embed).joinpath("templates", "modules", "artifact.mjs")
        (place / "artifact.mjs").write_bytes(modules.read_bytes())
        (place / "session.mjs").write_bytes(Path(__file__).with_name("web_session.mjs").read_bytes())

    def open(self, side: str, path: Path) -> str:
        """Opens a file as the ``"original"`` or the ``"variant"``. What is wrong with its golden samples, ``""`` if nothing is."""
        self._opened[side] = path
        return str(self._ask({"call": "open", "side": side, "path": str(path)}))

    def compare(self, feeds: Sequence[Mapping[str, np.ndarray]], seconds: float) -> Speed:
        """Times both sides on ``feeds``, in turns, as :func:`~onnxferry.export.optimize.timing.compare_speed` does here."""
        arrays = [{name: json_from_array(array) for name, array in each.items()} for each in feeds]
        times = self._ask({"call": "time", "feeds": arrays, "seconds": seconds, "rounds": MIN_ROUNDS})
        ratio, error = median_and_error(ratios(times["original"], times["variant"]))
        original, variant = (statistics.median(times[side]) / 1000 / len(feeds) for side in ("original", "variant"))
        return Speed(ratio, error, original, variant)

    def close(self) -> None:
        """Ends the process. Closing twice does no harm."""
        self._stop()
        self._folder.cleanup()

    def __enter__(self) -> WebRuntime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        if self._process is None:
            self._process = subprocess.Popen(
                [self._node, "session.mjs"],
                cwd=self._folder.name,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            for side, path in self._opened.items():
                if side != request.get("side"):
                    self._exchange({"call": "open", "side": side, "path": str(path)})
        return self._exchange(request)

    def _exchange(self, request: Mapping[str, Any]) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise DeviceError(f"{PACKAGE} is not running in Node.js")
        late = threading.Timer(_PATIENCE, process.kill)
        late.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            late.cancel()
        if not line:
            self._stop()
            raise DeviceError(f"{PACKAGE} {VERSION} ended, or gave no answer within {_PATIENCE} s, in Node.js")
        answer = json.loads(line)
        if "error" in answer:
            self._stop()  # after an error inside WebAssembly nothing else runs there
            raise DeviceError(f"{PACKAGE} {VERSION} cannot run it: {answer['error']}")
        return answer["result"]

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None


@dataclass(frozen=True)
class WebBench:
    """What variants for the browser are measured with."""

    runtime: WebRuntime | None
    words: str  # where they are timed, or why they are not
    folder: Path  # for files that are opened there
    original_bytes: int  # of the original, with gzip

    def judged(
        self, model: onnx.ModelProto, contract: Contract, feeds: Mapping[int, Sequence[Mapping[str, np.ndarray]]], seconds: float
    ) -> tuple[str, dict[str, Any]]:
        """Why a variant is refused there, ``""`` if it is not; and its facts: ``transferred`` and ``speed``, by batch size.

        ``feeds``: what it is timed on, by batch size. Raises DeviceError where it cannot run.
        """
        path = self.folder / "variant.onnx"
        write_artifact(model, contract, path)
        operators = describe(path).summary.operators
        facts: dict[str, Any] = {"transferred": transferred(path)}
        if refused := refused_operators(operators):
            return refused, facts
        if facts["transferred"] > MIN_SMALLER * self.original_bytes:
            return f"not smaller: {facts['transferred']} bytes with gzip, the original {self.original_bytes}", facts
        if self.runtime is None:
            return slow_operators(operators), facts
        if wrong := self.runtime.open("variant", path):
            return f"wrong in {PACKAGE}: {wrong}", facts
        facts["speed"] = speed = {batch: self.runtime.compare(each, seconds) for batch, each in feeds.items()}
        slower = [f"{each.ratio:.2f} × as fast at batch {batch}" for batch, each in speed.items() if each.ratio + 2 * each.noise < _SLOWER]
        return f"slower in {PACKAGE}: {', '.join(slower)}" if slower else "", facts


@contextlib.contextmanager
def web_bench(path: Path, model: onnx.ModelProto, contract: Contract, package: Path | None) -> Iterator[WebBench]:
    """For variants of the artifact at ``path``, whose graph is ``model``.

    ``package``: as in :func:`open_web`. Raises InputError for an original that a page cannot run, with the operator.
    """
    described = describe(path)
    where = f"a page cannot run {path.name}"
    if described.weights:
        raise InputError(
            f"{where}: its weights lie in files of their own ({next(iter(described.weights)).name}), and a page loads one file"
        )
    if refused := refused_operators(described.summary.operators):
        raise InputError(f"{where}: {refused}; export the model without it")
    with open_web(package) as runtime, tempfile.TemporaryDirectory(prefix="onnxferry-web-") as folder:
        original = Path(folder) / "original.onnx"
        write_artifact(model, contract, original)  # a file from elsewhere may have no contract of its own
        if isinstance(runtime, str):
            yield WebBench(None, f"not timed in {PACKAGE}: {runtime}", Path(folder), transferred(path))
            return
        if wrong := runtime.open("original", original):
            raise InputError(f"{where}: wrong in {PACKAGE} {VERSION}, {wrong}")
        yield WebBench(runtime, f"timed in {PACKAGE} {VERSION} in Node.js, one thread", Path(folder), transferred(path))


@contextlib.contextmanager
def open_web(package: Path | None) -> Iterator[WebRuntime | str]:
    """The runtime, or in words why it cannot be had: there is no Node.js, or npm cannot fetch the package.

    ``package``: an unpacked npm package onnxruntime-web; None for the cache, filled with npm where it is empty. Raises InputError for a
    folder that is not that package.
    """
    node = shutil.which("node")
    if node is None and package is None:
        yield "Node.js is not installed"
        return
    try:
        found = web_runtime(package)
    except DataError as error:
        yield str(error)
        return
    if node is None:
        yield "Node.js is not installed"
        return
    with WebRuntime(found, node) as runtime:
        yield runtime


def refused_operators(operators: Iterable[str]) -> str:
    """Why a model with these operators, "domain::operator", cannot run in a browser; ``""`` if it can."""
    missing = lacking(operators)
    return f"{PACKAGE} {VERSION} has no kernel for {', '.join(missing[:5])}" if missing else ""


def slow_operators(operators: Iterable[str]) -> str:
    """What is known to be slow in WebAssembly among them, in words; ``""`` if nothing is."""
    return "; ".join(words for name, words in SLOW.items() if name in set(operators))


def transferred(path: Path) -> int:
    """Bytes of a file with gzip, as web servers send it."""
    return len(gzip.compress(path.read_bytes(), 6))
