"""The arguments of a JAX call as named arrays, and back; what it answers as named arrays."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from onnxferry.export.source import nested, unique
from onnxferry.runtime.errors import ExportError, InputError

DTYPES = {"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"}


class Call:
    """How a model is called: which leaves of its arguments are arrays, and what the others are.

    Arrays are the inputs, named by their place: ``state`` = {"h": …} is ``state_h``. Numbers, flags and text are fixed.
    """

    def __init__(self, signature: inspect.Signature, examples: Any) -> None:
        args, kwargs = _given(_nested_inputs(signature, examples) if isinstance(examples, Mapping) else examples)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(
                f"the example inputs do not fit the model's arguments: {error}; it takes {', '.join(signature.parameters)}"
            ) from error
        self._signature, self._bound = signature, bound
        self._arguments = _expanded(bound)
        # As a tuple: JAX would sort the keys of a dict.
        with_paths, self._tree = jax.tree_util.tree_flatten_with_path(tuple(self._arguments.values()))
        self._leaves = [leaf for _, leaf in with_paths]
        self._places = [place for place, leaf in enumerate(self._leaves) if _is_array(leaf)]
        names = list(self._arguments)
        paths = ["_".join(filter(None, (names[path[0].idx], _name(path[1:])))) for path, _ in with_paths]
        self.names = list(unique(paths[place] for place in self._places))
        self.arrays = {name: _array(self._leaves[place], name) for name, place in zip(self.names, self._places, strict=True)}
        self.fixed = {name: leaf for place, (name, leaf) in enumerate(zip(paths, self._leaves, strict=True)) if place not in self._places}
        if not self.names:
            raise InputError("the example inputs hold no array, so the graph would have no input: give at least one numpy or JAX array")

    def arguments(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = list(self._leaves)
        for place, array in zip(self._places, arrays, strict=True):
            leaves[place] = array
        values = dict(zip(self._arguments, jax.tree_util.tree_unflatten(self._tree, leaves), strict=True))
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False
        for name, parameter in self._signature.parameters.items():
            if name not in self._bound.arguments:
                by_name = by_name or parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            elif parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(values[name])
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(values[""])
            elif parameter.kind is parameter.KEYWORD_ONLY or by_name:
                kwargs[name] = values[name]
            else:
                args.append(values[name])
        return tuple(args), kwargs

    def axes(self, dynamic_shapes: Any) -> dict[str, dict[int, str]]:
        """The open axes of every input, from ``{"x": {0: "batch"}}``; nested inputs as nested, or under their flat names."""
        if dynamic_shapes is None:
            return {name: {} for name in self.names}
        if not isinstance(dynamic_shapes, Mapping):
            names = list(self._bound.arguments)
            if not isinstance(dynamic_shapes, list | tuple) or len(dynamic_shapes) > len(names):
                raise InputError(f"dynamic_shapes must map input names to axes, as {{'x': {{0: 'batch'}}}}, got {dynamic_shapes!r}")
            dynamic_shapes = dict(zip(names, dynamic_shapes, strict=False))
        given = dict(pair for name, value in dynamic_shapes.items() for pair in _named_axes(name, value))
        unknown = sorted(set(given) - set(self.names))
        if unknown:
            raise InputError(f"dynamic_shapes names {unknown[0]!r}, which is no input; the inputs are {', '.join(self.names)}")
        found: dict[str, dict[int, str]] = {}
        for name, array in self.arrays.items():
            found[name] = {}
            for axis, label in given.get(name, {}).items():
                if not -array.ndim <= axis < array.ndim:
                    raise InputError(f"dynamic_shapes: input {name!r} has {array.ndim} axes, there is no axis {axis}")
                place = axis % array.ndim
                found[name][place] = label or f"{name}_dim{place}"
                if not found[name][place].isidentifier():
                    raise InputError(f"dynamic_shapes: {found[name][place]!r} cannot name an axis: use letters, digits and _")
        return found


def _given(examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(examples, Mapping):
        return (), dict(examples)
    if isinstance(examples, list | tuple):
        return tuple(examples), {}
    if _is_array(examples):
        return (examples,), {}
    raise InputError(
        f"example inputs must be an array, a tuple of them, or a dict by the names of the arguments, got {type(examples).__name__}"
    )


def _nested_inputs(signature: inspect.Signature, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by their flat names, as a file has them: ``state_0`` and ``state_1`` become the tuple ``state``."""
    left = dict(flat)
    call: dict[str, Any] = {name: left.pop(name) for name in signature.parameters if name in left}
    for name in sorted(set(signature.parameters) - set(call), key=len, reverse=True):
        inside = {key.removeprefix(f"{name}_"): key for key in left if key.startswith(f"{name}_")}
        if inside:
            call[name] = nested({part: left.pop(key) for part, key in inside.items()})
    return {**call, **left}


