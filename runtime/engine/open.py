"""Opens sessions on the device or the providers that were asked for."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.engine import forks, ort
from onnxferry.runtime.errors import DeviceError, InputError
from onnxferry.runtime.files import only_this_user_writes
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.values import TensorSpec


@dataclass(frozen=True)
class Opened:
    """A session and why it runs where it runs."""

    session: Any  # onnxruntime.InferenceSession
    reason: str  # why it runs where it runs


@dataclass(frozen=True)
class CudaChoices:
    """Options that only count on CUDA."""

    tf32: bool = False  # TensorFloat-32 in matrix products and convolutions: faster, 10 bits of mantissa
    graph: bool = False  # captured once for each set of shapes, and replayed
    stream: int | None = None  # address of a cudaStream_t that everything runs on; 0, the default stream, counts as none

    def options(self) -> dict[str, str]:
        """Options of ONNX Runtime's CUDA provider."""
        options = dict(ort.CUDA_OPTIONS)
        if self.tf32:
            options["use_tf32"] = "1"
        if self.graph:
            options["enable_cuda_graph"] = "1"
        if self.stream:  # ONNX Runtime treats 0 as none, and creates a stream of its own
            options |= {"has_user_compute_stream": "1", "user_compute_stream": str(self.stream)}
        return options

    def check(self, device: str, providers: object) -> None:
        """Raises InputError for options that contradict each other."""
        if self.stream is not None and (isinstance(self.stream, bool) or not isinstance(self.stream, int) or self.stream < 0):
            raise InputError(f"cuda_stream must be the address of a stream, as torch's stream.cuda_stream, got {self.stream!r}")
        choices = {"tf32": self.tf32, "cuda_graph": self.graph, "cuda_stream": self.stream is not None}
        asked = [name for name, chosen in choices.items() if chosen]
        if asked and providers is not None:
            raise InputError(f"{asked[0]} goes with device='cuda'; with providers=[...] set it among the provider's own options")
        if asked and device == "cpu":
            raise InputError(f"{asked[0]} is a choice for CUDA; with device='cpu' leave it out")


Identity = tuple[object, ...]

COPY = "model.onnx"
"""A copy's name; its weights lie beside it."""


copies: dict[Identity, str] = {}
"""Of this process: which file, as it was read, is opened from which copy (:func:`write_copy`). One that has changed is opened itself."""


def identity_of(model: Description) -> Identity | None:
    """The file, and when it and those of its weights were written; None for bytes."""
    return None if model.path is None else (os.path.realpath(model.path), *model.stamp, *model.weights.values())


def copy_of(model: Description) -> str | None:
    """The copy to open instead of a file, for a plain session on the CPU."""
    identity = identity_of(model) if copies else None
    return copies.get(identity) if identity is not None else None


SHARED_FROM = 32 * 2**20
"""Bytes of weights from which on engines of one file share a session, and memory is given back after a file was opened."""


_shared: weakref.WeakValueDictionary[Hashable, Opened] = weakref.WeakValueDictionary()


_opening = threading.Lock()  # held while a large file is opened: two engines that open one at once would each have its weights
forks.reset_lock(_opening)


def open_shared(model: Description, device: str, settings: ort.SessionSettings, open_session: Callable[[], Opened]) -> Opened:
    """The session that another engine of the same large file and the same settings has open, or a new one.

    ONNX Runtime lays out the weights of matrix products and convolutions anew for each session, in that session's own memory. (Its
    container for sharing them, CreatePrepackedWeightsContainer, is of the C API alone, and takes no weights of a file.) A session, though,
    can be run by any number of threads and holds nothing of a run: so engines share it, and weights are laid out once a process. It is
    closed with the last of them, for which they hold the :class:`Opened`.
    """
    identity = identity_of(model)
    if model.summary.weight_bytes < SHARED_FROM:
        return open_session()
    # A child that was forked has none of its parent's threads.
    key = os.getpid(), identity, device, dataclasses.replace(settings, seconds=None)
    waited = _opening.acquire(timeout=-1 if settings.seconds is None else settings.seconds)
    try:
        opened = None if identity is None else _shared.get(key)
        if opened is None:
            opened = open_session()
            give_memory_back()
            if identity is not None:
                _shared[key] = opened
        return opened
    finally:
        if waited:
            _opening.release()


