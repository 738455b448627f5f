"""How many digits on made photographs are read rightly, as they are and without their background; 39 styles of handwriting.

python tests/bench/figures_made_photos.py [--styles 39]

JSON: for each kind of photograph, how many of the styles are read rightly by ``digits``, and not as of no class, as given and after
``onnxferry.runtime.images.photo.without_background``. The digits are from MNIST (the embedded 5,000), 512 × 384 pixels, made by script and
not by a camera; those that the model misreads as they are were left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
from PIL import Image

from onnxferry.demo.images.strokes import SIDE, Stroke, painted
from onnxferry.runtime import load
from onnxferry.runtime.images.photo import without_background
from onnxferry.train.data.images import load_images

HEIGHT, WIDTH = 384, 512
DOWN, ACROSS = np.mgrid[0:HEIGHT, 0:WIDTH]
PENS = (4, 9, 16, 24, 44, 56)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", type=int, default=39)
    styles = parser.parse_args().styles
    model = load("digits")
    data = load_images("digits-5k").test
    right = [i for i, p in enumerate(model.predict(data.images)) if p.index == data.labels[i]]
    random = np.random.default_rng(0)
    chosen = random.permutation(right)[:styles]
    shown = {}
    for name, light in kinds(random).items():
        photos = [light(data.images[i][..., 0]).clip(0, 255).round().astype(np.uint8) for i in chosen]
        labels = data.labels[chosen]
        counts = [
            int(sum(p.index == label and p.known for p, label in zip(model.predict(images), labels, strict=True)))
            for images in (photos, [without_background(photo) for photo in photos])
        ]
        shown[name] = {"as given": counts[0], "without background": counts[1], "of": len(labels)}
    flagged = [[(0.5 - flag, 0.2 + flag), (0.5, 0.2), (0.5, 0.82)] for flag in (0.04, 0.08, 0.12, 0.16)]
    for pen in PENS:
        drawings = [painted([Stroke(pen, SIDE * np.array(points))]) for points in flagged]
        shown[f"a 1 with four lengths of flag, pen {pen}"] = {
            "right": sum(p.label == "1" and p.known for p in model.predict(drawings)),
            "of": 4,
        }
    print(json.dumps(shown, indent=2))


def kinds(random: np.random.Generator) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """A photograph of one digit, float64 (HEIGHT, WIDTH, 3), by kind."""

    def paper(digit: np.ndarray, side: int | None = None) -> np.ndarray:
        side = side or int(random.integers(180, 300))
        ink = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)).astype(float) / 255
        share = np.zeros((HEIGHT, WIDTH, 1))
        top, left = int(random.integers(0, HEIGHT - side)), int(random.integers(0, WIDTH - side))
        share[top : top + side, left : left + side, 0] = np.clip((ink - 0.35) * 4, 0, 1)
        return np.array([235.0, 232, 222]) * (1 - share) + np.array([40.0, 60, 140]) * share

    def shaded(photo: np.ndarray, depth: float) -> np.ndarray:
        corner = random.choice([0, WIDTH]), random.choice([0, HEIGHT])
        distance = np.hypot(ACROSS - corner[0], DOWN - corner[1]) - random.uniform(180, 320)
        return photo * (1 - depth / (1 + np.exp(distance / 25)))[..., None]

    def ruled(digit: np.ndarray) -> np.ndarray:
        photo = paper(digit)
        photo[::28] *= np.array([0.64, 0.72, 0.94])
        return shaded(photo, 0.15)

    def on_a_table(digit: np.ndarray) -> np.ndarray:
        sheet = Image.fromarray(paper(digit, int(random.integers(120, 170))).round().astype(np.uint8)).resize((300, 225))
        turned = np.asarray(sheet.rotate(float(random.uniform(-12, 12)), expand=True, fillcolor=(0, 0, 0))).astype(float)
        photo = np.array([120.0, 84, 52]) * (1 + 0.12 * np.sin(DOWN / 9 + ACROSS / 40))[..., None]
        top, left = (int(random.integers(0, n - m)) for n, m in zip((HEIGHT, WIDTH), turned.shape, strict=False))
        place = photo[top : top + turned.shape[0], left : left + turned.shape[1]]
        place[turned.sum(axis=2) > 60] = turned[turned.sum(axis=2) > 60]
        return photo * (1 - 0.15 * ACROSS / WIDTH)[..., None] + random.normal(0, 6, photo.shape)

    middle = ((ACROSS - WIDTH / 2) ** 2 + (DOWN - HEIGHT / 2) ** 2) / ((WIDTH / 2) ** 2 + (HEIGHT / 2) ** 2)
    return {
        "even light": paper,
        "noise, sigma 15": lambda digit: paper(digit) + random.normal(0, 15, (HEIGHT, WIDTH, 3)),
        "shadow 10 %": lambda digit: shaded(paper(digit), 0.1),
        "shadow 30 % and noise": lambda digit: shaded(paper(digit), 0.3) + random.normal(0, 8, (HEIGHT, WIDTH, 3)),
        "falling light 40 %": lambda digit: paper(digit) * (1 - 0.4 * ACROSS / WIDTH)[..., None],
        "vignette 20 %": lambda digit: paper(digit) * (1 - 0.2 * middle)[..., None],
        "ruled paper and shadow": ruled,
        "paper on a brown table": on_a_table,
    }


if __name__ == "__main__":
    main()
