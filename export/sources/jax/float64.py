"""A traced program in double precision: the same steps, with float64 for every narrower float.

It shows how much of a difference is rounding. The weights are those of the float32 program, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

NARROW = {np.dtype(np.float32), np.dtype(np.float16), np.dtype(jax.numpy.bfloat16)}

QUICK = {"xla_backend_optimization_level": 0}
"""Each shape is compiled anew: this halves the time it takes, and the answers are run only a few times."""

_DTYPES = ("new_dtype", "dtype", "preferred_element_type")


def in_float64(closed: Any, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a closed jaxpr for these inputs. Raises what JAX raises where a step has no float64 form."""
    with jax.enable_x64(True):
        arrays = [_wide(jax.numpy.asarray(feed)) for feed in feeds]
        made = jax.jit(lambda *values: _run(closed.jaxpr, closed.consts, values), compiler_options=QUICK)(*arrays)
        return [np.asarray(array) for array in made]


def _wide(value: Any) -> Any:
    value = jax.numpy.asarray(value)
    return value.astype(np.float64) if value.dtype in NARROW else value


def _wide_dtype(dtype: Any) -> Any:
    if dtype is None or jax.numpy.issubdtype(dtype, jax.dtypes.extended):
        return dtype
    if np.dtype(dtype) in NARROW:
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if np.dtype(dtype) == np.complex64 else dtype


def _run(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return _typed(atom.val, atom.aval) if isinstance(atom, core.Literal) else known[atom]

    known.update((variable, _wide(const)) for variable, const in zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))
    for equation in jaxpr.eqns:
        made = _step(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _typed(value: Any, aval: Any) -> Any:
    return _wide(np.asarray(value, aval.dtype))


def _program(closed: Any) -> Any:
    jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, core.ClosedJaxpr) else (closed, ())
    return lambda *values: _run(jaxpr, consts, values)


def _step(equation: Any, values: list[Any]) -> Sequence[Any]:
    name, params = str(equation.primitive.name), dict(equation.params)
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params and name not in ("scan", "reduce_window", "reduce"):
            found: Sequence[Any] = _program(params[key])(*values)
            return found
    if name == "scan":
        consts, carries = params["num_consts"], params["num_carry"]
        shared, first, items = values[:consts], values[consts : consts + carries], values[consts + carries :]
        body = _program(params["jaxpr"])

        def turn(state: Any, item: Any) -> Any:
            made = body(*shared, *state, *item)
            return tuple(made[:carries]), tuple(made[carries:])

        last, stacked = jax.lax.scan(turn, tuple(first), tuple(items), length=params["length"], reverse=params["reverse"])
        return [*last, *stacked]
    if name == "while":
        tests, bodies = params["cond_nconsts"], params["body_nconsts"]
        test, body = _program(params["cond_jaxpr"]), _program(params["body_jaxpr"])
        for_test, for_body, first = values[:tests], values[tests : tests + bodies], values[tests + bodies :]
        return list(jax.lax.while_loop(lambda s: test(*for_test, *s)[0], lambda s: tuple(body(*for_body, *s)), tuple(first)))
    if name == "cond":
        branches = [lambda *given, each=each: tuple(_program(each)(*given)) for each in params["branches"]]
        return list(jax.lax.switch(values[0], branches, *values[1:]))
    if name == "reduce_precision":
        return values
    params.update({key: _wide_dtype(params[key]) for key in _DTYPES if key in params})
    made = equation.primitive.bind(*values, **params)
    return made if equation.primitive.multiple_results else [made]
