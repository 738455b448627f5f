"""Checks arrays against a graph's inputs and outputs: names, dtypes, ranks and fixed sizes, without copying."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import instead, is_text, kind, whole_number
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.sizes import UnknownSizeError, size_of
from onnxferry.runtime.onnx_file.summary import NeverZero
from onnxferry.runtime.onnx_file.tensors import ELEMENT_TYPES
from onnxferry.runtime.onnx_file.values import TensorSpec, shape_words

_NUMPY_NAMES = {element.onnx: element.numpy for element in ELEMENT_TYPES.values()}


_NDARRAY = np.ndarray  # one look-up less, before every run


_MAX_SHOWN = 20  # inputs that an error lists


_ABORT_ON_EMPTY = frozenset({"ai.onnx::LSTM", "ai.onnx::GRU", "com.microsoft::DynamicQuantizeLSTM"})
"""Operators whose kernels call std::terminate for an empty batch, the GRU also for no steps (ONNX Runtime 1.31.1)."""


class TensorCheck:
    """Checks arrays for one input or output, in such a way that a valid array passes at little cost."""

    __slots__ = ("_sized", "dtype", "fixed", "never_empty", "rank", "role", "spec")

    def __init__(self, spec: TensorSpec, role: str = "input", never_empty: tuple[int, ...] = ()) -> None:
        """``never_empty``: axes whose size must not be 0."""
        self.spec = spec
        self.role = role
        self.never_empty = never_empty
        self.dtype = _numpy_dtype(spec.dtype)
        self.rank = len(spec.shape) if spec.ranked else -1
        self.fixed = tuple((axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, int))
        self._sized = bool(self.fixed or never_empty)

    def accepts(self, array: object) -> bool:
        """True for an array that can be passed to ONNX Runtime as it is."""
        wanted = self.dtype
        # numpy treats dtype None as equal to float64. Most arrays have the very dtype: an array in its own byte order.
        if type(array) is not _NDARRAY or wanted is None or (array.dtype is not wanted and array.dtype != wanted):
            return False
        if not array.flags.c_contiguous:
            return False
        if array.ndim != self.rank:
            return self.rank == -1
        if not self._sized:
            return True
        shape = array.shape
        for axis, size in self.fixed:
            if shape[axis] != size:
                return False
        for axis in self.never_empty:  # noqa: SIM110
            if shape[axis] == 0:
                return False
        return True

    def as_tensor(self, value: object) -> np.ndarray:
        """As :meth:`convert`, for an array that is bound by its address: refuses anything but arrays of numbers."""
        if self.dtype is None or self.dtype.kind not in "biufc":
            raise InputError(f"{self.role} {self.spec.name!r} is {self.spec.dtype}, which has no memory to bind; use run()")
        array = self.convert(value)
        if not isinstance(array, np.ndarray):
            raise TypeError(f"convert() gave {kind(array)} for a tensor")
        return array if array.flags.aligned else array.copy()

    def convert(self, value: object) -> object:
        """The array as ONNX Runtime takes it, copied only if its memory layout requires it. Raises InputError if it does not fit."""
        spec = self.spec
        if "(" in spec.dtype:  # a sequence, map or optional: ONNX Runtime checks those
            return value
        if not isinstance(value, np.ndarray | np.generic):
            hint = f"; use numpy.asarray({spec.name}, {spec.dtype!r})"
            raise InputError(f"{self.role} {spec.name!r} must be a numpy array of {spec.dtype}, got {kind(value)}{hint}")
        array = np.asarray(value)
        # Without a dtype: strings, and types that numpy itself does not know (bfloat16, float8 …).
        right = spec.dtype == "str" and is_text(array) if self.dtype is None else array.dtype == self.dtype
        if not right:
            if self.dtype is None and spec.dtype != "str":
                raise InputError(
                    f"{self.role} {spec.name!r} is {spec.dtype}, which ONNX Runtime takes from no numpy array, got {_dtype_words(array)}; "
                    "give run_dlpack() a tensor of another framework, such as torch.bfloat16"
                )
            hint = "" if spec.dtype == "str" else f"; use {spec.name}.astype({spec.dtype!r})"
            raise InputError(f"{self.role} {spec.name!r} must be {spec.dtype}, got {_dtype_words(array)}{hint}")
        self.check_shape(array.shape)
        try:
            return array if array.flags.c_contiguous else np.ascontiguousarray(array)
        except MemoryError as error:  # a view that repeats its rows may be of any size
            raise InputError(f"{self.role} {spec.name!r} of shape {array.shape} takes {array.nbytes} bytes, which there are not") from error

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises InputError for a shape that does not fit."""
        spec, wanted = self.spec, shape_words(self.spec.shape)
        if self.rank not in (-1, len(shape)):
            raise InputError(f"{self.role} {spec.name!r} must have {self.rank} axes, {wanted}, got {len(shape)}: {shape}")
        for axis, size in self.fixed:
            if shape[axis] != size:
                raise InputError(f"{self.role} {spec.name!r} must have size {size} on axis {axis}, {wanted}, got {shape}")
        for axis in self.never_empty:
            if shape[axis] == 0:
                raise InputError(
                    f"{self.role} {spec.name!r} must not be empty, got {shape}: ONNX Runtime's recurrent operators "
                    "end the whole process on an empty batch; leave the call out"
                )


