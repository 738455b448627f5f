"""The session: a dict of arrays in, a dict of arrays out, on the device that was asked for or not at all.

    with Engine("model.onnx") as engine:
        outputs = engine.run({"x": x})

Works for any ONNX file, ours or not. What it adds to ONNX Runtime: feeds are checked before they reach it, its errors come
out in words, CUDA is used or refused but never silently replaced, and threads are as many as the process may use.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from onnxferry.runtime import hardware, ort
from onnxferry.runtime.artifact import Contract, contract_from_metadata
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError
from onnxferry.runtime.onnx_file import Limits, read_model
from onnxferry.runtime.tensor_header import ELEMENT_TYPES
from onnxferry.runtime.value_info import TensorSpec as TensorSpec
from onnxferry.runtime.value_info import shape_words

MAX_THREADS = 1024

_NUMPY_NAMES = {element.onnx: element.numpy for element in ELEMENT_TYPES.values()}


class _Feed:
    """One input's expectations, laid out so that a right array passes at little cost."""

    __slots__ = ("dtype", "fixed", "rank", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.dtype = _numpy_dtype(spec.dtype)
        self.rank = len(spec.shape) if spec.ranked else -1
        self.fixed = tuple((axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, int))

    def accepts(self, array: object) -> bool:
        """True for an array that can go to ONNX Runtime as it is."""
        # numpy holds None equal to float64.
        if type(array) is not np.ndarray or self.dtype is None or array.dtype != self.dtype or not array.flags.c_contiguous:
            return False
        shape = array.shape
        if len(shape) != self.rank:
            return self.rank == -1
        for axis, size in self.fixed:  # noqa: SIM110 (a generator costs more than the loop)
            if shape[axis] != size:
                return False
        return True

    def mend(self, value: object) -> object:
        """The array as ONNX Runtime takes it, copied only where its memory layout demands it; InputError where it is wrong."""
        spec = self.spec
        if "(" in spec.dtype:  # a sequence, map or optional: ONNX Runtime checks those
            return value
        if not isinstance(value, np.ndarray | np.generic):
            hint = f"; use numpy.asarray({spec.name}, {spec.dtype!r})"
            raise InputError(f"input {spec.name!r} must be a numpy array of {spec.dtype}, got {_kind(value)}{hint}")
        array = np.asarray(value)
        if self.dtype is None:  # strings, and types that numpy itself does not know (bfloat16, float8 …)
            right = _is_text(array) if spec.dtype == "str" else array.dtype.name == spec.dtype
        else:
            right = array.dtype == self.dtype
        if not right:
            hint = "" if spec.dtype == "str" else f"; use {spec.name}.astype({spec.dtype!r})"
            raise InputError(f"input {spec.name!r} must be {spec.dtype}, got {_dtype_words(array)}{hint}")
        wanted = shape_words(spec.shape)
        if self.rank not in (-1, array.ndim):
            raise InputError(f"input {spec.name!r} must have {self.rank} axes, {wanted}, got {array.ndim}: {array.shape}")
        for axis, size in self.fixed:
            if array.shape[axis] != size:
                raise InputError(f"input {spec.name!r} must have size {size} on axis {axis}, {wanted}, got {array.shape}")
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)


