"""The only module of the runtime that imports ONNX Runtime: providers by short name, sessions, readable errors.

``onnxruntime`` is imported when the first model is opened, and is typed ``Any`` because the wheel has no types.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime import interruption
from onnxferry.runtime.engine import forks
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError, MissingExtraError, install_command
from onnxferry.runtime.machine import nvidia
from onnxferry.runtime.machine.telemetry import disable_telemetry

CUDA = "CUDAExecutionProvider"


TENSORRT = "TensorrtExecutionProvider"


CPU = "CPUExecutionProvider"


ONNXRUNTIME = "onnxruntime"
"""The name of the back end that this module is the door to."""


PLUGIN = "onnxruntime-ep-"
"""What the names of wheels with a plugin provider begin with."""


CUDA_OPTIONS: Mapping[str, str] = {
    # TensorFloat-32 keeps 10 bits of the mantissa: far less precise than the tolerances that artifacts are verified with.
    "use_tf32": "0",
    # The default, EXHAUSTIVE, times every algorithm again for each new input shape, and here input shapes vary.
    "cudnn_conv_algo_search": "HEURISTIC",
}


Provider = str | tuple[str, Mapping[str, Any]]
"""A provider as users name it: short or full name, with or without options."""


Requested = tuple[str, Mapping[str, Any]]
"""A provider as ONNX Runtime takes it: full name and options."""


RunCall = Callable[[Sequence[str], Mapping[str, Any], Any], list[Any]]
"""``call(output names, feeds, run options or None)``: a session's run."""


GRAPH_LEVELS: Mapping[str, str] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""Graph optimization levels: our names, and ONNX Runtime's (GraphOptimizationLevel)."""


# For Linux and Windows: the libraries that the CUDA provider is linked to. If one is missing, ONNX Runtime only logs it and runs on the
# CPU. cuDNN is listed too: the provider loads without it, but fails at the first convolution or LSTM.
_CUDA_LIBRARIES = (
    ("libcudart.so.{major}", "libcublasLt.so.{major}", "libcublas.so.{major}", "libcurand.so.10", "libcudnn.so.9"),
    ("cudart64_{major}.dll", "cublasLt64_{major}.dll", "cublas64_{major}.dll", "cudnn64_9.dll"),
)


def _reinstall() -> str:
    return f"pip uninstall -y onnxruntime onnxruntime-gpu, then {install_command('cpu')} (or [gpu])"


@functools.cache
def onnxruntime() -> Any:
    """The onnxruntime module, its telemetry off. Raises MissingExtraError where no wheel is installed, DeviceError for a broken one."""
    disable_telemetry()
    try:
        module = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise DeviceError(f"ONNX Runtime is installed but cannot be imported ({error}); {_reinstall()}") from error
        raise MissingExtraError("onnxruntime", "cpu", "running a model", note="or [gpu] for NVIDIA GPUs") from error
    except (ImportError, OSError) as error:
        raise DeviceError(f"ONNX Runtime is installed but cannot be imported ({error}); {_reinstall()}") from error
    if not hasattr(module, "InferenceSession"):
        # Uninstalling one of two wheels that share the folder leaves a module without contents.
        raise DeviceError(f"ONNX Runtime is only half installed (it has no InferenceSession); {_reinstall()}")
    return module


@functools.cache
def error_classes() -> tuple[type[Exception], ...]:
    """All exceptions that ONNX Runtime raises. Its classes have no common base, and differ between versions."""
    names = (
        *("EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoadCanceled"),
        *("ModelLoaded", "ModelRequiresCompilation", "NoModel", "NoSuchFile", "NotFound", "NotImplemented", "RuntimeException"),
    )
    state = onnxruntime().capi.onnxruntime_pybind11_state
    own = tuple(getattr(state, name) for name in names if hasattr(state, name))
    # The Python bindings raise ValueError, TypeError and RuntimeError; bad_alloc becomes MemoryError.
    return (*own, ValueError, TypeError, RuntimeError, MemoryError)


