"""The one door to ONNX Runtime: its lazy import, its providers by short name, and its exceptions in words.

Nothing else in the runtime imports ``onnxruntime``; it is imported when the first model is opened, and is typed ``Any``
because the wheel carries no types.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxferry.runtime import hardware
from onnxferry.runtime.errors import DeviceError, InputError, MissingExtraError

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

CUDA_OPTIONS: Mapping[str, str] = {
    # TensorFloat-32 keeps 10 bits of the mantissa: far outside the tolerances an artifact was judged by.
    "use_tf32": "0",
    # The default, EXHAUSTIVE, times every algorithm again for each new input shape, and inputs here are of any size.
    "cudnn_conv_algo_search": "HEURISTIC",
}

Provider = str | tuple[str, Mapping[str, Any]]

_CUDA_HELP = "pip install 'onnxferry[cuda]' brings the libraries, `onnxferry doctor` shows what is missing"
_REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxferry[cpu]' (or 'onnxferry[gpu]')"


@functools.cache
def onnxruntime() -> Any:
    """The onnxruntime module. Raises MissingExtraError where no wheel is installed, DeviceError where it is broken."""
    try:
        module = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise DeviceError(f"ONNX Runtime is installed but cannot be imported ({error}); {_REINSTALL}") from error
        raise MissingExtraError("onnxruntime", "cpu", "running a model", note="or 'onnxferry[gpu]' for NVIDIA GPUs") from error
    except (ImportError, OSError) as error:
        raise DeviceError(f"ONNX Runtime is installed but cannot be imported ({error}); {_REINSTALL}") from error
    if not hasattr(module, "InferenceSession"):
        # Uninstalling one of two wheels that share the folder leaves an empty shell behind.
        raise DeviceError(f"ONNX Runtime is only half installed (it has no InferenceSession); {_REINSTALL}")
    return module


@functools.cache
def error_classes() -> tuple[type[Exception], ...]:
    """Everything ONNX Runtime raises of its own. Its classes share no base, and versions differ in which they have."""
    names = ("EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoadCanceled")
    names += ("ModelLoaded", "ModelRequiresCompilation", "NoModel", "NoSuchFile", "NotFound", "NotImplemented", "RuntimeException")
    state = onnxruntime().capi.onnxruntime_pybind11_state
    own = tuple(getattr(state, name) for name in names if hasattr(state, name))
    # The binding layer itself raises plain ones: ValueError, TypeError, RuntimeError; bad_alloc comes out as MemoryError.
    return (*own, ValueError, TypeError, RuntimeError, MemoryError)


_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_STATUS_CODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")
_SOURCE = re.compile(r"(?:[A-Za-z]:)?[/\\]\S*?\.(?:cc|cpp|h|hpp|cu|cuh):\d+ (?:[^()\n]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)?(?: \[with [^\]]*\])?)?\s*")


def words(error: BaseException) -> str:
    """An ONNX Runtime exception as one readable line: no status codes, no C++ file names or signatures."""
    text = _STATUS.sub("", str(error).strip())
    text = _STATUS_CODE.sub(lambda match: f"node {match[2] or '(no name)'} ({match[1]}): ", text)
    text = " ".join(_SOURCE.sub("", text).split())
    if not text:
        text = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."


def short_name(provider: str) -> str:
    """``CUDAExecutionProvider`` → ``cuda``."""
    return provider.removesuffix("ExecutionProvider").lower()


def device_of(providers: Sequence[str]) -> str:
    """Where a session with these active providers runs: ``cpu``, ``cuda``, or another provider's short name."""
    first = short_name(providers[0]) if providers else "cpu"
    return {"tensorrt": "cuda", "nvtensorrtrtx": "cuda", "openvino": "cpu", "xnnpack": "cpu", "dnnl": "cpu"}.get(first, first)


def provider_list(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """Full names and options for ``["cuda", ("OpenVINOExecutionProvider", {...})]``; ours are the defaults for CUDA's options.

    Raises InputError for what is no provider list, DeviceError for one that this ONNX Runtime was not built with.
    """
    if isinstance(providers, str) or not providers:
        raise InputError(f"providers must be a list of names such as ['cpu'] or ['cuda', 'cpu'], got {providers!r}")
    available = onnxruntime().get_available_providers()
    by_name = {alias: full for full in available for alias in (full.lower(), short_name(full))}
    resolved: list[tuple[str, dict[str, Any]]] = []
    for entry in providers:
        name, options = (entry, {}) if isinstance(entry, str) else entry if _is_pair(entry) else (None, {})
        if name is None:
            raise InputError(f"a provider must be a name or (name, options), got {entry!r}")
        full = by_name.get(name.lower())
        if full is None:
            offered = ", ".join(sorted(short_name(each) for each in available))
            raise DeviceError(
                f"the provider {name!r} is not in the installed ONNX Runtime, which offers: {offered}; "
                "install the onnxruntime wheel that brings it, `onnxferry doctor` shows which one is installed"
            )
        resolved.append((full, {**CUDA_OPTIONS, **options} if full == CUDA else dict(options)))
    return resolved


def _is_pair(entry: object) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], Mapping)


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, in words and with what to do, or None where nothing stands against it.

    ONNX Runtime itself only logs the reason and goes on on the CPU, so everything that makes it do so is looked at first.
    """
    if CUDA not in onnxruntime().get_available_providers():
        return "the installed ONNX Runtime has no CUDA provider; pip uninstall -y onnxruntime, then pip install 'onnxferry[gpu,cuda]'"
    if hardware.cuda_devices() == 0:
        return "no NVIDIA driver with a usable GPU was found; run `nvidia-smi` to see what the driver says, or use device='cpu'"
    return _library_problem()


@functools.cache
def _library_problem() -> str | None:
    """Loads the CUDA libraries where pip or torch put them, then the provider as ONNX Runtime will. Once a process."""
    ort = onnxruntime()
    if hasattr(ort, "preload_dlls"):  # 1.21 and newer
        # It reports by printing. What it says is found out below, in better words.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    suffix, prefix = (".dll", "") if sys.platform == "win32" else (".so", "lib")
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_shared{suffix}"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_cuda{suffix}"))
        # The provider itself loads without cuDNN, and fails later, at the first convolution or LSTM.
        ctypes.CDLL("cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9")
    except OSError as error:
        return f"a CUDA library cannot be loaded ({error}); {_CUDA_HELP}"
    return None
