"""How far numbers may be apart: every tolerance of the runtime, with its reason. Those of the export are in export/parity/tolerances.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime.errors import ArtifactError


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= atol + rtol * |expected|, element by element.

    The defaults are those of float32, for sums in another order and polynomial sigmoid, tanh and exp through some tens of layers.
    """

    rtol: float = 1e-4
    atol: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ArtifactError(f"a tolerance's {name} must be a finite number >= 0, got {value!r}")


EXACT = Tolerance(rtol=0.0, atol=0.0)
"""For integers and booleans, where the contract names no tolerance: decisions and bytes are right or wrong."""


ANY_NUMBER = Tolerance(rtol=0.0, atol=sys.float_info.max)
"""Of an output that is judged as a whole, by the root mean square of its differences: its elements have to be numbers."""


def golden_tolerance(dtype: np.dtype[Any]) -> Tolerance:
    """Of an output that the contract names no tolerance for, in a replay of its golden samples."""
    return Tolerance() if dtype.kind == "f" else EXACT


def setting_tolerance(expected: np.ndarray) -> Tolerance:
    """Of an output of the same file with other settings (threads, graph optimizations), when a model is tuned.

    Ten times what golden samples are held to, with an atol relative to the output's largest number: fused kernels sum in another
    order. Whole numbers may differ by 1, as pixels do that are rounded from such numbers.
    """
    largest = float(np.abs(expected).max(initial=0)) if expected.dtype.kind == "f" else math.inf
    return Tolerance(1e-3, 1e-4 * largest) if math.isfinite(largest) else Tolerance(0, 1)


def batch_tolerance(alone: np.ndarray) -> Tolerance:
    """Of a row's output in a batch, where ``alone`` is what it gives by itself: a hundredth of the largest number.

    Kernels of other batch sizes sum in another order (1e-6 of it in float32, 1e-3 in half precision); another row's share is far above.
    """
    finite = np.abs(alone[np.isfinite(alone)])
    return Tolerance(0.0, 0.01 * float(finite.max(initial=0)))


def certified_rms(certificate: Mapping[str, Any]) -> dict[str, float]:
    """By output, how far a certified variant was from its original where it was certified: the root mean square of the differences, as a
    share of that of the output. Only what is a number."""
    promised = certificate.get("rms")
    of = promised.items() if isinstance(promised, Mapping) else ()
    return {name: float(share) for name, share in of if not isinstance(share, bool) and isinstance(share, int | float)}


def allowed_rms(share: float) -> float:
    """How far it may be here, by the same measure."""
    return VARIANT_FACTOR * share + VARIANT_SHARE


def rms_limits(certificate: Mapping[str, Any]) -> dict[str, float]:
    """By output, the root mean square that a certified variant is held to (:func:`allowed_rms`); one that would allow anything is none."""
    return {name: limit for name, share in certified_rms(certificate).items() if (limit := allowed_rms(share)) < 1}


# A certified variant may be this many times as far from its original as where it was certified, plus this share of the output's size.
# Kernels differ between CPUs; it was certified on thousands of samples, and the few that are timed may be harder ones. Beyond
# that it is not what was certified: on a CPU with AMX, ONNX Runtime 1.24 gives fashion.int8 17.8 % off, where 1.31 gives 1.9 %.
VARIANT_FACTOR = 4.0
VARIANT_SHARE = 0.01


# `onnxferry check` fails a tolerance of floats beyond this share of the output's largest value, unless --allow-loose is given: an export's
# own widest, float16's, is 1.2 % of it.
LOOSE_SHARE = 0.1
