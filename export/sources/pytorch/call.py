"""The arguments of a call as named inputs, and back."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from onnxferry.export.source import nested, unique
from onnxferry.runtime.errors import ExportError, InputError

NUMPY_DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint64: "uint64",
    torch.uint32: "uint32",
    torch.uint16: "uint16",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


class FlatModule(torch.nn.Module):
    """A module behind a flat list of tensors: what both exporters understand alike.

    ``forward(*tensors)`` puts the tensors in their places among the fixed arguments, and gives the tuple of all
    tensors in the answer, in flattened order.
    """

    def __init__(self, module: torch.nn.Module, call: CallPlan) -> None:
        super().__init__()
        self.inner = module
        self._call = call
        # Plain attribute, not train(False): that would switch the caller's modules for good.
        self.training = module.training

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = self._call.arguments(tensors)
        return tuple(tensors_in(self.inner(*args, **kwargs)))


class CallPlan:
    """How ``forward`` is called: which leaves of its arguments are tensors, and what the others are."""

    def __init__(self, module: torch.nn.Module, example_inputs: Any) -> None:
        bound = _bound_arguments(module, example_inputs)
        register_dataclasses(bound)
        parameters = signature_of(module).parameters
        self._positional: list[str] = []
        self._keywords: list[str] = []
        self._var_positional = next((n for n, p in parameters.items() if p.kind is p.VAR_POSITIONAL), None)
        self._var_keyword = next((n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
        gap = False
        for name, parameter in parameters.items():
            if name in (self._var_positional, self._var_keyword):
                continue
            if name not in bound:
                gap = True  # a default was left alone: later ones must be passed by name
            elif parameter.kind is parameter.KEYWORD_ONLY or gap:
                self._keywords.append(name)
            else:
                self._positional.append(name)
        leaves, self._spec = pytree.tree_flatten(bound)
        paths = [path_name(path) for path, _ in pytree.tree_flatten_with_path(bound)[0]]
        if self._var_keyword is not None:
            # **kwargs arrive under their own names, without the parameter's.
            paths = [p.removeprefix(f"{self._var_keyword}_") for p in paths]
        # Fields of a NamedTuple by their places too, as dynamic_shapes in plain tuples gives them.
        self._by_place = dict(zip([path_name(path) for path, _ in pytree.tree_flatten_with_path(_plain(bound))[0]], paths, strict=True))
        self._leaves = [torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        self.names: tuple[str, ...] = unique(paths[i] for i in self._places)
        self.tensors: tuple[torch.Tensor, ...] = tuple(self._leaves[i] for i in self._places)
        self.fixed = {paths[i]: leaf for i, leaf in enumerate(self._leaves) if i not in set(self._places) and leaf is not None}
        for i in self._places:
            self._leaves[i] = None
        if not self.names:
            raise InputError("the example inputs hold no tensor, so the graph would have no input: give at least one torch.Tensor")

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        bound = pytree.tree_unflatten(leaves, self._spec)
        args = [bound[name] for name in self._positional]
        if self._var_positional is not None:
            args.extend(bound.get(self._var_positional, ()))
        kwargs = {name: bound[name] for name in self._keywords}
        if self._var_keyword is not None:
            kwargs.update(bound.get(self._var_keyword, {}))
        return tuple(args), kwargs

    def flat_axes(self, dynamic_shapes: Any) -> list[dict[int, str]]:
        """The dynamic axes of every tensor, from ``{"x": {0: "batch"}}``; nested inputs as nested, or under their flat names."""
        if dynamic_shapes is None:
            return [{} for _ in self.names]
        if not isinstance(dynamic_shapes, Mapping):
            names = [*self._positional, *self._keywords]
            if not isinstance(dynamic_shapes, list | tuple) or len(dynamic_shapes) > len(names):
                raise InputError(f"dynamic_shapes must map input names to axes, as {{'x': {{0: 'batch'}}}}, got {dynamic_shapes!r}")
            dynamic_shapes = dict(zip(names, dynamic_shapes, strict=False))
        found = [_path_and_axes(name, value) for name, value in dynamic_shapes.items()]
        by_place = getattr(self, "_by_place", {})
        axes = {path if path in self.names else by_place.get(path, path): value for pairs in found for path, value in pairs}
        unknown = sorted(set(axes) - set(self.names))
        if unknown:
            raise InputError(f"dynamic_shapes names {unknown[0]!r}, which is no input; the inputs are {', '.join(self.names)}")
        flat = []
        for name, tensor in zip(self.names, self.tensors, strict=True):
            named: dict[int, str] = {}
            for axis, label in axes.get(name, {}).items():
                if not -tensor.dim() <= axis < tensor.dim():
                    raise InputError(f"dynamic_shapes: input {name!r} has {tensor.dim()} axes, there is no axis {axis}")
                place = axis % tensor.dim()
                named[place] = label or f"{name}_dim{place}"
            flat.append(named)
        return flat


def signature_of(module: torch.nn.Module) -> inspect.Signature:
    """What ``forward()`` takes; of a traced module, which has no Python signature, from its schema."""
    try:
        return inspect.signature(module.forward)
    except ValueError:
        forward: Any = module.forward
        arguments = forward.schema.arguments[1:]
        empty = inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature(
            [inspect.Parameter(a.name, kind, default=a.default_value if a.has_default_value() else empty) for a in arguments]
        )


def register_dataclasses(values: Any) -> None:
    """Make the fields of dataclasses that hold tensors visible to torch's pytree, as ``torch.export.register_dataclass`` does."""
    for leaf in pytree.tree_leaves(values):
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type) or type(leaf) in pytree.SUPPORTED_NODES:
            continue
        torch.export.register_dataclass(type(leaf))
        register_dataclasses([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])


