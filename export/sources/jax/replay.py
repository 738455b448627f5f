"""A traced program run again, step by step, otherwise than JAX runs it: in double precision, or with the errors of another library.

Both use the weights of the float32 program, exactly. The errors are Monte Carlo arithmetic, as for PyTorch
(``sources/pytorch/rounding.py``). JAX's compiler joins a product and a sum into one rounding where it can, so the operands of sums are
off too; steps that only move, select or compare are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from onnxferry.export.source import Noise

NARROW = {np.dtype(np.float32), np.dtype(np.float16), np.dtype(jax.numpy.bfloat16)}

QUICK = {"xla_backend_optimization_level": 0}
"""Each shape is compiled anew: this halves the time it takes, and the answers are run only a few times."""

EXACT = frozenset(
    [
        "abs",
        "and",
        "argmax",
        "argmin",
        "broadcast_in_dim",
        "ceil",
        "clamp",
        "concatenate",
        "convert_element_type",
        "copy",
        "copy_p",
        "cummax",
        "cummin",
        "dim_as_value",
        "dynamic_slice",
        "dynamic_update_slice",
        "eq",
        "expand_dims",
        "floor",
        "gather",
        "ge",
        "gt",
        "imag",
        "complex",
        "conj",
        "iota",
        "is_finite",
        "le",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "not",
        "or",
        "pad",
        "real",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_precision",
        "reduce_window_max",
        "reduce_window_min",
        "rem",
        "reshape",
        "rev",
        "round",
        "scatter",
        "scatter-max",
        "scatter-min",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "slice",
        "sort",
        "split",
        "sqrt",
        "square",
        "squeeze",
        "stack",
        "stop_gradient",
        "tile",
        "top_k",
        "transpose",
        "unstack",
        "xor",
        "div",
    ]
)

# Functions of one number: their result is off, and not the number that goes in.
POINTWISE = frozenset(
    [
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "cos",
        "cosh",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "integer_pow",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "pow",
        "rsqrt",
        "sin",
        "sinh",
        "tan",
        "tanh",
    ]
)

_KERNELS = {"logistic": "sigmoid", "erf_inv": "erfinv", "fft": "_fft_c2c"}  # names of PyTorch, by which kernels' errors are known


class Replay:
    """Runs a jaxpr, with a say in each step. This one runs it as it is."""

    def constant(self, value: Any) -> Any:
        return jax.numpy.asarray(value) if not isinstance(value, jax.Array) else value

    def params(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    def operands(self, name: str, values: list[Any]) -> list[Any]:
        return values

    def results(self, name: str, made: Sequence[Any], values: Sequence[Any]) -> Sequence[Any]:
        return made

    def run(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            if not isinstance(atom, core.Literal):
                return known[atom]
            aval: Any = atom.aval
            return self.constant(np.asarray(atom.val, aval.dtype))

        known.update((variable, self.constant(const)) for variable, const in zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, values, strict=True))
        for equation in jaxpr.eqns:
            made = self._step(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _program(self, closed: Any) -> Any:
        jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, core.ClosedJaxpr) else (closed, ())
        return lambda *values: self.run(jaxpr, consts, values)

    def _step(self, equation: Any, values: list[Any]) -> Sequence[Any]:
        name, params = str(equation.primitive.name), dict(equation.params)
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if key in params and name not in ("scan", "reduce_window", "reduce"):
                found: Sequence[Any] = self._program(params[key])(*values)
                return found
        if name == "scan":
            return self._scan(params, values)
        if name == "while":
            return self._while(params, values)
        if name == "cond":
            branches = [lambda *given, each=each: tuple(self._program(each)(*given)) for each in params["branches"]]
            return list(jax.lax.switch(values[0], branches, *values[1:]))
        if name == "reduce_precision":
            return values
        made = equation.primitive.bind(*self.operands(name, values), **self.params(params))
        return self.results(name, made if equation.primitive.multiple_results else [made], values)

    def _scan(self, params: dict[str, Any], values: list[Any]) -> Sequence[Any]:
        consts, carries = params["num_consts"], params["num_carry"]
        shared, first, items = values[:consts], values[consts : consts + carries], values[consts + carries :]
        body = self._program(params["jaxpr"])

        def turn(state: Any, item: Any) -> Any:
            made = body(*shared, *state, *item)
            return tuple(made[:carries]), tuple(made[carries:])

        last, stacked = jax.lax.scan(turn, tuple(first), tuple(items), length=params["length"], reverse=params["reverse"])
        return [*last, *stacked]

    def _while(self, params: dict[str, Any], values: list[Any]) -> Sequence[Any]:
        tests, bodies = params["cond_nconsts"], params["body_nconsts"]
        test, body = self._program(params["cond_jaxpr"]), self._program(params["body_jaxpr"])
        for_test, for_body, first = values[:tests], values[tests : tests + bodies], values[tests + bodies :]
        return list(jax.lax.while_loop(lambda s: test(*for_test, *s)[0], lambda s: tuple(body(*for_body, *s)), tuple(first)))


class _InFloat64(Replay):
    def constant(self, value: Any) -> Any:
        array = jax.numpy.asarray(value)
        return array.astype(np.float64) if array.dtype in NARROW else array

    def params(self, params: dict[str, Any]) -> dict[str, Any]:
        dtypes = {key: _wide(params[key]) for key in ("new_dtype", "dtype", "preferred_element_type") if key in params}
        return params | dtypes


def _wide(dtype: Any) -> Any:
    if dtype is None or jax.numpy.issubdtype(dtype, jax.dtypes.extended):
        return dtype
    if np.dtype(dtype) in NARROW:
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if np.dtype(dtype) == np.complex64 else dtype


class _Rounded(Replay):
    def __init__(self, seed: Any, noise: Noise) -> None:
        self.noise, self.seed, self.draws = noise, seed, 0

    def operands(self, name: str, values: list[Any]) -> list[Any]:
        return values if name in EXACT or name in POINTWISE else [self._off(value) for value in values]

    def results(self, name: str, made: Sequence[Any], values: Sequence[Any]) -> Sequence[Any]:
        if name in EXACT:
            return made
        error = self.noise.kernels.get(_KERNELS.get(name, name))
        if name == "fft" and error is not None:
            share = error.of_operand * abs(values[0]).max()
            return [value + share * self._of_both_parts(value) for value in made]
        found = [self._off(value) for value in made]
        if error is None:
            return found
        size = abs(values[0])
        return [value + self._draw(value) * (error.absolute + error.of_operand * size) if _is_float(value) else value for value in found]

    def _off(self, value: Any) -> Any:
        if not _is_float(value):
            return value
        return value * (1 + self.noise.roundings * np.finfo(value.dtype).eps * self._draw(value))

    def _of_both_parts(self, value: Any) -> Any:
        if _is_float(value):
            return self._draw(value)
        return self._draw(value.real) + 1j * self._draw(value.real)

    def _draw(self, value: Any) -> Any:
        """Evenly in -1 … 1, by a hash of place, seed and draw: JAX's own generator would take longer to compile than the model."""
        self.draws += 1
        places = jax.numpy.arange(value.size, dtype=np.float32).reshape(value.shape)
        mixed = jax.numpy.sin(places * 12.9898 + self.seed * 78.233 + self.draws * 37.719) * 43758.547
        return (2 * (mixed - jax.numpy.floor(mixed)) - 1).astype(value.dtype)


def _is_float(value: Any) -> bool:
    return bool(jax.numpy.issubdtype(value.dtype, jax.numpy.floating))


def in_float64(closed: Any, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a closed jaxpr for these inputs. Raises what JAX raises where a step has no float64 form."""
    replay = _InFloat64()
    with jax.enable_x64(True):
        arrays = [replay.constant(feed) for feed in feeds]
        made = jax.jit(lambda *values: replay.run(closed.jaxpr, closed.consts, values), compiler_options=QUICK)(*arrays)
        return [np.asarray(array) for array in made]


def rounding(closed: Any, noise: Noise) -> Callable[..., list[Any]]:
    """A function of a seed and the inputs: the outputs with random errors up to ``noise`` in every step that rounds."""

    def run(seed: Any, *values: Any) -> list[Any]:
        return _Rounded(seed, noise).run(closed.jaxpr, closed.consts, values)

    program: Callable[..., list[Any]] = jax.jit(run, compiler_options=QUICK)
    return program