class Engine:
    """An open model. One engine serves any number of threads at a time; a forked process needs one of its own.

    ``path``: a file, or the file's bytes. ``device``: ``"cuda"`` runs there or raises DeviceError, ``"auto"`` takes CUDA only
    where it truly works; ``device_reason`` says why it chose. ``threads``: None for :func:`hardware.default_threads`.
    ``providers``: instead of ``device``, ONNX Runtime's execution providers in order, short or full names, each alone or with
    its options: ``["openvino"]``, ``[("cuda", {"device_id": 1}), "cpu"]``; one that does not come up raises DeviceError.

    ``limits``: how much a file may hold (None: the defaults of :class:`onnx_file.Limits`); every file is looked at by
    :func:`onnx_file.read_model` before ONNX Runtime opens it.

    ``graph_level``: how far ONNX Runtime rewrites the graph first: ``"off"``, ``"basic"``, ``"extended"`` or ``"all"``.

    Raises ArtifactError for a file that cannot be loaded, UntrustedModelError for one that is refused, DeviceError, InputError
    for arguments that make no sense, MissingExtraError where ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | bytes,
        *,
        device: str = "auto",
        threads: int | None = None,
        providers: Sequence[ort.Provider] | None = None,
        limits: Limits | None = None,
        graph_level: str = "all",
    ) -> None:
        if not isinstance(path, str | os.PathLike | bytes):
            raise InputError(f"a model is opened by its path or from bytes, got {_kind(path)}")
        self.path: Path | None = None if isinstance(path, bytes) else Path(path)
        self.threads: int = hardware.default_threads() if threads is None else _thread_count(threads)
        if not isinstance(graph_level, str) or graph_level not in ort.GRAPH_LEVELS:
            raise InputError(f"graph_level must be one of {', '.join(map(repr, ort.GRAPH_LEVELS))}, got {graph_level!r}")
        self.graph_level: str = graph_level
        summary = read_model(path, limits)
        self.metadata: dict[str, str] = dict(summary.metadata)
        self.contract: Contract | None = _contract(self.metadata, self._name)
        model = path if isinstance(path, bytes) else os.fspath(path)
        settings = ort.SessionSettings(threads=self.threads, graph_level=graph_level)
        self._session: Any
        self._session, self.device_reason = _open(model, self._name, settings, device, providers)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.device: str = ort.device_of(self.providers)
        # ONNX Runtime knows more shapes than the file (it infers them), but says () for a scalar and for any rank alike.
        unranked = {spec.name for spec in (*summary.inputs, *summary.optional_inputs, *summary.outputs) if not spec.ranked}
        self.inputs: tuple[TensorSpec, ...] = _specs(self._session.get_inputs(), unranked)
        self.optional_inputs: tuple[TensorSpec, ...] = _specs(self._session.get_overridable_initializers(), unranked)
        self.outputs: tuple[TensorSpec, ...] = _specs(self._session.get_outputs(), unranked)
        self._feeds = {spec.name: _Feed(spec) for spec in (*self.inputs, *self.optional_inputs)}
        self._required = tuple(spec.name for spec in self.inputs if not spec.dtype.startswith("optional("))
        self._output_names = [spec.name for spec in self.outputs]
        self._errors = ort.error_classes()

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs the graph once: arrays by input name in, arrays by output name out (``outputs`` asks for some of them only).

        Names, dtypes, ranks and fixed sizes are checked first. Arrays are passed on as they are; only one that is not
        C-contiguous is copied. Outputs that are no tensors come as ONNX Runtime gives them (lists, dicts).

        Raises InputError for feeds that do not fit, DeviceError where the GPU fails.
        """
        session = self._session
        if session is None:
            raise InputError(f"{self._name} is closed; open it again with Engine(...)")
        names = self._output_names if outputs is None else self._chosen(outputs)
        ready: Mapping[str, Any] = feeds if type(feeds) is dict else _as_dict(feeds)
        for name, array in ready.items():
            feed = self._feeds.get(name)
            if feed is None:
                raise InputError(f"the model has no input {name!r}{_instead(name, list(self._feeds))}")
            if not feed.accepts(array):
                mended = feed.mend(array)
                if mended is not array:
                    ready = {**ready, name: mended}  # the loop goes on over the caller's own
        for name in self._required:
            if name not in ready:
                raise InputError(f"input {name!r} is missing; expected {'; '.join(map(str, self.inputs))}")
        try:
            results = session.run(names, ready)
        except self._errors as error:
            raise self._run_error(error, ready) from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Frees the model's memory, once runs that are under way in other threads have ended. Closing twice is fine."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._session is None else f"device={self.device!r}, threads={self.threads}"
        sides = [", ".join(map(str, specs)) for specs in (self.inputs, self.outputs)]
        return f"Engine({self._name}, {state}, inputs=[{sides[0]}], outputs=[{sides[1]}])"

    @property
    def _name(self) -> str:
        return "the model" if self.path is None else str(self.path)

    def _chosen(self, outputs: Sequence[str]) -> list[str]:
        if isinstance(outputs, str) or not outputs:
            raise InputError(f"outputs must be a list of names, some of {self._output_names}, or None for all; got {outputs!r}")
        for name in outputs:
            if name not in self._output_names:
                raise InputError(f"the model has no output {name!r}{_instead(name, self._output_names)}")
        return list(outputs)

    def _run_error(self, error: Exception, feeds: Mapping[str, Any]) -> InputError | DeviceError:
        text = ort.words(error)
        if self.device == "cuda" and any(mark in text for mark in ("CUDA", "CUDNN", "CUBLAS", "GPU memory", "BFCArena")):
            return DeviceError(f"the GPU failed while running {self._name}: {text}; try a smaller batch, or device='cpu'")
        given = ", ".join(f"{name} {_given(value)}" for name, value in feeds.items())
        return InputError(f"{self._name} cannot run on {given or 'no inputs'}: {text}")


