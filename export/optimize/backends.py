"""Variants on back ends other than ONNX Runtime: scored, timed and certified for the installed version and this CPU's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.export.optimize.budget import Budget
from onnxferry.export.optimize.samples import Samples
from onnxferry.export.optimize.score import outputs_of, score, translations
from onnxferry.export.optimize.timing import Speed, compare_speed, feeds_for, machine_name, rotating
from onnxferry.runtime.artifact.comparison import rms_share
from onnxferry.runtime.artifact.contract import Golden
from onnxferry.runtime.engine.backends.choose import OPENVINO, version_of
from onnxferry.runtime.engine.backends.openvino import OpenVINOEngine
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.machine.cpu import cpu_features

_MATTER = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
"""Instruction sets that decide which kernels of few bits run, and so how they round."""


_OF_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""They decide nothing where all that is not in 8 bits is in float32."""


def features_here(precision: str) -> list[str]:
    """Those of this CPU that a certificate for that arithmetic, ``"float32"`` or ``"bfloat16"``, names."""
    have = set(cpu_features().split())
    return [name for name in _MATTER if name in have and (precision == "bfloat16" or name not in _OF_BFLOAT16)]


def bfloat16_pays() -> bool:
    """Whether OpenVINO is installed and this CPU multiplies matrices in bfloat16."""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(features_here("bfloat16")) and version_of(OPENVINO) != ""


def rms_of(expected: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of outputs that are numbers or images: a decision has no distance, nor has a translation."""
    decided = {name for name, a in expected.items() if a.dtype.kind != "f" and not (a.dtype == np.uint8 and a.ndim >= 3)}
    if translations(expected) is not None:
        decided.add("bytes")
    compared = [name for name in expected if name in variant and name not in decided]
    return {name: float(f"{share:.3g}") for name in compared if (share := rms_share([expected[name]], [variant[name]])) < float("inf")}


def golden_rms(engine: Runner, goldens: Sequence[Golden]) -> dict[str, float]:
    """As :func:`rms_of`, of the golden samples: they are few, and may be harder than what it was scored on."""
    pairs = [(golden.outputs, engine.run(golden.inputs)) for golden in goldens]
    found: dict[str, float] = {}
    for name in {name for outputs, _ in pairs for name in outputs}:
        both = [(outputs[name], actual[name]) for outputs, actual in pairs if name in outputs]
        share = rms_share([one for one, _ in both], [other for _, other in both])
        if share < float("inf"):
            found[name] = float(f"{share:.3g}")
    return found


def larger(scored: Mapping[str, float], goldens: Mapping[str, float]) -> dict[str, float]:
    """Of two shares of each output, the larger one."""
    return {name: max(share, goldens.get(name, 0.0)) for name, share in scored.items()}


def on_openvino(
    payload: bytes,
    original: Engine,
    budget: Budget,
    samples: Samples,
    expected: Mapping[str, np.ndarray],
    goldens: Sequence[Golden],
    runs: Mapping[int, float],
    seconds: float,
) -> dict[str, Any]:
    """What a certificate says of a variant in 8 bits that runs on OpenVINO; empty where it cannot, is outside the budget or no faster.

    ``expected``: the original's outputs for ``samples``. ``runs``: seconds of its runs, by batch size. Decisions
    in the golden samples must be the same. The rest of its arithmetic is in float32.
    """
    if not version_of(OPENVINO):
        return {}
    try:
        with OpenVINOEngine(payload, threads=original.threads) as engine:
            variant = outputs_of(engine, samples.feeds)
            scored = score(budget, expected, variant, samples.labels)
            if not scored.inside or not all(same_decisions(engine, golden) for golden in goldens):
                return {}
            rms = larger(rms_of(expected, variant), golden_rms(engine, goldens))
            speed = {
                size: compare_speed(original, engine, rotating(samples.feeds, size, feeds_for(run)), seconds=seconds)
                for size, run in runs.items()
            }
    except OnnxFerryError:
        return {}
    if not any(each.faster for each in speed.values()):
        return {}
    found = {"metric": scored.metric, "source": scored.source, "variant": scored.variant, "n": scored.n}
    return {OPENVINO: entry("float32", found, rms, speed)}


def entry(precision: str, scored: Mapping[str, Any], rms: Mapping[str, float], speed: Mapping[int, Speed]) -> dict[str, Any]:
    """What a certificate says under ``backends``, by the back end's name."""
    return {
        "version": version_of(OPENVINO),
        "precision": precision,
        "cpu_features": features_here(precision),
        "machine": machine_name("cpu"),
        "score": dict(scored),
        "rms": dict(rms),
        "speed": {str(batch): round(each.ratio, 3) for batch, each in speed.items()},
    }


def same_decisions(engine: Runner, golden: Golden) -> bool:
    """Whether classes, indices and booleans of a golden sample are what they were; images may differ."""
    actual = engine.run(golden.inputs)
    decided = (name for name, a in golden.outputs.items() if a.dtype.kind in "iub" and not (a.dtype == np.uint8 and a.ndim >= 3))
    return all(np.array_equal(actual[name], golden.outputs[name]) for name in decided)