class ArgumentChecks:
    """What every engine checks of a call before it runs: names, arrays, and which outputs are asked for."""

    inputs: tuple[TensorSpec, ...]

    def _hold(
        self,
        checks: dict[str, TensorCheck],
        required: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        defaults: dict[str, np.ndarray],
        never_zero: Sequence[NeverZero],
    ) -> None:
        """``checks``: of all inputs, by name; ``defaults``: of those that the contract has one for."""
        self._input_checks = checks
        self._output_checks = {spec.name: TensorCheck(spec, "output") for spec in outputs}
        self._required = tuple(spec.name for spec in required if not spec.dtype.startswith("optional("))
        self._output_names = [spec.name for spec in outputs]
        self._defaults = defaults
        self._never_zero = never_zero

    def _checked(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs as ONNX Runtime takes them."""
        ready: Mapping[str, Any] = feeds if type(feeds) is dict else as_dict(feeds)
        checks = self._input_checks
        for name, array in ready.items():
            check = checks.get(name)
            if check is None:
                raise InputError(f"the model has no input {name!r}{instead(name, list(checks))}")
            if not check.accepts(array):
                converted = check.convert(array)
                if converted is not array:
                    ready = {**ready, name: converted}  # a copy: the loop goes on over the caller's dict
        if len(ready) != len(checks):  # all names are known, so as many are all
            for name in self._required:
                if name not in ready:
                    raise self._missing(name)
        if self._defaults:
            ready = {**self._defaults, **ready}
        if self._never_zero:
            check_inner_sizes(self._never_zero, ready)
        return ready

    def _chosen(self, outputs: Sequence[str]) -> list[str]:
        if isinstance(outputs, str) or not outputs:
            raise InputError(f"outputs must be a list of names, some of {self._output_names}, or None for all; got {outputs!r}")
        for name in outputs:
            if name not in self._output_names:
                raise InputError(f"the model has no output {name!r}{instead(name, self._output_names)}")
        return list(outputs)

    def _check_names(self, feeds: Mapping[str, Any]) -> None:
        for name in feeds:
            if name not in self._input_checks:
                raise InputError(f"the model has no input {name!r}{instead(name, list(self._input_checks))}")
        for name in self._required:
            if name not in feeds:
                raise self._missing(name)
        if self._never_zero:
            check_inner_sizes(self._never_zero, {**self._defaults, **feeds})

    def _missing(self, name: str) -> InputError:
        shown = [str(spec) for spec in self.inputs[:_MAX_SHOWN]]
        more = len(self.inputs) - len(shown)
        return InputError(f"input {name!r} is missing; expected {'; '.join(shown)}{f' and {more} more' if more else ''}")

    @staticmethod
    def _copy_into(outputs: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        for name, array in outputs.items():
            if array.shape != results[name].shape:
                raise InputError(f"output {name!r} must have the shape that comes out, {results[name].shape}, got {array.shape}")
        for name, array in outputs.items():
            np.copyto(array, results[name])


def check_inner_sizes(sizes: Sequence[NeverZero], feeds: Mapping[str, Any]) -> None:
    """Raises InputError where these inputs would leave a recurrent operator inside the graph with nothing, which ends the process."""
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in feeds.items()}
    for each in sizes:
        try:
            empty = size_of(each.size, shapes) == 0
        except UnknownSizeError:  # an input of another kind
            continue
        if empty:
            words = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:12])
            raise InputError(
                f"inputs of these shapes ({words}) leave nothing for the graph's operator {each.operator}, which ends the whole process "
                "in ONNX Runtime; give it larger ones"
            )


def uneven_axis(specs: Sequence[TensorSpec], feeds: Mapping[str, Any]) -> str:
    """Which axis of one name has different sizes in the inputs, for errors; "" where none has."""
    sizes: dict[str, dict[str, int]] = {}
    for spec in specs:
        array = feeds.get(spec.name)
        if isinstance(array, np.ndarray) and array.ndim == len(spec.shape):
            for name, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(name, str):
                    sizes.setdefault(name, {}).setdefault(spec.name, size)
    for name, found in sizes.items():
        if len(set(found.values())) > 1:
            words = ", ".join(f"{size} in {where!r}" for where, size in list(found.items())[:12])
            return f"the axis {name!r} has one size in all inputs, got {words}"
    return ""


def as_dict(feeds: object, what: str = "feeds") -> dict[str, Any]:
    """A copy of a mapping as a dict. Raises InputError for anything else."""
    if not isinstance(feeds, Mapping):
        raise InputError(f"{what} must be a dict of arrays by {'input' if what == 'feeds' else 'output'} name, got {kind(feeds)}")
    return dict(feeds)


def specs_of(nodes: Sequence[Any], unranked: Set[str]) -> tuple[TensorSpec, ...]:
    """From ONNX Runtime's NodeArgs: type ``tensor(float)``, shape of int, str and None."""
    specs = []
    for node in nodes:
        dtype, shape = node.type, node.shape
        if not dtype.startswith("tensor("):
            specs.append(TensorSpec(node.name, dtype, (), ranked=False))
            continue
        sizes = tuple(None if isinstance(size, int) and size < 0 else size for size in shape)
        specs.append(TensorSpec(node.name, numpy_name(dtype), sizes, ranked=bool(sizes) or node.name not in unranked))
    return tuple(specs)


def open_sizes(sizes: Mapping[str, int], inputs: Sequence[TensorSpec]) -> tuple[tuple[str, int], ...]:
    """Sizes for dynamic axes of the inputs, sorted by the axis' name. Raises InputError for an unknown name and for an invalid size."""
    if not isinstance(sizes, Mapping):
        raise InputError(f"sizes must be a dict of whole numbers by axis name, got {kind(sizes)}")
    names = dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str))
    for name in sizes:
        if name not in names:
            raise InputError(f"the model has no open axis {name!r}{instead(name, list(names))}")
    return tuple(sorted((name, whole_number(f"the size of {name!r}", size)) for name, size in sizes.items()))