def _plain(values: Any) -> Any:
    """NamedTuples as tuples."""
    if isinstance(values, tuple):
        return tuple(_plain(value) for value in values)
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return {key: _plain(value) for key, value in values.items()} if type(values) is dict else values


def tensors_in(answer: Any) -> list[torch.Tensor]:
    """The tensors of an answer in flattened order; sizes, numbers and flags among them as tensors without axes."""
    register_dataclasses(answer)
    return [_as_tensor(leaf) for leaf in pytree.tree_leaves(answer) if isinstance(leaf, (torch.Tensor, *NUMBERS))]


def _as_tensor(leaf: Any) -> torch.Tensor:
    if isinstance(leaf, torch.Tensor):
        return leaf
    dtype = next(dtype for kinds, dtype in _NUMBERS.items() if isinstance(leaf, kinds))
    return torch.full((), leaf, dtype=dtype)


_NUMBERS: Mapping[tuple[type, ...], torch.dtype] = {
    (bool, torch.SymBool): torch.bool,
    (int, torch.SymInt): torch.int64,
    (float, torch.SymFloat): torch.float64,
}
NUMBERS = tuple(kind for kinds in _NUMBERS for kind in kinds)


def _bound_arguments(module: torch.nn.Module, example_inputs: Any) -> dict[str, Any]:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, torch.Tensor | np.ndarray):
        args = (example_inputs,)
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, list | tuple):
        args = tuple(example_inputs)
    else:
        raise InputError(
            f"example inputs must be a tensor, a tuple of them, or a dict by forward()'s names, got {type(example_inputs).__name__}"
        )
    signature = signature_of(module)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        names = ", ".join(signature.parameters)
        hint = f"; inputs go by the names of forward()'s arguments: {names}" if kwargs else ""
        raise InputError(f"the example inputs do not fit forward{signature}: {error}{hint}") from error
    return dict(bound.arguments)