def _expanded(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments by name; what ``**kwargs`` takes goes under "", so that its names stand alone."""
    kinds = bound.signature.parameters
    return {"" if kinds[name].kind is inspect.Parameter.VAR_KEYWORD else name: value for name, value in bound.arguments.items()}


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _array(leaf: Any, name: str) -> np.ndarray:
    """As JAX takes it: in 32 bits, unless jax_enable_x64 is on."""
    array = np.asarray(leaf)
    if array.dtype.name not in DTYPES:
        raise InputError(f"input {name!r} is {array.dtype.name}, which ONNX Runtime does not take on every machine: give float32")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def _name(path: Sequence[Any]) -> str:
    """``{"state": (h, c)}`` -> state_0: keys, indices and field names, joined."""
    parts = []
    for entry in path:
        key = str(next((getattr(entry, field) for field in ("key", "idx", "name") if hasattr(entry, field)), entry))
        parts.append("".join(c if c.isalnum() or c in "_-." else "_" for c in key))
    return "_".join(part for part in parts if part)


def _named_axes(name: str, value: Any) -> Iterator[tuple[str, dict[int, str]]]:
    if value is None:
        return
    if isinstance(value, Mapping) and all(isinstance(axis, int) for axis in value):
        yield name, {axis: str(label or "") for axis, label in value.items() if not isinstance(label, int)}
    elif isinstance(value, list | tuple) and all(isinstance(each, str | None) for each in value):
        yield name, {axis: label for axis, label in enumerate(value) if label is not None}
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named_axes(f"{name}_{key}", inner)
    elif isinstance(value, list | tuple):
        for key, inner in enumerate(value):
            yield from _named_axes(f"{name}_{key}", inner)
    else:
        raise InputError(f"dynamic_shapes of {name!r} must be like {{0: 'batch'}}, got {value!r}")


def output_names(answer: Any, taken: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Names for the arrays of an answer: ``output``, or by keys and places. Raises ExportError for what is no array."""
    found = [(_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(answer)[0]]
    if not found:
        raise ExportError("the model returns no array, so there is nothing to export")
    for name, leaf in found:
        where = f"output {name!r}" if name else "the output"
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | bool):
            raise ExportError(
                f"{where} is a {type(leaf).__name__}, and a graph can only give arrays: return arrays in a tuple, list or dict"
            )
        dtype = np.asarray(leaf).dtype.name
        if dtype not in DTYPES:
            advice = "its absolute value or its parts" if dtype.startswith("complex") else "it in float32"
            raise ExportError(f"{where} is {dtype}, which a graph cannot give: return {advice}")
    names = [name or "output" for name, _ in found]
    names = [f"output_{name}" if name[0].isdigit() else name for name in names]
    if wanted is not None:
        if len(wanted) != len(names):
            raise InputError(f"output_names gives {len(wanted)} names, the model has {len(names)} outputs ({', '.join(names)})")
        names = list(wanted)
        if len(set(names)) < len(names):
            raise InputError(f"output_names must be different from one another, got {', '.join(names)}")
    return unique(f"{name}_out" if name in taken else name for name in names)
