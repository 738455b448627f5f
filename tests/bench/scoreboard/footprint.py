"""What a contender costs before it answers once: seconds from a cold start, and bytes on the disk.

A cold start is a fresh Python process that imports the library, opens the model, and answers one feed; the files are in the page
cache, and the modules' bytecode in a cache too, as they are when an installed command is used twice. A size is that of the package's
own files and of all that it depends on.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.bench.workloads import BenchModel, Feeds
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import MODEL
from scoreboard.contenders import TABLE

COLD_S = 300.0
"""Seconds after which a cold start is given up."""


SLOW_S = 10.0
"""A cold start that takes longer is measured once."""


# What a program of somebody's would hold, and no more: each imports what it needs, and prints when the answer is there.
_HEAD = """
import sys, json
import numpy as np
path, feeds = {path!r}, dict(np.load({feeds!r}))
"""


_PROGRAMS: Mapping[str, str] = {
    "numpy": "",
    "onnxferry": """
from onnxferry.runtime import load
model = load({load_name!r}, device="cpu", tune=True)
model.run(feeds)
""",
    "onnxferry-untuned": """
from onnxferry.runtime import load
load(path, device="cpu").run(feeds)
""",
    "onnxruntime": """
import onnxruntime
onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
""",
    "openvino": """
sys.modules["openvino_telemetry"] = None
import openvino
openvino.Core().compile_model(path, "CPU", {{"PERFORMANCE_HINT": "LATENCY"}}).create_infer_request().infer(feeds)
""",
    "openvino-f32": """
sys.modules["openvino_telemetry"] = None
import openvino
settings = {{"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}}
openvino.Core().compile_model(path, "CPU", settings).create_infer_request().infer(feeds)
""",
    "torch": """
import torch
module = torch.jit.load({traced!r})
with torch.inference_mode():
    module(*(torch.from_numpy(feeds[name]) for name in {inputs!r}))
""",
}


_TAIL = """
sys.stdout.write("answered\\n")
sys.stdout.flush()
"""


@dataclass(frozen=True)
class ColdStart:
    """Seconds from starting Python to the first answer, the median, and how many starts that is of."""

    median_s: float
    starts: int


def cold_start(name: str, model: BenchModel, feeds: Feeds, starts: int = 5) -> ColdStart:
    """``name``: a contender, or ``numpy``, what Python and numpy alone take. PyTorch opens a traced module: the classes of a network of
    somebody's own would come on top.

    Raises InputError for one whose cold start is not measured (see :func:`can_start`), and where the program fails.
    """
    if not can_start(name, model):
        raise InputError(f"the cold start of {name!r} cannot be measured with {model.name}; expected one of {', '.join(_PROGRAMS)}")
    with tempfile.TemporaryDirectory(prefix="onnxferry-bench-") as folder:
        file = Path(folder, "feeds.npz")
        np.savez(file, **{key: np.asarray(array) for key, array in feeds.items()})  # type: ignore[arg-type]
        traced = Path(folder, "traced.pt")
        facts: dict[str, Any] = {"path": os.fspath(model.path), "feeds": os.fspath(file), "load_name": model.load_name}
        if name == "torch":
            _trace_aside(model, feeds, traced)
            facts |= {"traced": os.fspath(traced), "inputs": list(feeds)}
        program = (_HEAD + _PROGRAMS[name] + _TAIL).format(**facts)
        bytecode = os.fspath(Path(folder, "bytecode"))
        _start(program, name, bytecode)  # brings the files into the page cache, compiles modules, and brings a tuned engine its choice
        times: list[float] = []
        while len(times) < starts and not (times and times[0] > SLOW_S):
            times.append(_start(program, name, bytecode))
    return ColdStart(statistics.median(times), len(times))


def can_start(name: str, model: BenchModel) -> bool:
    """torch.compile compiles anew in most processes, and a text generator of PyTorch's is a loop of somebody's own: neither is measured."""
    return name in _PROGRAMS and not (name == "torch" and (model.writes or model.kind == MODEL.name))


def _trace_aside(model: BenchModel, feeds: Feeds, path: Path) -> None:
    """In a process of its own: PyTorch has no business in this one."""
    process = multiprocessing.get_context("spawn").Process(target=_trace, args=(model, dict(feeds), path))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise InputError(f"the PyTorch network of {model.name} cannot be traced: its process ended with {process.exitcode}")


def _trace(model: BenchModel, feeds: dict[str, np.ndarray], path: Path) -> None:
    import warnings

    import torch

    from scoreboard.rebuilt import rebuild

    rebuilt = rebuild(model.path)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and is still what opens fastest
        traced = torch.jit.trace(rebuilt.module, tuple(torch.from_numpy(feeds[name]) for name in rebuilt.inputs))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)


def _start(program: str, name: str, bytecode: str) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert process.stdout is not None
        too_long = threading.Timer(COLD_S, process.kill)  # ends the reading too
        too_long.start()
        line = process.stdout.readline()
        taken = time.perf_counter() - begun
        process.wait()
        too_long.cancel()
        process.stdout.close()
        if line.rstrip() != b"answered":
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise InputError(f"the cold start of {name} fails: {last[-1][:200]}")
    return taken


def installed_size(package: str) -> dict[str, int]:
    """Bytes of a package's files and of those of everything that it requires, by distribution; extras are left out.

    Source: the metadata of what is installed (PEP 376's RECORD, Requires-Dist). Raises InputError where it is not installed.
    """
    sizes: dict[str, int] = {}
    waiting = [package]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in sizes:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError as error:
            if sizes:  # a dependency of another platform, or one that was taken out
                continue
            raise InputError(f"the package {package!r} is not installed") from error
        sizes[name] = _bytes_of(found)
        waiting += [_required(line) for line in found.requires or () if _applies(line)]
    return sizes


def _bytes_of(found: Distribution) -> int:
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        # Installed in place: its files are where its packages are found.
        for name in ("runtime", "train", "export", "demo"):
            spec = importlib.util.find_spec(f"onnxferry.{name}") if found.name == "onnxferry" else None
            for place in spec.submodule_search_locations or () if spec else ():
                files += [file for file in Path(place).rglob("*") if "__pycache__" not in file.parts]
    return sum(file.stat().st_size for file in files if file.is_file())


def _required(line: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9._-]+)", line)
    return match[1] if match else ""


def _applies(line: str) -> bool:
    """Whether a Requires-Dist holds here: those of extras do not, those for another system or Python do not either."""
    marker = line.partition(";")[2].strip()
    if not marker:
        return True
    if "extra" in marker:
        return False
    from packaging.markers import Marker

    return bool(Marker(marker).evaluate())


def needed_packages(name: str) -> Sequence[str]:
    """Distributions that somebody installs to run a model with this contender."""
    package = TABLE[name].package
    wheel = package
    for candidate in (package, f"{package}-gpu"):
        try:
            wheel = distribution(candidate).name
            break
        except PackageNotFoundError:
            continue
    return ("onnxferry", wheel) if name.startswith("onnxferry") else (wheel,)


def sizes_of(names: Sequence[str]) -> dict[str, Any]:
    """By contender: bytes in all, and by distribution."""
    found: dict[str, Any] = {}
    for name in names:
        parts: dict[str, int] = {}
        for package in needed_packages(name):
            parts |= installed_size(package)
        found[name] = {"bytes": sum(parts.values()), "parts": parts}
    return found
