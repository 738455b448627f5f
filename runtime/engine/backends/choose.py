"""Which back ends are installed, in which version, and how a model is opened on one.

installed_backends()      # {"openvino": "2026.4.1"}
open_backend("openvino", describe("model.onnx"), threads=2)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from onnxferry.runtime.arguments import instead
from onnxferry.runtime.artifact.describe import Description
from onnxferry.runtime.artifact.variants import certified_backends
from onnxferry.runtime.engine.backends import plugins
from onnxferry.runtime.engine.backends.openvino import OpenVINOEngine
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.ort import ONNXRUNTIME
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError
from onnxferry.runtime.machine.cpu import cpu_features

OPENVINO = "openvino"


BACKENDS = (ONNXRUNTIME, OPENVINO, *plugins.KNOWN)
"""All that :func:`open_backend` takes, and every other wheel that is named like a plugin provider's."""


PRECISIONS = ("float32", "bfloat16")
"""Arithmetic that a back end can be asked for."""


AnyEngine = Engine | OpenVINOEngine


def check_name(backend: object) -> str:
    """Raises InputError for what is no back end."""
    if isinstance(backend, str) and (backend in BACKENDS or plugins.is_plugin(backend)):
        return backend
    hint = instead(backend, list(BACKENDS)) if isinstance(backend, str) else ""
    raise InputError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, or another onnxruntime-ep-… wheel, got {backend!r}{hint}")


def version_of(backend: str) -> str:
    """Of the installed wheel; "" where there is none. Imports no back end."""
    return _version("onnxruntime" if backend == ONNXRUNTIME else backend)


@functools.cache
def _version(wheel: str) -> str:
    from importlib import metadata, util  # only here: they take longer to import than a prediction

    if util.find_spec(wheel.replace("-", "_")) is None:
        return ""
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return ""


def installed_backends() -> dict[str, str]:
    """Versions by name, of those that can be tried without a word: ONNX Runtime itself is not among them."""
    return {name: version for name in BACKENDS if name != ONNXRUNTIME and (version := version_of(name))}


def open_backend(
    backend: str, model: Description, *, threads: int | None = None, sizes: Mapping[str, int] | None = None, timeout: float | None = None
) -> AnyEngine:
    """A model on a back end, in float32, or in the precision that its certificate names.

    Raises MissingExtraError where the back end is not installed, ArtifactError where the file is certified for another one, another
    version or other CPUs, DeviceError where the back end cannot run it, InputError for arguments that do not fit.
    """
    precision = certified_precision(model, backend)
    if backend == OPENVINO:
        return OpenVINOEngine(model, threads=threads, sizes=sizes, precision=precision, timeout=timeout)
    if precision != "float32":
        raise ArtifactError(f"{model.name} is certified for {precision}, which is not asked of {backend}; open it on {OPENVINO}")
    return Engine(model, device="auto", threads=threads, providers=[backend], sizes=sizes, timeout=timeout)


def verified(engine: AnyEngine, backend: str, name: str) -> AnyEngine:
    """The engine, if it gives the file's golden samples: a back end may compute an operator otherwise than ONNX, and not say so.

    OpenVINO 2026.4, for example, gives other answers for the included text classifiers, translator and detector. A file without golden
    samples is taken as it is. ``name``: the file's, for the message. Raises DeviceError, and closes the engine, where a sample comes out
    otherwise.
    """
    failed = next((each for each in replay(engine).comparisons if not each.passed), None)
    if failed is None:
        return engine
    engine.close()
    raise DeviceError(
        f"{backend} {version_of(backend)} does not give the golden samples of {name}: sample {failed.sample}, output {failed.output!r}: "
        f"{failed.problem}; leave backend out"
    )


def certified_precision(model: Description, backend: str) -> str:
    """The arithmetic that a file may run with on a back end: float32, unless its certificate says otherwise for this version and CPU.

    Raises ArtifactError with the reason where a variant is not certified for it.
    """
    certificate = model.contract.certificate if model.contract is not None else {}
    if not certificate:
        return "float32"
    backends = certified_backends(certificate)
    if backend not in backends:
        made_for = ", ".join(backends) or "another back end"
        raise ArtifactError(f"{model.name} is certified for {made_for} alone, not for {backend}; `onnxferry optimize` certifies it here")
    if backend == ONNXRUNTIME:
        return "float32"
    entry, version = backends[backend], version_of(backend)
    if entry.get("version") != version:
        raise ArtifactError(
            f"{model.name} is certified for {backend} {str(entry.get('version'))[:40]}, and "
            f"{version or 'none'} is installed; `onnxferry optimize` certifies it here"
        )
    precision = entry.get("precision", "float32")
    if precision not in PRECISIONS:
        raise ArtifactError(f"{model.name} is certified for the precision {str(precision)[:40]!r}, which this version does not know")
    wanted = entry.get("cpu_features", ())
    missing = missing_features(wanted if isinstance(wanted, list) else ())
    if missing:
        raise ArtifactError(f"{model.name} is certified for CPUs with {', '.join(missing)}, which this one lacks: its results would differ")
    return str(precision)


def missing_features(wanted: Any) -> list[str]:
    """Those of the named instruction sets that this CPU does not have."""
    have = set(cpu_features().replace("|", " ").split())
    return [str(name)[:40] for name in wanted if str(name) not in have][:8]
