"""How good a variant is beside the original, in its budget's own unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.export.optimize.budget import Budget
from onnxferry.export.optimize.samples import Samples, count_rows, rows_of
from onnxferry.export.parity.measures import psnr
from onnxferry.export.parity.tolerances import BUDGET_ROUNDING, WRITTEN_NATS
from onnxferry.runtime.artifact.comparison import absolute_difference
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.evaluation.average_precision import average_precision

SAME_PSNR = 150.0
"""dB said of equal images, whose ratio is infinite."""


SCORE_BATCH_SIZE = 64


IMAGE_INDEX = "image_index"
"""A detector's output: which image of the batch an object is in."""


WRITTEN_BYTES = 128


WRITTEN_ROWS = 16


@dataclass(frozen=True)
class Score:
    """One variant's, on one set of samples."""

    metric: str
    source: float | None  # the original's; None where it would be compared with itself
    variant: float
    n: int
    inside: bool  # the budget
    words: str


def needed_budget(score: Score) -> tuple[str, float]:
    """The budget, rounded up, that a score is inside of, and its size; ("", infinity) where there is none."""
    value = score.variant
    if score.metric in ("top1", "agreement"):
        lost = math.ceil(100 * ((100.0 if score.source is None else score.source) - value)) / 100
        return (f"top1 -{lost:g}pt", lost) if math.isfinite(lost) and lost <= 100 else ("", math.inf)
    if score.metric == "map":
        lost = math.ceil(100 * ((score.source or 0.0) - value)) / 100
        return (f"map -{max(lost, 0.0):g}pt", lost) if math.isfinite(lost) and lost <= 100 else ("", math.inf)
    if score.metric == "psnr":
        return (f"psnr {math.floor(value)}", -value) if math.isfinite(value) and value >= 1 else ("", math.inf)
    if score.metric == "nats":
        more = math.ceil(1000 * (value - (score.source or 0.0))) / 1000
        return (f"nats +{more:g}", more) if math.isfinite(more) and more <= 8 else ("", math.inf)
    if score.metric == "rtol" and 0 < value < 1:
        digit = 10.0 ** math.floor(math.log10(value))
        wide = float(f"{math.ceil(value / digit) * digit:.0e}")
        return (f"rtol {wide:g}", wide) if wide <= 1 else ("", math.inf)
    return "", math.inf


def outputs_of(engine: Runner, feeds: Mapping[str, np.ndarray], rows_alone: bool = False) -> dict[str, np.ndarray]:
    """All rows' outputs, run in batches, or row by row."""
    step = 1 if rows_alone else SCORE_BATCH_SIZE
    parts = [engine.run(rows_of(feeds, slice(i, i + step))) for i in range(0, count_rows(feeds), step)]
    for number, part in enumerate(parts):
        if IMAGE_INDEX in part:  # of a detector, whose outputs have a row an object, not an image
            part[IMAGE_INDEX] = part[IMAGE_INDEX] + number * step
    return {name: _joined([part[name] for part in parts]) for name in parts[0] if parts[0][name].ndim}


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of several runs, one behind the other. An axis whose size follows from the data (a text's tokens) is filled with zeros."""
    shape = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    fills = [[(0, 0), *((0, most - size) for most, size in zip(shape, array.shape[1:], strict=True))] for array in arrays]
    return np.concatenate([np.pad(array, fill) if any(map(any, fill)) else array for array, fill in zip(arrays, fills, strict=True)])


def score(budget: Budget, original: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray], labels: np.ndarray | None) -> Score:
    """Outputs on the same rows, original's and variant's, by the budget's metric."""
    n = min((len(array) for array in original.values()), default=0)
    for name, array in variant.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all() and np.isfinite(original[name]).all():
            return Score(budget.metric, None, math.nan, n, False, f"its output {name!r} holds numbers that are not finite")
    if budget.metric == "top1":
        return _top1(budget, original, variant, labels, n)
    if budget.metric == "map":
        return _map(budget, original, variant, labels)
    if budget.metric == "psnr":
        return _psnr(budget, original, variant, n)
    if budget.metric == "nats":
        return _nats(budget, original, variant, n)
    if budget.metric == "function":
        assert_function = budget.function
        if assert_function is None:
            raise InputError("a budget of the metric 'function' needs its function")
        inside = bool(assert_function(dict(original), dict(variant)))
        return Score("function", None, float(inside), n, inside, f"{budget.words} says {'yes' if inside else 'no'}")
    return _rtol(budget, original, variant, n)