def _open(
    model: str | bytes, name: str, settings: ort.SessionSettings, device: str, providers: Sequence[ort.Provider] | None
) -> tuple[Any, str]:
    """The session, and why it runs where it runs."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}; other providers go into providers=[...]")
    if providers is not None:
        if device != "auto":
            raise InputError(f"give either device={device!r} or providers=[...], not both")
        requested = ort.provider_list(providers)
        for full, _ in requested:
            problem = ort.provider_problem(full) if full != ort.CPU else None
            if problem:
                raise DeviceError(f"the provider {ort.short_name(full)!r} cannot be used here: {problem}")
        return ort.open_session(model, name, settings, requested), "as asked for"
    on_cpu: list[ort.Requested] = [(ort.CPU, {})]
    on_cuda = [(ort.CUDA, ort.CUDA_OPTIONS), *on_cpu]
    if device == "cpu":
        return ort.open_session(model, name, settings, on_cpu), "as asked for"
    problem = ort.cuda_problem()
    if device == "cuda":
        if problem:
            raise DeviceError(f"device='cuda' cannot be used here: {problem}")
        return ort.open_session(model, name, settings, on_cuda), "as asked for"
    if problem is None:
        try:
            return ort.open_session(model, name, settings, on_cuda), "CUDA works here"
        except DeviceError as error:
            problem = str(error)
    return ort.open_session(model, name, settings, on_cpu), f"CUDA cannot be used: {problem}"


def _contract(metadata: Mapping[str, str], name: str) -> Contract | None:
    try:
        return contract_from_metadata(metadata)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error


def _as_dict(feeds: object) -> dict[str, Any]:
    if not isinstance(feeds, Mapping):
        raise InputError(f"feeds must be a dict of arrays by input name, got {_kind(feeds)}")
    return dict(feeds)


def _specs(nodes: Sequence[Any], unranked: Set[str]) -> tuple[TensorSpec, ...]:
    """From ONNX Runtime's NodeArgs: type ``tensor(float)``, shape of int, str and None."""
    specs = []
    for node in nodes:
        dtype, shape = node.type, node.shape
        if not dtype.startswith("tensor("):
            specs.append(TensorSpec(node.name, dtype, (), ranked=False))
            continue
        dtype = dtype.removeprefix("tensor(").removesuffix(")")
        sizes = tuple(None if isinstance(size, int) and size < 0 else size for size in shape)
        specs.append(TensorSpec(node.name, _NUMPY_NAMES.get(dtype, dtype), sizes, ranked=bool(sizes) or node.name not in unranked))
    return tuple(specs)


def _numpy_dtype(name: str) -> np.dtype[Any] | None:
    """None for what numpy itself has no fixed dtype for; those feeds take the slower way."""
    if name == "str":
        return None
    try:
        return np.dtype(name)
    except TypeError:
        return None


def _thread_count(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be a whole number from 1 to {MAX_THREADS}, got {threads!r}")
    return int(threads)


def _instead(name: object, known: Sequence[str]) -> str:
    """``; did you mean 'image'?``, or all there are."""
    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else f"; it has {', '.join(map(repr, known)) or 'none'}"


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind == "U" or (array.dtype == object and all(isinstance(item, str) for item in array.flat))


def _dtype_words(array: np.ndarray) -> str:
    return array.dtype.name if array.dtype.isnative else f"{array.dtype.name} in foreign byte order ({array.dtype.str})"


def _given(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return _kind(value)
    return f"{value.dtype.name} {value.shape}{'' if value.size else ' (empty)'}"