# y = x * x, float32 [1]: a minimal model, to see whether a provider really runs. IR version 7, opset 13.
ONE_NODE_MODEL = (
    b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Mul\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


_STATUS = re.compile(r"^(?:Error in execution: )?(?:\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : )?")


_LOADING = re.compile(r"^(?:Load model from .*? failed:\s*|Failed to load model with error: )+")


_STATUS_CODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")


_SOURCE = re.compile(
    r"(?:[A-Za-z]:)?[/\\]\S*?\.(?:cc|cpp|h|hpp|cu|cuh):\d+ (?:[^()\n]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)?(?: \[with [^\]]*\])?)?\s*"
)


# Since 1.31: ``element_wise_ops.cc:692 Compute Integer division by zero``.
_SHORT_SOURCE = re.compile(r"(?<![\w/\\.])[\w.+-]{1,80}\.(?:cc|cpp|h|hpp|cu|cuh):\d+ (?:[A-Za-z_~][\w:~]{0,80} )?")


def message_of(error: BaseException) -> str:
    """An ONNX Runtime exception as one readable line: no status codes, no C++ file names or signatures."""
    # Names in it come from the file: they may be very long and hold terminal escape sequences.
    text = "".join(char if char.isprintable() else " " for char in str(error)[:4000]).strip()
    text = _LOADING.sub("", _STATUS.sub("", text))
    text = _STATUS_CODE.sub(lambda match: f"node {match[2] or '(no name)'} ({match[1]}): ", text)
    text = " ".join(_SHORT_SOURCE.sub("", _SOURCE.sub("", text)).split()).removesuffix(".")
    if not text:
        text = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return text if len(text) <= 600 else text[:597] + "..."


def short_name(provider: str) -> str:
    """``CUDAExecutionProvider`` → ``cuda``."""
    return provider.removesuffix("ExecutionProvider").lower()


def device_of(providers: Sequence[str]) -> str:
    """Where a session with these active providers runs: ``cpu``, ``cuda``, or another provider's short name."""
    first = short_name(providers[0]) if providers else "cpu"
    if first.startswith(PLUGIN):
        return "cpu"  # of a plugin, its CPU device is taken
    return {"tensorrt": "cuda", "nvtensorrtrtx": "cuda", "openvino": "cpu", "xnnpack": "cpu", "dnnl": "cpu"}.get(first, first)


def device_number(session: Any) -> int:
    """Which GPU a session runs on, as CUDA counts them."""
    return int(session.get_provider_options().get(CUDA, {}).get("device_id", 0))


def provider_list(providers: Sequence[Provider]) -> list[Requested]:
    """Full names and options for ``["cuda", ("OpenVINOExecutionProvider", {...})]``; CUDA's options default to CUDA_OPTIONS.

    Raises InputError for an invalid list, DeviceError for a provider that this ONNX Runtime was not built with.
    """
    if isinstance(providers, str) or not providers:
        raise InputError(f"providers must be a list of names such as ['cpu'] or ['cuda', 'cpu'], got {providers!r}")
    available = onnxruntime().get_available_providers()
    by_name = {alias: full for full in available for alias in (full.lower(), short_name(full))}
    resolved: list[Requested] = []
    for entry in providers:
        name, options = (entry, {}) if isinstance(entry, str) else entry if _is_pair(entry) else (None, {})
        if name is None:
            raise InputError(f"a provider must be a name or (name, options), got {entry!r}")
        full = by_name.get(name.lower()) or (name.lower() if name.lower().startswith(PLUGIN) else None)
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


SHORT_SPIN, SHORT_SPIN_SINCE = ("session.intra_op.spin_duration_us", "1000"), (1, 26)
"""Longer than one thread works alone within a run of a small model (100 µs were too short: a sixth slower). In practice threads spin for
3 to 4 ms of CPU time after the last run, as ONNX Runtime counts iterations and not time (two-core EPYC, 1.31)."""


NO_SPIN = "session.force_spinning_stop", "1"


def version_of(runtime: Any) -> tuple[int, ...]:
    """``1.31.1`` → (1, 31)."""
    return tuple(int(part) for part in re.findall(r"\d+", str(runtime.__version__))[:2])


Sizes = tuple[tuple[str, int], ...]
"""Sizes of dynamic axes, by the axes' names."""


@dataclass(frozen=True)
class SessionSettings:
    """Session options besides the providers."""

    threads: int = 1  # that share the work of one operator, the calling one included
    graph_level: str = "all"  # one of GRAPH_LEVELS
    sizes: Sizes = ()  # of dynamic axes: the graph is optimized for these sizes
    record_placement: bool = False  # so that the session can report which node runs where
    seconds: float | None = None  # that opening may take
    prepared: str = ""  # where to write the optimized graph, with its weights beside it as the kernels want them
    from_copy: bool = False  # what is opened was written that way: its weights are mapped as they are


def open_session(model: str | bytes, name: str, settings: SessionSettings, providers: Sequence[Requested]) -> Any:
    """An onnxruntime.InferenceSession on all of the providers that were asked for, or an error: never on others instead.

    ``model``: path or bytes. ``name`` stands for it in messages. Raises ArtifactError or DeviceError.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    for axis, size in settings.sizes:
        options.add_free_dimension_override_by_name(axis, size)
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, GRAPH_LEVELS[settings.graph_level])
    if settings.record_placement:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.inter_op_num_threads = 1  # used in parallel execution mode only, which is slower for all but very wide graphs
    # Pool threads spin between the kernels of a run, which is worth it, and by default also for some 50 ms after it, which takes
    # CPU time from the rest of the program (torch beside an idle spinning session was seen to run many times slower). Stopping with
    # the run is a tenth slower when runs follow each other, because threads must be woken: spinning briefly is as fast as the default.
    options.add_session_config_entry(*(SHORT_SPIN if version_of(runtime) >= SHORT_SPIN_SINCE else NO_SPIN))
    if settings.prepared:
        options.optimized_model_filepath = settings.prepared
        name_of_weights = os.path.split(settings.prepared)[1] + ".data"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", name_of_weights)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    if settings.from_copy:
        # The kernels lay the weights out once more before they find them in the file: not in the arena, which would keep that memory.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # A file's name or first bytes must not select another parser than the one that checked it.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Fatal only: every error is raised as an exception, and a library should not write to stderr.
    options.log_severity_level = 4

    plugged = any(full.startswith(PLUGIN) for full, _ in providers)
    if plugged:
        from onnxferry.runtime.engine.backends import plugins  # few ask for one

        providers = plugins.add_all(options, providers, settings.threads, runtime)

    def opened() -> Any:
        with _files_set_no_options():
            return runtime.InferenceSession(
                model,
                options,
                providers=None if plugged else [full for full, _ in providers],
                provider_options=None if plugged else [dict(settings) for _, settings in providers],
                enable_fallback=0,  # else a provider that fails is replaced by the CPU, with a line on stdout
                read_config_from_model=0,
            )

    cancel = getattr(options, "set_load_cancellation_flag", interruption.no_stop)  # 1.22 and newer
    try:
        session = interruption.within(opened, functools.partial(cancel, True), settings.seconds, f"{name} was not opened")
    except error_classes() as error:
        raise _load_error(model, name, error, providers) from error
    if isinstance(model, bytes) and hasattr(session, "_model_bytes"):
        session._model_bytes = b""  # kept for a fallback that is off
    forks.outlives_a_fork(session)
    session.disable_fallback()
    active = session.get_providers()
    for full, _ in providers:
        if full not in active:
            raise DeviceError(
                f"the provider {short_name(full)!r} did not come up for {name}, ONNX Runtime would run it on "
                f"{', '.join(map(short_name, active))} instead; `onnxferry doctor` shows what is missing"
            )
    return session


def run_call(session: Any) -> RunCall:
    """A session's run without the Python wrapper's own checks of the inputs.

    The wrapper iterates over all names and values again, which was half of the time of a one-node run. The engine has checked them.
    """
    inner = getattr(session, "_sess", None)
    call: RunCall = getattr(inner, "run", None) or session.run
    return call


def stoppable(call: Callable[..., Any], arguments: Sequence[Any], seconds: float | None, what: str) -> Any:
    """``call(*arguments, run options)``, which Ctrl-C in the command line and a limit of ``seconds`` stop before the next operator.

    ``what``: begins the message of the TimeLimitError.
    """
    if seconds is None and not interruption.watched:
        return call(*arguments, None)
    options = onnxruntime().RunOptions()

    def stop() -> None:
        options.terminate = True

    return interruption.within(lambda: call(*arguments, options), stop, seconds, what)


def bind(session: Any, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> tuple[Any, Any, Callable[..., Any] | None]:
    """Binds arrays in CPU memory by their address: the objects to keep alive, the binding, and ``call(binding, run options)``.

    The call is None without outputs: ONNX Runtime refuses a run that has none.
    """
    value_of = onnxruntime().OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    values = [(binding.bind_ortvalue_input, name, value_of(array)) for name, array in inputs.items()]
    values += [(binding.bind_ortvalue_output, name, value_of(array)) for name, array in outputs.items()]
    for bind_value, name, value in values:
        bind_value(name, value)
    inner, native = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
    if inner is None or native is None:
        return values, binding, session.run_with_iobinding if outputs else None
    return (values, binding), native, inner.run_with_iobinding if outputs else None


_session_lock = threading.Lock()
forks.reset_lock(_session_lock)


_loading = 0  # sessions that are being opened


_set_aside: list[str] = []  # what ORT_LOAD_CONFIG_FROM_MODEL was before the first of them


@contextlib.contextmanager
def _files_set_no_options() -> Iterator[None]:
    """ORT_LOAD_CONFIG_FROM_MODEL=1 lets a model file set session options, among them paths that are written to.

    The session's argument against it is not enough: ONNX Runtime reads the variable again, and fails. It comes back with the last of the
    sessions that are opened at a time.
    """
    global _loading
    name = "ORT_LOAD_CONFIG_FROM_MODEL"
    with _session_lock:
        _loading += 1
        if name in os.environ:
            _set_aside[:] = [os.environ.pop(name)]
    try:
        yield
    finally:
        with _session_lock:
            _loading -= 1
            if _loading == 0 and _set_aside:
                os.environ[name] = _set_aside.pop()


def _load_error(model: str | bytes, name: str, error: Exception, providers: Sequence[Requested]) -> ArtifactError | DeviceError:
    """ArtifactError if the CPU reports the same error, so that the file is the cause; else DeviceError."""
    text = message_of(error)
    others = [short_name(full) for full, _ in providers if full != CPU]
    if others and text != _message_on_cpu(model):
        return DeviceError(f"the provider {others[0]!r} cannot run {name}: {text}; `onnxferry doctor` shows what is missing")
    newer = re.search(r"(IR version|Opset).*?(\d+).*(?:max supported IR version:|till opset) (\d+)", text)
    if newer:
        what, found, newest = newer.groups()
        text = f"{what.replace('O', 'o')} {found} is newer than the {newest} it reads; pip install -U onnxruntime, or export with {newest}"
    return ArtifactError(f"ONNX Runtime {onnxruntime().__version__} cannot load {name}: {text}")


def _message_on_cpu(model: str | bytes) -> str:
    """ONNX Runtime's message for a file on the CPU; "" if it loads."""
    try:
        open_session(model, "", SessionSettings(), [(CPU, {})])
    except ArtifactError as error:
        return message_of(error.__cause__ or error)
    return ""


def provider_problem(provider: str) -> str | None:
    """Why a provider (short or full name) cannot run even a one-node model here; None if it can."""
    full = provider_list([provider])[0][0]
    if full == CUDA:
        return cuda_problem()
    # TensorRT needs the same libraries.
    return (cuda_problem() if full == TENSORRT else None) or _trial(full)


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here and what to do about it; None if a one-node model ran on it.

    ONNX Runtime itself only logs the reason and continues on the CPU, so every known reason is checked first.
    """
    if CUDA not in onnxruntime().get_available_providers():
        return f"the installed ONNX Runtime has no CUDA provider; pip uninstall -y onnxruntime, then {install_command('gpu,cuda')}"
    if nvidia.cuda_devices() == 0:
        return "no NVIDIA driver with a usable GPU was found; run `nvidia-smi` to see what the driver says, or use device='cpu'"
    return _library_problem() or _trial(CUDA)


@functools.cache
def _library_problem() -> str | None:
    """Loads the CUDA libraries from where pip or torch installed them, once per process.

    Not the provider's own library: if it is loaded before ONNX Runtime is initialized, it keeps a null pointer.
    """
    runtime = onnxruntime()
    if hasattr(runtime, "preload_dlls"):  # 1.21 and newer
        # It reports by printing. The same problems are found below, with better messages.
        with contextlib.redirect_stdout(io.StringIO()):
            runtime.preload_dlls()
    major = (getattr(runtime, "cuda_version", "") or "12").split(".")[0]
    for library in _CUDA_LIBRARIES[sys.platform == "win32"]:
        try:
            # On Windows the current directory and PATH are searched, as ONNX Runtime does.
            ctypes.CDLL(library.format(major=major), winmode=0)
        except OSError as error:
            brings = f"{install_command('cuda')} brings the libraries, `onnxferry doctor` shows what is missing"
            return f"a library of CUDA {major} is missing ({error}); {brings}"
    return None


@functools.cache
def _trial(full: str) -> str | None:
    """Runs the one-node model. Fails for a GPU that is too new or too old for the build, or without free memory."""
    try:
        session = open_session(ONE_NODE_MODEL, "a one-node model", SessionSettings(), [(full, CUDA_OPTIONS if full == CUDA else {})])
        result = session.run(None, {"x": np.array([3], np.float32)})[0][0]
    except (DeviceError, ArtifactError) as error:
        return str(error)
    except error_classes() as error:
        return f"a one-node model fails on {short_name(full)!r}: {message_of(error)}"
    return None if result == 9 else f"a one-node model gives {result} instead of 9 on {short_name(full)!r}"
