"""Every tolerance of the export, with its reason and its source. Those that the runtime needs are in runtime/artifact/tolerances.py.

A tolerance is loosened only with the measurement and the reason beside it. tests/test_house.py finds one that stands elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.export.source import KernelError, Noise
from onnxferry.runtime.artifact.tolerances import EXACT, Tolerance

# By dtype: tolerance and reason. atol is a share of the output's largest magnitude (see default_tolerance): an error of float
# arithmetic is relative to the terms that were summed, not to a sum that happens to come out near zero.
DEFAULT_TOLERANCES: Mapping[str, tuple[Tolerance, str]] = {
    # ONNX Runtime keeps attributes and the constants of its fusions in float32 (2**-24 is 6e-8): an attention's scale, a norm's epsilon.
    "float64": (Tolerance(1e-7, 6e-8), "float64: sums in another order, and constants that ONNX Runtime keeps in float32"),
    "float32": (Tolerance(1e-4, 1e-5), "float32: sums in another order, and polynomial sigmoid, tanh and exp, through some tens of layers"),
    "float16": (Tolerance(1e-2, 2e-3), "float16: one unit in the last place is 1e-3, and the file may keep float32 between operators"),
}


EXACT_REASON = "whole numbers and flags must be equal"


def default_tolerance(dtype: np.dtype[Any], scale: float) -> tuple[Tolerance, str]:
    """Tolerance and reason for an output of this dtype whose largest magnitude is ``scale``."""
    if dtype.name not in DEFAULT_TOLERANCES:
        return EXACT, EXACT_REASON
    base, reason = DEFAULT_TOLERANCES[dtype.name]
    return Tolerance(base.rtol, base.atol * scale if math.isfinite(scale) else base.atol), reason


@dataclass(frozen=True)
class FloatTolerance:
    """What a user asked of every float output; None leaves that half as the dtype has it. Whole numbers and flags stay equal."""

    rtol: float | None = None
    atol: float | None = None


GivenTolerance = Tolerance | FloatTolerance
"""Of one output: held as it is, whatever the dtype, or for floats only."""


def resolved_tolerance(given: GivenTolerance | None, dtype: np.dtype[Any], scale: float) -> tuple[Tolerance, str]:
    """Tolerance and reason, with what was given for the output. ``scale``: as of :func:`default_tolerance`."""
    if isinstance(given, Tolerance):
        return given, "given"
    default, reason = default_tolerance(dtype, scale)
    if given is None or dtype.kind != "f":
        return default, reason
    return Tolerance(default.rtol if given.rtol is None else given.rtol, default.atol if given.atol is None else given.atol), "given"


def repeat_tolerance(dtype: np.dtype[Any], scale: float) -> Tolerance:
    """Between two runs on the same input: 8 roundings, because sums over threads may change their order. ``scale``: as above."""
    roundings = 8 * float(np.finfo(dtype).eps)
    return Tolerance(roundings, roundings * scale)


# The comparison with the source.

# A difference beyond the default tolerance is attributed to float32 itself where the file is no farther from a float64 run than this
# times the source …
FLOAT64_FACTOR = 4.0
# … and the source's own error is no larger than this times the tolerance: beyond it, the source is no measure for the file.
FLOAT64_CAP = 100.0
# Where the source is off by this share of its largest true value, its answer is rounding alone.
NOISE_SHARE = 0.5
# Nudged runs of the source (by ``onnxferry.export.source.NUDGE``) that a changed decision must survive to count. A tie of two survives
# them all once in 256 times.
NUDGES = 8
# Pixels that may be a level apart, where a tolerance of 1 allows it: rounding decides what lies within about 1e-5 of a half level.
PIXEL_SHARE = 1e-4


# The source's own rounding on one input: the model is run again with small errors injected into every operator that rounds (see
# sources/pytorch/rounding.py), and a file may be as far from the model as that spreads the answers.

# Size of the errors, in roundings of the dtype: ONNX Runtime's exp, tanh and log are within 5 (measured), sums in another order within
# about the square root of their length.
ROUNDINGS = 8
# Runs with other errors, of which the largest deviation counts. An answer that hangs on one rounding (a tie) survives all of them once
# in 256 times.
NOISE_RUNS = 8
# A file may be off by this times the spread: random errors cancel out in part, those of one kernel have one sign.
NOISE_FACTOR = 4.0


# Measured on ONNX Runtime 1.31's CPU kernels against float64, 3 million float32 numbers from -110 to 110. The largest difference
# found; a sigmoid is held above 1e-7 below -18, and the negative side of ELU is exp(x) - 1.
KERNEL_ERRORS: Mapping[str, KernelError] = {
    "sigmoid": KernelError(absolute=1.7e-7),
    "silu": KernelError(of_operand=1.7e-7),
    "glu": KernelError(of_operand=1.7e-7),
    "gelu": KernelError(of_operand=1.2e-7),
    "hardswish": KernelError(of_operand=1e-7),
    "hardsigmoid": KernelError(absolute=1.2e-7),
    "elu": KernelError(absolute=7e-8),
    "celu": KernelError(absolute=7e-8),
    "selu": KernelError(absolute=1.1e-7),
    # The tanh inside of the operator RNN, from -10 to 10: tanh(5e-9) is 0 there. The operator Tanh is within roundings.
    "rnn_tanh": KernelError(absolute=1.8e-7),
    # The angles of the factors are rounded: sin(pi) is 9e-8, and so an exact 0 is off by that share of the input.
    "_fft_r2c": KernelError(of_operand=2.5e-7),
    "_fft_c2c": KernelError(of_operand=2.5e-7),
    "_fft_c2r": KernelError(of_operand=2.5e-7),
}
NOISE = Noise(ROUNDINGS, KERNEL_ERRORS)


# Below this a float32 answer is within the error of a single kernel, however small the others in its output are.
KERNEL_FLOOR = max(error.absolute for error in KERNEL_ERRORS.values())


def probe_tolerance(dtype: np.dtype[Any], want: np.ndarray) -> np.ndarray:
    """Of a value probe, the allowed difference of each element, before the source's own rounding is considered.

    The default of the dtype at the scale of each row (the last axis), so that a large row does not hide a small one. In float64 at the
    scale of the whole output: ONNX Runtime keeps attributes and the constants of its fusions in float32 there (an attention's scale, a
    norm's epsilon), which moves every row by up to 6e-8 of the terms that it is made of; injected errors of float64 do not show that.
    """
    base, _ = default_tolerance(dtype, 1.0)
    size = np.abs(want.astype(np.float64))
    if dtype == np.float64:
        return np.asarray(NOISE_FACTOR * base.rtol * size + base.atol * size.max(initial=0.0) + float(np.finfo(dtype).tiny))
    row = size.max(-1, keepdims=True, initial=0.0) if size.ndim > 1 else size
    return np.asarray(base.rtol * size + base.atol * row + (float(np.finfo(dtype).tiny) if dtype.kind == "f" else 0.0))


# Of the families that are trained here.

# A pixel is rounded from a float, and may fall on the other side of a half level; PIXEL_SHARE bounds how many may.
PIXELS = Tolerance(rtol=0.0, atol=1.0)
# Latent numbers: float32 through some ten layers.
FLOATS = Tolerance(rtol=1e-4, atol=1e-4)
# An anomaly score is a mean of squares, far below 1: held to its own size.
SCORES = Tolerance(rtol=1e-4, atol=1e-6)
# Softmax of logits that agree to about 1e-5. A probability that is off by more is a fault.
PROBABILITIES = Tolerance(rtol=0.0, atol=1e-5)
# Pixels of an image, of an edge that is a sum of a place and of half an exponential, both up to a few thousand: float32 keeps 1e-4 there.
BOXES = Tolerance(rtol=1e-5, atol=5e-3)
# Recurrence feeds its own rounding back: after hundreds of steps states differ by about 1e-6, and logits by ten times that.
# An LSTM's cell is a running sum without bound, and one that counts reaches hundreds within a few hundred bytes: its last bits
# weigh more as it grows. After 300 bytes file and PyTorch were 23 units in the last place apart (2.7e-6 of the value), and
# equally far from the same network in double precision; 1e-5 leaves room for texts four times as long.
TEXT = {
    "log_probabilities": Tolerance(rtol=0.0, atol=2e-4),
    "next_logits": Tolerance(rtol=0.0, atol=2e-4),
    "state_after": Tolerance(rtol=1e-5, atol=5e-5),
}
# A text classifier is recurrent too, and sums its evidence over hundreds of tokens.
TEXT_CLASSES = {
    "probabilities": PROBABILITIES,
    "attention": PROBABILITIES,
    "evidence": Tolerance(rtol=1e-5, atol=5e-5),
}
# A draw nearer than this (a share of the total) to the border between two bytes is a tie: float32 may tip it either way.
CLEAR_DRAW = 2e-5
# At temperature 0, two logits nearer than this are a tie: ten times what the file's may be off by.
CLEAR_LOGITS = 1e-3

# A translation's log-probability is a sum over some ten to a thousand bytes, each off by about 1e-6. It may be near 0, of a sure network,
# so it is held to a size of its own: a thousandth of the probability. Attention is a softmax of energies that agree to about 1e-5.
TRANSLATION = {"log_probability": Tolerance(rtol=0.0, atol=1e-3), "attention": Tolerance(rtol=0.0, atol=5e-5)}
# Two beams nearer than this, in nats, are a tie: float32 may put either first. Five times what a step's score may be off by.
CLEAR_BEAM = 1e-4


# Of reduced precision: what a benchmark backend that calculates in less than float32 is held to, all alike.

# Share of decisions that must be the same. One that changes need not be wrong: most that do were doubtful before.
REDUCED_DECISIONS = 0.98
# Decibels of images against the reference's.
REDUCED_PSNR = 35.0
# Root mean square error of an output of numbers, as a share of the output's own root mean square.
REDUCED_ERROR = 0.05


# Of optimized variants, beside their budget (see export/optimize/budget.py).

# Nats a byte by which what a variant writes may be less likely, to the original, than what the original writes with the same numbers:
# about four standard errors of 16 texts of 128 bytes. A loop that is wrong writes texts that are nats away.
WRITTEN_NATS = 0.15
# A share that a budget allows is compared in float64: one count of 10,000 is 1e-2 of a point, this only absorbs rounding.
BUDGET_ROUNDING = 1e-9
