"""Whether a candidate gives what the default gives: a setting that does not is not timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.comparison import compare_output, rms_share
from onnxferry.runtime.artifact.tolerances import allowed_rms, certified_rms, setting_tolerance


class Unfit(Exception):  # noqa: N818 (not an error: a verdict that stays within the search)
    """The reason why a setting cannot be chosen."""


def check_same(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """The same file must give the same outputs with every setting. Raises Unfit."""
    if set(outputs) != set(expected):
        raise Unfit("failed: it gives other outputs")
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            continue  # text, sequences and maps: no rewrite of numbers changes them
        compared = compare_output(0, name, array, expected[name], setting_tolerance(expected[name]))
        if not compared.passed:
            raise Unfit(f"failed: output {name!r} differs from the default's: {compared.problem}")


def check_certified(
    actual: Sequence[Mapping[str, np.ndarray]], expected: Sequence[Mapping[str, np.ndarray]], certificate: Mapping[str, Any]
) -> None:
    """A variant must be about as accurate here as where it was certified: kernels differ between CPUs. Raises Unfit.

    ``certificate["rms"]``: by output, the root mean square of the differences, relative to that of the output.
    """
    if any(set(one) != set(other) for one, other in zip(actual, expected, strict=True)):
        raise Unfit("failed: it gives other outputs")
    for name, share in certified_rms(certificate).items():
        if name not in expected[0]:
            continue
        found = rms_share([each[name] for each in expected], [each[name] for each in actual])
        if not found <= allowed_rms(share):
            raise Unfit(f"failed: output {name!r} is {found:.1%} off here, and was {share:.1%} off where it was certified")