def give_memory_back() -> None:
    """Returns freed memory to the system: opening a large file frees as much as its weights, which the C library may keep."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Of glibc; None for other C libraries. Source: malloc_trim(3)."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
            return trim
    return None


def write_copy(model: Description, folder: Path) -> str:
    """Writes a model as ONNX Runtime runs it on this machine's CPU, with its weights in a file beside it; the copy's path.

    A session rearranges the weights of matrix products and convolutions in memory of its own, however its file was read. Those of the copy
    are rearranged already, and are mapped: several processes share them. (session.save_external_prepacked_constant_initializers in
    onnxruntime_session_options_config_keys.h.) It fits this machine and this version of ONNX Runtime alone. ``folder``: an empty one.

    Raises what opening the file raises.
    """
    target = folder / COPY
    with model.opened() as source:
        ort.open_session(source, model.name, ort.SessionSettings(prepared=str(target)), [(ort.CPU, {})])
    return str(target)


def share_weights(path: str | os.PathLike[str], folder: str | os.PathLike[str], *, limits: Limits | None = None) -> Path:
    """Lays out a model's weights for this machine's CPU in a file, which every process that calls this maps: all of them hold it once.

    The first call writes the file, into a folder of ``folder``: up to twice the size of the weights. Later ones, of any process, find it.
    Every engine that this process opens for the model from then on, on the CPU and with the default graph level, runs from it, with the
    same results. It is made anew where the model's file has changed, or ONNX Runtime or the CPU is another one; remove older ones as you
    like, while no process uses them. Returns its path.

    ``folder``: an existing one, on a disk (or in /dev/shm, in memory) of this machine. ``limits``: as of :class:`Engine`.
    Raises InputError for a folder that is none or where others may change what lies in it, ArtifactError for a file that cannot be loaded.

        share_weights("model.onnx", "/var/tmp/weights")     # in each process, before
        model = load("model.onnx", device="cpu")
    """
    import hashlib  # only here: these three take longer to import than a small model to open
    import shutil
    import tempfile

    place, model = Path(folder), describe(path, limits)
    identity = identity_of(model)
    if not place.is_dir():
        raise InputError(f"weights cannot be shared in {place}: there is no such folder; make it, or give another one")
    facts = repr((identity, str(ort.onnxruntime().__version__), cpu.machine_name()))
    target = place / f"{Path(path).stem}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    if not target.exists():
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=place))  # no other user may enter it
        try:
            write_copy(model, made)
            made.rename(target)
        except OSError as error:
            if not target.exists():  # else another process was faster
                raise InputError(f"weights cannot be shared in {place}: {error.strerror or error}; give another folder") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
    own = not hasattr(os, "geteuid") or target.lstat().st_uid == os.geteuid()
    if not own or not all(only_this_user_writes(file.lstat()) for file in target.iterdir()):
        raise InputError(f"{target} may be changed by other users, or is not this user's; share weights in another folder")
    copy = target / COPY
    if identity is not None:
        copies[identity] = str(copy)
    return copy


def runs_on(device: str, providers: Sequence[ort.Provider] | None) -> str:
    """Where :func:`open_on` will run a model: ``cpu``, ``cuda``, or another provider's short name. Errors as there."""
    _check_device(device)
    if providers is not None:
        return ort.device_of([full for full, _ in ort.provider_list(providers)])
    if device == "auto":
        return "cpu" if ort.cuda_problem() else "cuda"
    return device


def open_on(
    model: str | bytes,
    name: str,
    settings: ort.SessionSettings,
    device: str,
    providers: Sequence[ort.Provider] | None,
    cuda: CudaChoices | None = None,
) -> Opened:
    """Opens a model on a device or on providers. ``name`` stands for it in messages. Raises DeviceError, ArtifactError, InputError."""
    _check_device(device)
    if providers is not None:
        if device != "auto":
            raise InputError(f"give either device={device!r} or providers=[...], not both")
        requested = ort.provider_list(providers)
        for full, _ in requested:
            problem = ort.provider_problem(full) if full != ort.CPU else None
            if problem:
                raise DeviceError(f"the provider {ort.short_name(full)!r} cannot be used here: {problem}")
        return Opened(ort.open_session(model, name, settings, requested), "as asked for")
    on_cpu: list[ort.Requested] = [(ort.CPU, {})]
    on_cuda = [(ort.CUDA, (cuda or CudaChoices()).options()), *on_cpu]
    if device == "cpu":
        return Opened(ort.open_session(model, name, settings, on_cpu), "as asked for")
    problem = ort.cuda_problem()
    if device == "cuda":
        if problem:
            raise DeviceError(f"device='cuda' cannot be used here: {problem}")
        return Opened(ort.open_session(model, name, settings, on_cuda), "as asked for")
    if problem is None:
        try:
            return Opened(ort.open_session(model, name, settings, on_cuda), "CUDA works here")
        except DeviceError as error:
            problem = str(error)
    return Opened(ort.open_session(model, name, settings, on_cpu), f"CUDA cannot be used: {problem}")


def open_for_graphs(model: str | bytes, name: str, settings: ort.SessionSettings, device: str, cuda: CudaChoices) -> tuple[Opened, bool]:
    """As :func:`open_on` with ``cuda.graph``; True if the session can be captured, False if only one for fixed shapes can."""
    if device == "auto" and ort.cuda_problem() is None:
        device = "cuda"
    try:
        return open_on(model, name, settings, device, None, cuda), True
    except DeviceError:
        if device != "cuda":
            raise
    # Any other problem shows here again.
    return open_on(model, name, settings, device, None, dataclasses.replace(cuda, graph=False)), False


def open_captured(
    model: Description,
    name: str,
    settings: ort.SessionSettings,
    cuda: CudaChoices,
    inputs: Sequence[TensorSpec],
    shapes: Mapping[str, tuple[int, ...]],
) -> Any:
    """A session that can be captured, for inputs of these shapes alone. Raises InputError if there is none."""
    axes = [zip(spec.shape, shapes[spec.name], strict=True) for spec in inputs if spec.ranked and spec.name in shapes]
    open_axes = {axis: size for pairs in axes for axis, size in pairs if isinstance(axis, str)}
    sizes = tuple(sorted((dict(settings.sizes) | open_axes).items()))
    try:
        with model.opened() as source:
            return open_on(source, name, dataclasses.replace(settings, sizes=sizes, record_placement=False), "cuda", None, cuda).session
    except DeviceError as error:
        reason = ort.message_of(error.__cause__ or error)
        raise InputError(f"{name} cannot be captured as a CUDA graph: {reason}; open it without cuda_graph=True") from error


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}; other providers go into providers=[...]")
