"""A JAX function or module as a source. The reference outputs are JAX's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import NUDGE, Candidate, Feeds, InputSpec, Noise, Plan, Strategy, check_axes, dynamic_axes, numbered
from onnxferry.export.sources.jax import lowerings as lowerings
from onnxferry.export.sources.jax.call import Call, output_names
from onnxferry.export.sources.jax.convert import make_graph
from onnxferry.export.sources.jax.model import as_function
from onnxferry.export.sources.jax.replay import QUICK, in_float64, rounding
from onnxferry.runtime.errors import ExportError, InputError, first_line

LEAST = (2, 4, 8, 16, 32, 64)
"""Least sizes of an open axis, tried in turn where JAX cannot tell that a size is large enough."""

LOOKS_AT_VALUES = (
    "TracerBoolConversionError", "TracerIntegerConversionError", "TracerArrayConversionError", "ConcretizationTypeError",
)  # fmt: skip

PACKAGES = ("jax", "jaxlib", "flax", "equinox", "onnx")


def plans(model: Any, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    source = JaxSource(model, example_inputs, dynamic_shapes=options.dynamic_shapes, output_names=options.output_names)
    return [Plan(source, samples=numbered(options.samples), goldens=options.chosen_goldens(None))]


class JaxSource:
    """``examples``: an array, a tuple of positional arguments, or a dict by the names of the arguments; nested ones are fine.

    Arrays are inputs, in the dtype that JAX computes in; numbers, flags and text are fixed in the graph. A single output is ``output``,
    several have their keys or places. Modules run in evaluation mode. Raises InputError for inputs that do not fit, ExportError where
    the model fails on them.
    """

    def __init__(
        self,
        model: Any,
        examples: Any,
        *,
        dynamic_shapes: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self.model = as_function(model)
        if examples is None:
            raise InputError("a JAX model needs example inputs: an array, a tuple of them, or a dict by the names of the arguments")
        self.call = Call(self.model.signature, examples)
        axes = self.call.axes(dynamic_shapes)
        self.examples: Feeds = self.call.arrays
        self.inputs = tuple(
            InputSpec(name, array.dtype.name, tuple(axes[name].get(place, size) for place, size in enumerate(array.shape)), array.shape)
            for name, array in self.examples.items()
        )
        check_axes(self.inputs)
        self.notes: list[str] = [
            *self.model.notes,
            *(f"the argument {name} = {value!r} is no array: it is fixed in the graph" for name, value in self.call.fixed.items()),
        ]
        self._jitted = jax.jit(self._flat, compiler_options=QUICK)
        self._traces: dict[Any, Any] = {}
        self._roundings: dict[Any, Any] = {}
        self._no_float64 = self._no_rounding = False
        self.output_names = self._first_answer(output_names)

    def _first_answer(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        try:
            args, kwargs = self.call.arguments([jax.numpy.asarray(array) for array in self.examples.values()])
            answer = self.model.call(*args, **kwargs)
        except Exception as error:
            raise ExportError(
                f"the model itself fails on the example inputs ({type(error).__name__}: {first_line(error, repr(error))[:300]}); "
                "give inputs that it accepts"
            ) from error
        return output_names(answer, self.call.names, wanted)

    def _flat(self, *arrays: Any) -> list[Any]:
        args, kwargs = self.call.arguments(arrays)
        return [jax.numpy.asarray(leaf) for leaf in jax.tree.leaves(self.model.call(*args, **kwargs))]

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._named(self._jitted(*(feeds[name] for name in self.call.names)))

    def _named(self, arrays: Sequence[Any]) -> dict[str, np.ndarray]:
        if len(arrays) != len(self.output_names):
            raise ExportError(f"the model gave {len(arrays)} outputs for one input and {len(self.output_names)} for another")
        return {name: np.asarray(array) for name, array in zip(self.output_names, arrays, strict=True)}

    def _trace(self, feeds: Feeds) -> Any:
        """The program for inputs of this shape."""
        key = tuple((name, feeds[name].shape) for name in self.call.names)
        if key not in self._traces:
            self._traces[key] = jax.make_jaxpr(self._flat)(*(feeds[name] for name in self.call.names))
        return self._traces[key]

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        if self._no_float64:
            return None
        try:
            return self._named(in_float64(self._trace(feeds), [feeds[name] for name in self.call.names]))
        except Exception:  # noqa: BLE001 - steps that look at bits have no float64 form; then there is no such evidence
            self._no_float64 = True
            return None

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        rng = np.random.default_rng(seed)
        closed = self._trace(feeds)
        consts = [_nudged(const, rng) for const in closed.consts]
        moved = [_nudged(feeds[name], rng, by_scale=True) for name in self.call.names]
        program = jax.jit(lambda c, v: jax.core.eval_jaxpr(closed.jaxpr, c, *v), compiler_options=QUICK)
        return self._named(program(consts, moved))

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        if self._no_rounding:
            return None
        try:
            key = (noise.roundings, *((name, feeds[name].shape) for name in self.call.names))
            if key not in self._roundings:
                self._roundings[key] = rounding(self._trace(feeds), noise)
            return self._named(self._roundings[key](float(seed % 1_000), *(feeds[name] for name in self.call.names)))
        except Exception:  # noqa: BLE001 - a step that cannot be run by itself; then there is no such evidence
            self._no_rounding = True
            return None

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return [Strategy("jax", lambda: self._build(opset))]

    def _build(self, opset: int) -> Candidate:
        closed, shapes, ranges = self._symbolic()
        declared = [(spec.name, np.dtype(spec.dtype), shape) for spec, shape in zip(self.inputs, shapes, strict=True)]
        model = make_graph(closed, declared, self.output_names, opset)
        return Candidate(model, ranges=ranges)

    def _symbolic(self) -> tuple[Any, list[tuple[Any, ...]], dict[str, tuple[int, int | None]]]:
        """The program with open axes: traced as they are, or from the least sizes on for which JAX can tell that it holds."""
        errors: list[Exception] = []
        for least in self._least_sizes():
            try:
                closed, shapes = self._traced(least)
            except Exception as error:  # noqa: BLE001 - JAX raises many kinds; the first says what is wrong
                errors.append(error)
                if type(error).__name__ in LOOKS_AT_VALUES:
                    break
                continue
            _check_repeatable(closed, self._traced(least)[0])
            return closed, shapes, {axis: (size, None) for axis, size in least.items()}
        raise ExportError(_why_untraced(errors[0])) from errors[0]

    def _least_sizes(self) -> Iterator[dict[str, int]]:
        yield {}
        sizes = dynamic_axes(self.inputs)
        for least in LEAST:
            fits = [axis for axis, size in sizes.items() if size >= least]
            yield from ({axis: least} for axis in fits)
            if len(fits) > 1:
                yield dict.fromkeys(fits, least)

    def _traced(self, least: Mapping[str, int]) -> tuple[Any, list[tuple[Any, ...]]]:
        axes = list(dynamic_axes(self.inputs))
        constraints = [f"{axis} >= {size}" for axis, size in least.items()]
        sizes: dict[str, Any] = {}
        if axes:
            scope = jax_export.SymbolicScope(constraints)
            sizes = dict(zip(axes, jax_export.symbolic_shape(", ".join(axes), scope=scope), strict=True))
        shapes = [tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape) for spec in self.inputs]
        given: list[Any] = [_struct(shape, np.dtype(spec.dtype)) for spec, shape in zip(self.inputs, shapes, strict=True)]
        return jax.make_jaxpr(self._flat)(*given), shapes

    def provenance(self) -> dict[str, Any]:
        return {
            "framework": "jax",
            "versions": {name: found for name in PACKAGES if (found := _version(name))},
            "model": self.model.kind,
            "weights_sha256": _sha256(self.model.weights),
        }


def _check_repeatable(one: Any, other: Any) -> None:
    """Raises ExportError where tracing twice gives two programs: Python code that draws, counts or looks at the clock."""
    equal = str(one.jaxpr) == str(other.jaxpr) and len(one.consts) == len(other.consts)
    if not equal or not all(_same(a, b) for a, b in zip(one.consts, other.consts, strict=True)):
        raise ExportError(
            "the model is another program each time JAX traces it (random numbers of Python or numpy, a counter, the time): "
            "take what changes as an input"
        )


def _same(one: Any, other: Any) -> bool:
    if jax.numpy.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    a, b = np.asarray(one), np.asarray(other)
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _nudged(value: Any, rng: np.random.Generator, *, by_scale: bool = False) -> Any:
    array = np.asarray(value) if not jax.numpy.issubdtype(value.dtype, jax.dtypes.extended) else None
    if array is None or array.dtype.kind != "f":
        return value
    scale: Any = array
    if by_scale:
        scale = float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) or 1.0
    return (array + NUDGE * scale * rng.standard_normal(array.shape)).astype(array.dtype)


def _why_untraced(error: Exception) -> str:
    kind, words = type(error).__name__, first_line(error, repr(error))[:300]
    if kind in LOOKS_AT_VALUES:
        return (
            f"the model looks at values in Python while JAX traces it ({kind}): branch with jax.lax.cond or jnp.where, "
            "and compute with jax.numpy instead of numpy"
        )
    if kind == "InconclusiveDimensionOperation":
        return (
            f"JAX cannot tell that the model holds for every size of its open axes ({words}): leave an axis fixed, or avoid the comparison"
        )
    return f"JAX cannot trace the model with open axes ({kind}: {words})"


def _struct(shape: tuple[Any, ...], dtype: np.dtype[Any]) -> Any:
    make: Any = jax.ShapeDtypeStruct
    return make(shape, dtype)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _sha256(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