def translations(outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """A translator's best translation of each text, up to its end, as an array of bytes objects (n,); None of another model."""
    written = outputs.get("bytes")
    if written is None or written.dtype != np.uint8 or written.ndim != 3:
        return None
    made = np.empty(len(written), object)
    made[:] = [row[0].tobytes().partition(b"\0")[0] for row in written]
    return made


def _classes(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What is right or wrong of each row."""
    if (written := translations(outputs)) is not None:
        return written
    if "class_index" in outputs:
        return outputs["class_index"]
    table = next((a for a in outputs.values() if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] > 1), None)
    if table is None:
        raise InputError("the model gives no classes, so top1 says nothing of it; give another --budget")
    classes: np.ndarray = table.argmax(axis=1)
    return classes


def _top1(
    budget: Budget, original: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray], labels: np.ndarray | None, n: int
) -> Score:
    a, b = _classes(original), _classes(variant)
    if labels is None:
        share = 100 * float((a == b).mean())
        inside = 100 - share <= budget.limit + BUDGET_ROUNDING
        return Score("agreement", 100.0, share, n, inside, f"{share:.2f} % of {n} answers are the original's")
    source, made = 100 * float((a == labels).mean()), 100 * float((b == labels).mean())
    inside = source - made <= budget.limit + BUDGET_ROUNDING
    return Score("top1", source, made, n, inside, f"{made:.2f} % of {n} right, the original {source:.2f} %")


def _map(budget: Budget, original: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray], truth: np.ndarray | None) -> Score:
    """``truth``: float32 (images, objects, 5), class, left, top, right, bottom; class -1 where an image has fewer objects."""
    if truth is None or IMAGE_INDEX not in original:
        raise InputError("mean average precision needs a detector, and images with boxes; give another --budget")
    true = [(rows[rows[:, 0] >= 0, 1:], rows[rows[:, 0] >= 0, 0].astype(np.int64)) for rows in truth]
    source, made = (100 * average_precision(_by_image(outputs, len(truth)), true).mean for outputs in (original, variant))
    inside = source - made <= budget.limit + BUDGET_ROUNDING
    return Score("map", source, made, len(truth), inside, f"mAP {made:.2f} on {len(truth)} images, the original {source:.2f}")


def _by_image(outputs: Mapping[str, np.ndarray], count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    places = [np.flatnonzero(outputs[IMAGE_INDEX] == image) for image in range(count)]
    return [(outputs["boxes"][at], outputs["scores"][at], outputs["class_index"][at]) for at in places]


def _psnr(budget: Budget, original: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray], n: int) -> Score:
    name = next((k for k, a in original.items() if a.dtype == np.uint8 and a.ndim >= 3), None)
    name = name or next((k for k, a in original.items() if a.dtype.kind == "f" and a.ndim >= 3), None)
    if name is None:
        raise InputError("the model gives no images, so psnr says nothing of it; give another --budget")
    a = original[name].astype(np.float64)
    peak: float = 255.0 if original[name].dtype == np.uint8 else max(float(a.max() - a.min()), float(np.finfo(np.float32).tiny))
    value = min(SAME_PSNR, psnr(a, variant[name], peak))
    return Score("psnr", None, value, n, value >= budget.limit, f"{value:.1f} dB to the original's {n} images")


def _nats(budget: Budget, original: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray], n: int) -> Score:
    if "log_probabilities" not in original:
        raise InputError("the model gives no log_probabilities, so nats say nothing of it; give another --budget")
    source, made = (-float(o["log_probabilities"].mean(dtype=np.float64)) for o in (original, variant))
    count = original["log_probabilities"].size
    inside = made - source <= budget.limit + BUDGET_ROUNDING
    return Score("nats", source, made, count, inside, f"{made:.4f} nats a byte on {count} bytes, the original {source:.4f}")


def _rtol(budget: Budget, original: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray], n: int) -> Score:
    worst, where = 0.0, ""
    for name, a in original.items():
        b = variant[name]
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return Score("rtol", None, 1.0, n, False, f"the output {name!r} gives other {a.dtype} numbers")
            continue
        difference = absolute_difference(b, a)
        if budget.atol is None:
            relative = float(difference.max() / max(float(np.abs(a).max()), np.finfo(np.float32).tiny))
        else:
            beyond = np.maximum(difference - budget.atol, 0)
            relative = float((beyond / np.maximum(np.abs(a), np.finfo(np.float32).tiny)).max())
        if relative >= worst:
            worst, where = relative, name
    return Score("rtol", None, worst, n, worst <= budget.limit, f"largest relative difference {worst:.2g}, of the output {where!r}")


def written_score(original: Runner, variant: Runner, samples: Samples, rows_alone: bool) -> tuple[bool, str]:
    """Whether what a text variant writes is as likely to the original as what that writes itself: log_probabilities only read."""
    rng = np.random.default_rng(5)
    prompts = samples.feeds["prompt"][:WRITTEN_ROWS, :32]
    feeds = {"prompt": prompts, "uniforms": rng.random((len(prompts), WRITTEN_BYTES), dtype=np.float32)}
    nats = []
    for engine, alone in ((original, False), (variant, rows_alone)):
        text = np.concatenate([prompts, outputs_of(engine, feeds, alone)["bytes"]], axis=1)
        read = outputs_of(original, {"prompt": text, "uniforms": np.zeros((len(text), 0), np.float32)})
        nats.append(-float(read["log_probabilities"][:, prompts.shape[1] :].mean()))
    fine = nats[1] - nats[0] <= WRITTEN_NATS
    return fine, f"what it writes has {nats[1]:.2f} nats a byte to the original, whose own text has {nats[0]:.2f}"
