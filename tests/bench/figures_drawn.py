"""How many drawn digits are read rightly: the styles of drawn_styles.py, painted as the demo's pad paints them, with six pens.

    python tests/bench/figures_drawn.py [--model digits]

JSON: for each pen (pixels of a pad of 336) and for small (half the size), turned (12 degrees either way) and off-centre drawings, how many
are read rightly and not taken for none; then what was wrong.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

import numpy as np
from drawn_styles import STYLES

from onnxferry.demo.images.strokes import SIDE, Stroke, painted
from onnxferry.runtime import load

PENS = (4, 9, 16, 24, 44, 56)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    model = load(parser.parse_args().model)
    shown: dict[str, object] = {}
    wrong = []
    right = total = 0
    for pen in PENS:
        count, missed = read(model, pen, lambda points: points)
        shown[f"pen {pen}"] = {"right": count, "of": len(STYLES)}
        right, total = right + count, total + len(STYLES)
        wrong += missed
    shown["all pens"] = {"right": right, "of": total, "share": round(right / total, 4)}
    for name, move in CHANGES.items():
        count, missed = read(model, 24 if name != "half the size" else 9, move)
        shown[name] = {"right": count, "of": len(STYLES)}
        wrong += [f"{name}: {each}" for each in missed]
    print(json.dumps({**shown, "wrong": wrong}, indent=2))


def read(model: object, pen: int, move: Callable[[np.ndarray], np.ndarray]) -> tuple[int, list[str]]:
    drawings = [painted([Stroke(pen, SIDE * move(np.array(points))) for points in strokes]) for _, _, strokes in STYLES]
    missed = []
    for (digit, name, _), said in zip(STYLES, model.predict(drawings), strict=True):  # type: ignore[attr-defined]
        if said.label != digit or not said.known:
            taken = f"{said.label}, {said.probability:.0%}" if said.known else f"none (nearest {said.label})"
            missed.append(f"{digit} ({name}), pen {pen}: {taken}")
    return len(STYLES) - len(missed), missed


def turned(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return lambda points: (points - 0.5) @ matrix + 0.5


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half the size": lambda points: (points - 0.5) * 0.5 + 0.5,
    "turned 12 degrees left": turned(-12),
    "turned 12 degrees right": turned(12),
    "in a corner": lambda points: points * 0.6,
}


if __name__ == "__main__":
    main()
