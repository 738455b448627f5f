"""The figures that this project holds itself to, judged by what was measured. The peer is the best of those that were timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from onnxferry.export.bench.contenders.base import OURS
from onnxferry.export.bench.report import Results, duration, geometric_mean
from onnxferry.export.bench.results import Row
from onnxferry.runtime.machine.cpu import cpu_features
from scoreboard.contenders import ONE_STEP
from scoreboard.models import shipped_rows

ONE_NODE, LAYERS = "one-node", ("shakespeare", "lstm-2x512")
"""The rows that single figures are read from; the layers are 2 × 512."""


COLD_START_S = 0.25, 0.15


BYTE = 0.9, 0.5
"""Of one step of its layers and head alone."""


CALL_S = 0.5e-6
"""Of the engine on a model of one node, over bare ``session.run``."""


EVERY = 1, 8, 64
"""Batch sizes at which no shipped model may lose."""


@dataclass(frozen=True)
class Verdict:
    """``met``: None where too little was measured to say."""

    what: str
    must: str
    aim: str
    value: str
    met: bool | None


def verdicts(results: Results, threads: str) -> list[Verdict]:
    """Of the rows with so many threads."""
    shipped = shipped_rows()
    every = [(name, batch) for name in shipped for batch in EVERY]
    undisturbed = _ratios(results, threads, every, lambda row: row.undisturbed_ratio)
    found = [
        _least(_ratios(results, threads, every), every, "every shipped model, batch 1, 8 and 64: × the best peer", 0.98),
        _least(undisturbed, every, "the same, by the fastest tenth of the runs", 0.98),
    ]
    for batch, (must, aim) in _means_asked(cpu_features()).items():
        ratios = _ratios(results, threads, [(name, batch) for name in shipped])
        mean = geometric_mean(ratio for ratio in ratios.values())
        found.append(
            _verdict(f"all shipped models, geometric mean, batch {batch}", f"≥ {must} ×", f"{aim} ×", ratios, shipped, mean, mean >= must)
        )
    return [*found, *_byte(results, threads), *_one_node(results, threads), *_cold(results)]


def _means_asked(features: str) -> dict[int, tuple[float, float]]:
    """What must be reached and what is aimed at, by batch size: products of bytes, which the CPU may have or not, decide how much there is
    to gain over 8 bits that run without them, and how fast the peers are."""
    of_bytes = any(name in features for name in ("vnni", "amx_int8"))
    return {1: (1.3, 1.6), 64: (1.0, 1.3)} if of_bytes else {1: (1.35, 1.6), 64: (1.5, 1.8)}


def _ratios(
    results: Results,
    threads: str,
    keys: Collection[tuple[str, int]],
    ratio_of: Callable[[Row], float | None] = lambda row: row.ratio,
) -> dict[tuple[str, int], float]:
    rows = {key: results.rows.get((*key, threads)) for key in keys}
    return {key: ratio for key, row in rows.items() if row is not None and (ratio := ratio_of(row)) is not None}


def _least(ratios: Mapping[tuple[str, int], float], keys: Collection[tuple[str, int]], what: str, must: float) -> Verdict:
    worst = min(ratios, key=ratios.__getitem__) if ratios else ("", 0)
    least = ratios.get(worst, 0.0)
    verdict = _verdict(what, f"≥ {must} ×", "", ratios, keys, least, least >= must)
    return Verdict(**{**vars(verdict), "value": f"{verdict.value} ({worst[0]}, batch {worst[1]})"}) if ratios else verdict


def _verdict(what: str, must: str, aim: str, ratios: Collection[object], wanted: Collection[object], value: float, met: bool) -> Verdict:
    if not ratios:
        return Verdict(what, must, aim, "not measured", None)
    whole = len(ratios) == len(wanted)
    part = "" if whole else f", of {len(ratios)} of {len(wanted)} measured"
    # One that falls short decides; all that were measured being good enough says nothing of the others.
    return Verdict(what, must, aim, f"{value:.2f} ×{part}", met if whole else None)


def _byte(results: Results, threads: str) -> list[Verdict]:
    found = []
    for name in LAYERS:
        row = results.rows.get((name, 1, threads))
        ours, step = (row.contenders.get(who) if row else None for who in (OURS, ONE_STEP))
        if ours is None or step is None or not ours.median_s or not step.median_s:
            continue
        ratio = ours.median_s / step.median_s
        words = f"{ratio:.2f} × ({duration(ours.median_s / row.bytes_per_run)} a byte)" if row else ""
        found.append(
            Verdict(f"{name}: a byte, of one step of its layers and head alone", f"≤ {BYTE[0]} ×", f"{BYTE[1]} ×", words, ratio <= BYTE[0])
        )
    return found


def _one_node(results: Results, threads: str) -> list[Verdict]:
    row = results.rows.get((ONE_NODE, 1, threads))
    ours, bare = (row.contenders.get(who) if row else None for who in (OURS, "onnxruntime"))
    if ours is None or bare is None or ours.median_s is None or bare.median_s is None:
        return []
    more = ours.median_s - bare.median_s
    must = f"≤ +{CALL_S * 1e6} µs"
    return [Verdict("engine on a one-node model, over bare session.run", must, "faster", f"{more * 1e6:+.2f} µs", more <= CALL_S)]


def _cold(results: Results) -> list[Verdict]:
    starts = {model: entry[OURS] for model, entry in results.more.get("cold_start", {}).items() if OURS in entry}
    if not starts:
        return []
    slowest = max(starts, key=lambda model: float(starts[model]))
    seconds = float(starts[slowest])
    value = f"{seconds:.2f} s ({slowest})"
    return [Verdict("cold start", f"≤ {COLD_START_S[0]} s", f"{COLD_START_S[1]} s", value, seconds <= COLD_START_S[0])]
