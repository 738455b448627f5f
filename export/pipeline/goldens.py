"""The golden samples that a file stores: inputs with the reference outputs, for ``onnxferry check`` to replay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from onnxferry.export.parity.probes import Case
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.source import Source
from onnxferry.runtime.artifact.contract import GOLDEN_BYTES, MAX_GOLDENS, Golden, Tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import ExportError, InputError, ParityError
from onnxferry.runtime.formats import human_bytes

GOLDEN_SHARE = 0.75
"""Golden samples that are chosen here take at most this share of what a file may store."""


MAX_SCALE_RATIO = 1000.0
"""Of golden samples of one file: an output's largest value in one over that in another."""


def chosen_goldens(runs: Sequence[SourceRun], chosen: Sequence[Case] | None, absolute: Collection[str] = ()) -> list[Golden]:
    """The golden samples: the given ones, which must fit, or by default the example and one case of another size, if they fit.

    ``absolute``: outputs whose tolerance does not depend on their size, as that of probabilities.
    """
    if chosen is not None:
        wanted = {id(case) for case in chosen}
        asked = [(run.case, run.outputs) for run in runs if id(run.case) in wanted and run.outputs is not None]
        for case, outputs in asked:
            for name, array in outputs.items():
                if array.dtype.kind == "f" and np.isnan(array).any():
                    raise InputError(f"{case.name} cannot be stored: the model's output {name!r} has not-a-number in it; choose another")
        given = [Golden(dict(case.feeds), outputs) for case, outputs in asked]
        for (case, _), each in zip(asked, given, strict=True):
            if not _comparable(given[0], each, absolute):
                raise InputError(
                    f"{case.name} cannot be stored beside {asked[0][0].name}: an output of theirs differs by more than "
                    f"{MAX_SCALE_RATIO:,.0f} times in size, and a file has one tolerance for an output; give golden samples of one size"
                )
        return given
    found: list[Golden] = []
    left = GOLDEN_BYTES * GOLDEN_SHARE
    for run in runs:
        if run.outputs is None or len(found) == min(2, MAX_GOLDENS) or (run.case.generated and not run.case.sizes):
            continue
        golden = Golden(dict(run.case.feeds), run.outputs)
        if found and not _comparable(found[0], golden, absolute):
            continue
        if golden.nbytes() <= left and not any(np.isnan(a).any() for a in run.outputs.values() if a.dtype.kind == "f"):
            found.append(golden)
            left -= golden.nbytes()
    return found


def _comparable(one: Golden, other: Golden, absolute: Collection[str]) -> bool:
    """Whether a tolerance at the scale of the larger still says something of the smaller."""
    for name, array in one.outputs.items():
        if array.dtype.kind == "f" and name not in absolute:
            sizes = [float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in (array, other.outputs[name])]
            if min(sizes) > 0 and max(sizes) > MAX_SCALE_RATIO * min(sizes):
                return False
    return True


def none_stored(source: Source) -> str:
    size = sum(np.asarray(array).nbytes for array in source.examples.values())
    most = int(GOLDEN_BYTES * GOLDEN_SHARE)
    return (
        f"no golden sample is stored, so `onnxferry check` has nothing to replay: the example's inputs take {human_bytes(size)}, and "
        f"with their outputs {human_bytes(most)} fit; give smaller ones as golden samples, or use `onnxferry verify`"
    )


def rounded_up(tolerance: Tolerance) -> Tolerance:
    """Rounded up to two digits, so that what passed still passes."""

    def up(value: float) -> float:
        return float(f"{value * 1.05:.1e}") if value else 0.0

    return Tolerance(up(tolerance.rtol), up(tolerance.atol))


def replay_file(file: Path) -> None:
    """Open the written file and replay its golden samples: the last step before it gets its name."""
    with Engine(file, device="cpu") as engine:
        if engine.contract is None:
            raise ExportError("the written file lost its contract: this is a fault of onnxferry, please report it")
        failed = [c for c in replay_goldens(engine.run, engine.contract).comparisons if not c.passed]
        if failed:
            raise ParityError(
                f"the written file does not reproduce {failed[0].output!r} of its golden sample ({failed[0].problem}): "
                "this is a fault of onnxferry, please report it"
            )
