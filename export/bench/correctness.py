"""Verification of a contender's outputs against the plain float32 file's, before anything is timed.

In float32 the tolerances are the file's own, those that its export passed. In reduced precision (OpenVINO's bfloat16, a certified int8
variant) the limits below apply to all, and the error is reported beside the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.export.parity.measures import magnitude, psnr
from onnxferry.export.parity.tolerances import REDUCED_DECISIONS, REDUCED_ERROR, REDUCED_PSNR, default_tolerance
from onnxferry.runtime.artifact.comparison import compare_output, rms_share
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.tolerances import Tolerance

Answers = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Judgement:
    """Of one contender's outputs for all inputs."""

    passed: bool
    problem: str  # empty if it passed
    deviation: str  # from the reference, as text

    def words(self) -> str:
        return self.problem or self.deviation


def compare_answers(expected: Answers, actual: Answers, contract: Contract | None, reduced: bool) -> Judgement:
    """``reduced``: the contender computes in less than float32."""
    problems, found = [], []
    for name in expected[0]:
        if any(name not in answer for answer in actual):
            problems.append(f"the output {name} is missing")
            continue
        pairs = [(np.asarray(want[name]), np.asarray(got[name])) for want, got in zip(expected, actual, strict=True)]
        odd = next(((w, g) for w, g in pairs if w.shape != g.shape or w.dtype != g.dtype), None)
        if odd is not None:
            problems.append(f"{name} is {odd[1].dtype} {odd[1].shape}, expected {odd[0].dtype} {odd[0].shape}")
            continue
        want = np.concatenate([w.reshape(-1) for w, _ in pairs])
        got = np.concatenate([g.reshape(-1) for _, g in pairs])
        close = None if name != "class_index" else _clear_decisions(expected, contract)
        problem, words = (_loosely if reduced else _exactly)(name, want, got, pairs[0][0].ndim, contract, close)
        problems += [problem] if problem else []
        found += [words] if words else []
    return Judgement(not problems, "; ".join(problems), ", ".join(found) or "the same")


def _exactly(
    name: str, want: np.ndarray, got: np.ndarray, rank: int, contract: Contract | None, clear: np.ndarray | None
) -> tuple[str, str]:
    tolerance = contract.tolerances.get(name) if contract else None
    if want.dtype.kind == "f":
        scale = default_tolerance(want.dtype, magnitude(want))[0]
        named = tolerance or scale
        tolerance = Tolerance(max(named.rtol, scale.rtol), max(named.atol, scale.atol))
    if clear is not None:
        want, got = want[clear], got[clear]
    compared = compare_output(0, name, got, want, tolerance or default_tolerance(want.dtype, 0.0)[0])
    problem = "" if compared.passed else f"{name}: {compared.problem}"
    return problem, f"{name} ±{compared.max_abs:.1g}" if compared.max_abs and want.dtype.kind == "f" else ""


def _loosely(
    name: str, want: np.ndarray, got: np.ndarray, rank: int, contract: Contract | None, clear: np.ndarray | None
) -> tuple[str, str]:
    if want.dtype == np.uint8 and rank == 4:
        ratio = psnr(want, got)
        return "" if ratio >= REDUCED_PSNR else f"{name} has {ratio:.1f} dB, expected {REDUCED_PSNR:g}", f"{name} {ratio:.0f} dB"
    if want.dtype.kind == "f":
        error = rms_share([want], [got])
        words = f"{name} off by {error:.2%}"
        return "" if error <= REDUCED_ERROR else f"{words}, at most {REDUCED_ERROR:.0%} is allowed", words
    same = float(np.mean(want == got))
    words = f"{name} {same:.1%} the same"
    return "" if same >= REDUCED_DECISIONS else f"{words}, expected {REDUCED_DECISIONS:.0%}", words if same < 1 else ""


def _clear_decisions(expected: Answers, contract: Contract | None) -> np.ndarray | None:
    """Rows whose two best classes differ by more than rounding: for the others either class is right."""
    if any("probabilities" not in answer for answer in expected):
        return None
    best = np.sort(np.concatenate([answer["probabilities"] for answer in expected]), axis=1)[:, -2:]
    allowed = contract.tolerances.get("probabilities", Tolerance()) if contract else Tolerance()
    return np.asarray(best[:, 1] - best[:, 0] > 2 * allowed.atol)
