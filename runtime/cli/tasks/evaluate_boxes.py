"""``evaluate`` for detectors: mean average precision on images with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from onnxferry.runtime.cli.console import facts_table, new_table, plain, print_next, progress_bar, stdout
from onnxferry.runtime.errors import DataError
from onnxferry.runtime.evaluation.average_precision import average_precision
from onnxferry.runtime.evaluation.labelled_boxes import WHOLE, LabelledBoxes, find_labelled_boxes
from onnxferry.runtime.tasks.detector import Box, Detection, Detections, Detector

LEAST_SCORE = 0.01
"""Detections with a lower score are not asked for: they come last in the order and hardly move a mean."""


def scored_boxes(detector: Detector, data: Path, split: str) -> dict[str, Any]:
    """Mean average precision, that of each class, and in how many images all labels are read in their order, as JSON.

    Raises DataError for what is wrong with the set, and for a class that the model does not know.
    """
    labelled = _part(find_labelled_boxes(data), split, data)
    unknown = [name for name in labelled.classes if name not in detector.labels]
    if unknown:
        raise DataError(f"{data}: names the class {unknown[0]!r}, and the model knows {', '.join(map(repr, detector.labels[:12]))}")
    places = np.array([detector.labels.index(name) for name in labelled.classes], np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    true: list[tuple[np.ndarray, np.ndarray]] = []
    read = 0
    threshold = _own_threshold(detector)
    with progress_bar("evaluating", len(labelled)) as advance:
        for _, image, boxes, labels in labelled.decoded(detector.channels):
            objects = detector.detect(image, score_threshold=LEAST_SCORE)
            found.append(_arrays(objects))
            true.append((boxes, places[labels]))
            read += Detections(each for each in objects if each.score > threshold).text == _text(boxes, places[labels], detector.labels)
            advance(1)
    result = average_precision(found, true)
    return {"data": labelled.source, **result.to_dict(detector.labels), "read": read, "read_share": read / len(true)}


def _own_threshold(detector: Detector) -> float:
    contract = detector.contract
    return float(contract.defaults["score_threshold"]) if contract is not None else 0.0


def _part(parts: dict[str, LabelledBoxes], split: str, data: Path) -> LabelledBoxes:
    if WHOLE in parts:
        return parts[WHOLE]
    if split not in parts:
        raise DataError(f"{data}: has no part {split}; it has {', '.join(parts)}: name one with --split")
    return parts[split]


def _arrays(objects: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes = np.array([each.box for each in objects], np.float32).reshape(-1, 4)
    return boxes, np.array([each.score for each in objects], np.float32), np.array([each.index for each in objects], np.int64)


def _text(boxes: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """What true boxes say, from left to right."""
    rows = zip(boxes.tolist(), labels.tolist(), strict=True)
    return Detections(Detection(names[index], index, 1.0, Box(*box)) for box, index in rows).text


def print_boxes_score(model: str, device: str, found: dict[str, Any], *commands: str) -> None:
    console = stdout()
    facts = {
        "model": plain(f"{model} on {device}"),
        "data": plain(found["data"]),
        "mAP 50-95": Text(f"{found['map']:.4f}", "bold")
        + Text("  (mean over the IoU thresholds 0.50 to 0.95 and the classes, as COCO)", "default"),
        "mAP 50": f"{found['map50']:.4f}",
        "mAP 75": f"{found['map75']:.4f}",
        "read whole": f"{found['read_share']:.2%}  ({found['read']} of {found['images']} images: all labels, in their order)",
    }
    console.print(facts_table(facts))
    table = new_table("class", "average precision", right=("average precision",))
    for label, value in found["classes"].items():
        table.add_row(plain(label), f"{value:.4f}")
    console.print(table)
    print_next(*commands)
