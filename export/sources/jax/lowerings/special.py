"""Functions that ONNX has no operator for, computed without loss near zero and at the ends of the range."""

from __future__ import annotations

import math

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Value
from onnxferry.export.sources.jax.lowerings.elementwise import Arithmetic


@lowers("exp2")
def _exp2(graph: Graph, equation: Equation, x: Value) -> Value:
    a = Arithmetic(graph, equation.shape, equation.dtype)
    return a.op("Pow", 2, x)


@lowers("expm1")
def _expm1(graph: Graph, equation: Equation, x: Value) -> Value:
    """exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2), exact to rounding near zero."""
    a = Arithmetic(graph, equation.shape, equation.dtype)
    t = a.op("Tanh", a.op("Mul", x, 0.5))
    near = a.op("Div", a.op("Mul", t, 2), a.op("Sub", 1, t))
    return a.where(a.flag("Less", a.op("Abs", x), 0.5), near, a.op("Sub", a.op("Exp", x), 1))


@lowers("log1p")
def _log1p(graph: Graph, equation: Equation, x: Value) -> Value:
    """log(u) x / (u - 1) with u = 1 + x, whose rounding error cancels (Kahan; Higham, Accuracy and Stability, 1.14)."""
    a = Arithmetic(graph, equation.shape, equation.dtype)
    u = a.op("Add", x, 1)
    rest = a.op("Sub", u, 1)
    exact = a.flag("Equal", rest, 0)
    scaled = a.op("Mul", a.op("Log", u), a.op("Div", x, a.where(exact, 1, rest)))
    far = a.flag("Greater", a.op("Abs", x), 1e6)  # where x / (u - 1) is 1, or infinity over infinity
    return a.where(exact, x, a.where(far, a.op("Log", u), scaled))


@lowers("cbrt")
def _cbrt(graph: Graph, equation: Equation, x: Value) -> Value:
    a = Arithmetic(graph, equation.shape, equation.dtype)
    return a.op("Mul", a.op("Sign", x), a.op("Pow", a.op("Abs", x), 1 / 3))


@lowers("atan2")
def _atan2(graph: Graph, equation: Equation, y: Value, x: Value) -> Value:
    """From the quotient of the smaller by the larger, in the eighth of the circle where it lies."""
    a = Arithmetic(graph, equation.shape, equation.dtype)
    up, along = a.op("Abs", y), a.op("Abs", x)
    largest, least = a.op("Max", up, along), a.op("Min", up, along)
    zero = a.flag("Equal", largest, 0)
    both = a.flag("Equal", least, np.inf)
    quotient = a.where(both, 1, a.op("Div", a.where(zero, 0, least), a.where(zero, 1, a.where(both, 1, largest))))
    angle = a.op("Atan", quotient)
    angle = a.where(a.flag("Greater", up, along), a.op("Sub", math.pi / 2, angle), angle)
    # The sign of a zero counts: 1 / x tells -0 from 0.
    left = a.flag("Less", a.where(a.flag("Equal", x, 0), a.op("Div", 1, x), x), 0)
    angle = a.where(left, a.op("Sub", math.pi, angle), angle)
    below = a.flag("Less", a.where(a.flag("Equal", y, 0), a.op("Div", 1, y), y), 0)
    return a.where(below, a.op("Neg", angle), angle)


@lowers("erfc")
def _erfc(graph: Graph, equation: Equation, x: Value) -> Value:
    """1 - erf(x) near zero; beyond, Numerical Recipes' Chebyshev fit (6.2, erfcc), off by 1.2e-7 of the value at most."""
    a = Arithmetic(graph, equation.shape, equation.dtype)
    z = a.op("Abs", x)
    t = a.op("Div", 1, a.op("Add", a.op("Mul", z, 0.5), 1))
    fit = a.polynomial(
        t, 0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223
    )
    tail = a.op("Mul", t, a.op("Exp", a.op("Sub", fit, a.op("Mul", z, z))))
    far = a.where(a.flag("Less", x, 0), a.op("Sub", 2, tail), tail)
    return a.where(a.flag("Less", z, 0.5), a.op("Sub", 1, a.op("Erf", x)), far)


@lowers("erf_inv")
def _erf_inv(graph: Graph, equation: Equation, x: Value) -> Value:
    """Giles' two polynomials in w = -log(1 - x²), as XLA computes it in float32 (Approximating the erfinv function, 2011)."""
    a = Arithmetic(graph, equation.shape, equation.dtype)
    w = a.op("Neg", a.op("Log", a.op("Mul", a.op("Sub", 1, x), a.op("Add", 1, x))))
    small = a.flag("Less", w, 5)
    inner = (
        2.81022636e-08,
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
        1.50140941,
    )
    outer = (
        -0.000200214257,
        0.000100950558,
        0.00134934322,
        -0.00367342844,
        0.00573950773,
        -0.0076224613,
        0.00943887047,
        1.00167406,
        2.83297682,
    )
    near = a.polynomial(a.op("Sub", w, 2.5), *inner)
    far = a.polynomial(a.op("Sub", a.op("Sqrt", a.op("Max", w, 0)), 3), *outer)
    inside = a.op("Mul", a.where(small, near, far), x)
    ends = a.flag("Equal", a.op("Abs", x), 1)
    return a.where(ends, a.op("Mul", x, np.inf), inside)


@lowers("lgamma")
def _lgamma(graph: Graph, equation: Equation, x: Value) -> Value:
    """Lanczos' sum with g = 7 for x >= 0.5, and the reflection below, as XLA has it; its error near 1 and 2 is absolute."""
    a = Arithmetic(graph, equation.shape, np.float64)
    number = graph.cast(x, np.float64)
    reflected = a.flag("Less", number, 0.5)
    z = a.where(reflected, a.op("Neg", number), a.op("Sub", number, 1))
    coefficients = (
        676.520368121885098567009190444019,
        -1259.13921672240287047156078755283,
        771.3234287776530788486528258894,
        -176.61502916214059906584551354,
        12.507343278686904814458936853,
        -0.13857109526572011689554707,
        9.984369578019570859563e-6,
        1.50563273514931155834e-7,
    )
    total = a.value(0.99999999999980993227684700473478)
    for place, coefficient in enumerate(coefficients):
        total = a.op("Add", total, a.op("Div", coefficient, a.op("Add", z, place + 1.0)))
    t = a.op("Add", z, 7.5)
    log_gamma = a.op(
        "Add",
        a.op(
            "Add",
            a.op("Mul", a.op("Sub", a.op("Add", z, 0.5), a.op("Div", t, a.op("Log", t))), a.op("Log", t)),
            math.log(math.sqrt(2 * math.pi)),
        ),
        a.op("Log", total),
    )
    size = a.op("Abs", number)
    part = a.op("Sub", size, a.op("Floor", size))
    folded = a.where(a.flag("Greater", part, 0.5), a.op("Sub", 1, part), part)
    sine = a.op("Log", a.op("Sin", a.op("Mul", folded, math.pi)))
    below = a.op("Sub", a.op("Sub", math.log(math.pi), sine), log_gamma)
    below = a.where(a.flag("Equal", folded, 0), np.inf, below)
    found = a.where(reflected, below, log_gamma)
    return graph.cast(a.where(a.flag("Equal", size, np.inf), np.inf, found), equation.dtype)
