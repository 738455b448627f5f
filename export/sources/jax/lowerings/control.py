"""Calls, loops and branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from onnxferry.export.sources.jax.convert import Equation, lowers, run_jaxpr
from onnxferry.export.sources.jax.graph import Graph, Value, known
from onnxferry.runtime.errors import ExportError

_CALLS = (
    "jit",
    "pjit",
    "call",
    "closed_call",
    "core_call",
    "composite",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "remat",
    "checkpoint",
    "remat2",
)


@lowers(*_CALLS)
def _call(graph: Graph, equation: Equation, *values: Value) -> Sequence[Value]:
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if inner is not None:
            return run_jaxpr(graph, *_parts(inner), values)
    raise ExportError(f"{equation.primitive} holds no program")


def _parts(program: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr and its constants."""
    return (program.jaxpr, program.consts) if isinstance(program, core.ClosedJaxpr) else (program, ())


@lowers("scan")
def _scan(graph: Graph, equation: Equation, *values: Value) -> Sequence[Value]:
    p = equation.params
    consts, carries = int(p["num_consts"]), int(p["num_carry"])
    shared, states, items = values[:consts], values[consts : consts + carries], values[consts + carries :]
    if not items and not equation.outputs[carries:] and known(p["length"]) == 0:
        return states
    inner = graph.inner()
    inside = [inner.parameter(value.dtype, value.shape) for value in states]
    entries = [inner.parameter(value.dtype, value.shape[1:]) for value in items]
    scanned = [graph.full(value) for value in items]
    parameters = [*inside, *entries]
    if not items:  # a Scan needs something to go along
        scanned = [
            graph.op(
                "Range", [graph.constant(np.int64(0)), graph.scalar(p["length"]), graph.constant(np.int64(1))], np.int64, (p["length"],)
            )
        ]
        parameters.append(inner.parameter(np.int64, ()))
    results = run_jaxpr(inner, *_parts(p["jaxpr"]), [*shared, *inside, *entries])
    body = inner.closed("step", parameters, results)
    backwards = int(bool(p["reverse"]))
    stacked = len(results) - carries
    return graph.ops(
        "Scan",
        [*(graph.full(value) for value in states), *scanned],
        equation.outputs,
        body=body,
        num_scan_inputs=len(scanned),
        scan_input_directions=[backwards] * len(scanned),
        **({"scan_output_directions": [backwards] * stacked} if stacked else {}),
    )


@lowers("while")
def _while(graph: Graph, equation: Equation, *values: Value) -> Sequence[Value]:
    p = equation.params
    tests, bodies = int(p["cond_nconsts"]), int(p["body_nconsts"])
    for_test, for_body, states = values[:tests], values[tests : tests + bodies], values[tests + bodies :]
    first = run_jaxpr(graph, *_parts(p["cond_jaxpr"]), [*for_test, *states])[0]
    inner = graph.inner()
    count, going = inner.parameter(np.int64, ()), inner.parameter(bool, ())
    inside = [inner.parameter(value.dtype, value.shape) for value in states]
    after = run_jaxpr(inner, *_parts(p["body_jaxpr"]), [*for_body, *inside])
    again = run_jaxpr(inner, *_parts(p["cond_jaxpr"]), [*for_test, *after])[0]
    body = inner.closed("turn", [count, going, *inside], [again, *after])
    start = graph.reshape(first, ())
    return graph.ops("Loop", [None, start, *(graph.full(value) for value in states)], equation.outputs, body=body)


@lowers("cond")
def _cond(graph: Graph, equation: Equation, which: Value, *values: Value) -> Sequence[Value]:
    """``branches[which]``, with the index moved inside, as nested Ifs."""
    return _branch(graph, equation, which, values, list(equation.params["branches"]), 0)


def _branch(graph: Graph, equation: Equation, which: Value, values: Sequence[Value], branches: list[Any], number: int) -> Sequence[Value]:
    if len(branches) == 1:
        return run_jaxpr(graph, *_parts(branches[0]), values)
    index = graph.reshape(graph.cast(which, np.int64), ())
    condition = graph.op("LessOrEqual", [index, graph.constant(np.int64(number))], bool, ())
    here, others = graph.inner(), graph.inner()
    then = here.closed("then", [], run_jaxpr(here, *_parts(branches[0]), values))
    otherwise = others.closed("else", [], _branch(others, equation, which, values, branches[1:], number + 1))
    return graph.ops("If", [condition], equation.outputs, then_branch=then, else_branch=otherwise)