def _path_and_axes(name: str, value: Any) -> list[tuple[str, dict[int, str]]]:
    """(flat input name, {axis: label}) of a dynamic_shapes entry; a label is "" where the axis is dynamic without a name.

    ``{0: "batch"}``; ``("batch", None)``, a name or None for each axis; ``[0, 2]``, axes without names, as ``dynamic_axes`` of torch's
    older exporter takes them; or any of these inside the tuples, lists and dicts of a nested input.
    """
    if value is None:
        return []
    if isinstance(value, list | tuple | set) and value and all(isinstance(axis, int) and not isinstance(axis, bool) for axis in value):
        return [(name, dict.fromkeys(value, ""))]
    if isinstance(value, Mapping) and all(isinstance(axis, int) for axis in value):
        return [(name, {axis: _axis_label(label) for axis, label in value.items() if not _is_static(label)})]
    if (
        isinstance(value, list | tuple)
        and all(isinstance(v, str) or v is None or _is_dim(v) for v in value)
        and any(v is not None for v in value)
    ):
        return [(name, {axis: _axis_label(label) for axis, label in enumerate(value) if not _is_static(label)})]
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _path_and_axes(f"{name}_{key}", inner)]
    if isinstance(value, list | tuple) and not any(isinstance(inner, str | int) for inner in value):
        return [pair for i, inner in enumerate(value) for pair in _path_and_axes(f"{name}_{i}", inner)]
    raise InputError(f"dynamic_shapes of {name!r} must be like {{0: 'batch'}}, or a list of axes as [0], got {value!r}")


def _is_dim(value: Any) -> bool:
    return type(value).__name__ in ("Dim", "_DimHint", "_DerivedDim", "_StaticDim")


def _is_static(label: Any) -> bool:
    return label is None or isinstance(label, int) or "STATIC" in str(getattr(label, "type", ""))


def _axis_label(label: Any) -> str:
    if isinstance(label, str):
        if not label.isidentifier():
            raise InputError(f"an axis name must be like 'batch' (letters, digits, _), got {label!r}")
        return label
    if _is_dim(label):
        return str(getattr(label, "__name__", "") or "")
    raise InputError(f"an axis must be named by a string, got {label!r}")


def _numpy_dtype(dtype: torch.dtype, what: str) -> str:
    if dtype not in NUMPY_DTYPES:
        advice = (
            "convert the model with .float() first"
            if dtype is torch.bfloat16
            else "take it apart with torch.view_as_real, or give it another dtype"
            if dtype.is_complex
            else "give it another dtype"
        )
        raise ExportError(
            f"{what} has dtype {str(dtype).removeprefix('torch.')}, which ONNX Runtime does not take and give on every machine: {advice}"
        )
    return NUMPY_DTYPES[dtype]


def _array(tensor: torch.Tensor, name: str) -> np.ndarray:
    _numpy_dtype(tensor.dtype, f"tensor {name!r}")
    return tensor.detach().cpu().contiguous().numpy().copy()


def path_name(path: Sequence[Any]) -> str:
    """``{"state": (h, c)}`` -> state_0: keys, indices and field names, joined."""
    parts = []
    for entry in path:
        key = next((getattr(entry, field) for field in ("key", "idx", "name") if hasattr(entry, field)), entry)
        parts.append("".join(c if c.isalnum() or c in "_-." else "_" for c in str(key)))
    return "_".join(parts)


def nested_inputs(module: torch.nn.Module, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by their flat names as ``forward()`` takes them: the file's ``state_0`` and ``state_1`` become its tuple ``state``.

    What is an argument under its own name stays as it is. Raises InputError for an input that is no argument of ``forward()``.
    """
    parameters = signature_of(module).parameters
    left = dict(flat)
    call: dict[str, Any] = {name: left.pop(name) for name in parameters if name in left}
    for name in sorted(set(parameters) - set(call), key=len, reverse=True):
        inside = {key.removeprefix(f"{name}_"): key for key in left if key.startswith(f"{name}_")}
        if inside:
            call[name] = nested({part: left.pop(key) for part, key in inside.items()})
    if left and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {**call, **left}
    if left:
        raise InputError(
            f"the input {next(iter(left))!r} is no argument of the model's forward({', '.join(parameters)}): inputs go by the names of "
            "its arguments, and what is inside one by state_0 or batch_image"
        )
    return call


def only_argument(module: torch.nn.Module, given: Collection[str]) -> str | None:
    """The name of ``forward()``'s first argument, if a single input is given under a name that ``forward()`` does not have."""
    if len(given) != 1:
        return None
    (name,) = given
    parameters = signature_of(module).parameters
    known = any(p.kind is p.VAR_KEYWORD or name == each or name.startswith(f"{each}_") for each, p in parameters.items())
    first = next(iter(parameters.values()), None)
    return None if known or first is None or first.kind is first.VAR_POSITIONAL else first.name