def _numpy_dtype(name: str) -> np.dtype[Any] | None:
    """None for types without a fixed numpy dtype; their arrays take the slower path."""
    if name == "str" or "(" in name:  # text; a sequence, map or optional, such as seq(map(string,tensor(float)))
        return None
    try:
        dtype = np.dtype(name)
    except TypeError:
        return None
    return dtype if dtype.isbuiltin == 1 else None  # not those that ml_dtypes registers: ONNX Runtime takes none of them


def numpy_name(onnx_type: str) -> str:
    """``tensor(float)`` → ``float32``."""
    inner = onnx_type.removeprefix("tensor(").removesuffix(")")
    return _NUMPY_NAMES.get(inner, inner)


def _dtype_words(array: np.ndarray) -> str:
    return array.dtype.name if array.dtype.isnative else f"{array.dtype.name} in foreign byte order ({array.dtype.str})"


def never_empty(spec: TensorSpec, operators: Collection[str], ours: bool) -> tuple[int, ...]:
    """Axes of an input that must not be empty, because an operator aborts the process on an empty one.

    ``ours``: for a file with a contract, or a graph made by this package, the batch is known to be the first axis, and zero steps are
    fine. For other files any axis may be the batch.
    """
    if not spec.ranked or _ABORT_ON_EMPTY.isdisjoint(operators):
        return ()
    return tuple(range(len(spec.shape))[: 1 if ours else None])
