"""A recogniser and an autoencoder from few photos: 3 classes, 60 drawn photos each, JPEG, 64 pixels, colour, and 60 others to test on.

    python tests/bench/figures_photos.py                      # every kind of photo: accuracy through the exported file, seconds
    python tests/bench/figures_photos.py --kinds shapes --ae  # one kind, and the autoencoder's error over PCA's
    python tests/bench/figures_photos.py --write DIR          # only make the photos: DIR/KIND/photos and DIR/KIND/others

The photos are drawn here, so no download is needed. Every kind has three classes that a person tells apart at a glance, with
position, size, colour, light, background and noise varied. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from onnxferry.runtime import Classifier, load

SIDE = 64
CLASSES = 3
EACH, OTHERS = 60, 20  # photos of a class to train on (split by `train`), and to test on

Draw: TypeAlias = Callable[[int, np.random.Generator], Image.Image]
"""Class 0 … 2 and a generator to one photo."""


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _ground(rng: np.random.Generator, low: int = 90, high: int = 230) -> Image.Image:
    """A background whose colour changes smoothly, at four times the side."""
    corners = rng.integers(low, high, (2, 2, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize((4 * SIDE, 4 * SIDE), Image.Resampling.BILINEAR)


def _photo(drawn: Image.Image, rng: np.random.Generator, noise: float = 10) -> Image.Image:
    """Reduced to the side, lit, and with the noise of a camera."""
    pixels = np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float64)
    pixels = pixels * rng.uniform(0.75, 1.15) + rng.normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _place(rng: np.random.Generator, side: int = 4 * SIDE) -> tuple[float, float, float]:
    """Centre and radius of a thing, in pixels of the background."""
    radius = rng.uniform(0.2, 0.36) * side
    x, y = rng.uniform(radius, side - radius, 2)
    return float(x), float(y), float(radius)


def shapes(label: int, rng: np.random.Generator) -> Image.Image:
    """Discs, triangles and crosses of any dark colour, anywhere."""
    image = _ground(rng)
    draw = ImageDraw.Draw(image)
    x, y, r = _place(rng)
    colour = _colour(rng, 0, 90)
    turn = rng.uniform(-0.3, 0.3)
    if label == 0:
        draw.ellipse((x - r, y - r, x + r, y + r), colour)
    elif label == 1:
        angles = turn + np.array([-np.pi / 2, np.pi / 6, 5 * np.pi / 6])
        draw.polygon([(x + r * np.cos(a), y + r * np.sin(a)) for a in angles], colour)
    else:
        for a in (turn, turn + np.pi / 2):
            c, s = r * np.cos(a), r * np.sin(a)
            draw.line((x - c, y - s, x + c, y + s), colour, width=round(r * 0.45))
    return _photo(image, rng)


def textures(label: int, rng: np.random.Generator) -> Image.Image:
    """Stripes, checks and dots of any two colours, scale, phase and slight turn."""
    period, turn = rng.uniform(9, 15), rng.uniform(-0.25, 0.25)
    y, x = np.mgrid[:SIDE, :SIDE] + rng.uniform(0, 20, (2, 1, 1))
    across, down = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    one, two = np.sin(2 * np.pi * across / period), np.sin(2 * np.pi * down / period)
    mask = (one > 0, one * two > 0, (one > 0.3) & (two > 0.3))[label][..., None]
    light, dark = np.array(_colour(rng, 140, 256)), np.array(_colour(rng, 0, 110))
    return _photo(Image.fromarray(np.where(mask, dark, light).astype(np.uint8)), rng, 14)


def colours(label: int, rng: np.random.Generator) -> Image.Image:
    """Things of any form that are mostly red, green or blue, on any background."""
    image = _ground(rng, 60, 200)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 5))):
        colour = rng.integers(20, 90, 3)
        colour[label] = rng.integers(150, 240)
        x, y, r = _place(rng)
        box = (x - r, y - r * rng.uniform(0.4, 1), x + r, y + r * rng.uniform(0.4, 1))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, tuple(int(v) for v in colour))
    return _photo(image, rng)


def objects(label: int, rng: np.random.Generator) -> Image.Image:
    """A house, a tree or a car before a sky and a meadow, with leaves in front."""
    side = 4 * SIDE
    image = Image.new("RGB", (side, side), _colour(rng, 150, 240))
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.55, 0.75) * side
    draw.rectangle((0, horizon, side, side), (int(rng.integers(60, 130)), int(rng.integers(110, 170)), int(rng.integers(40, 90))))
    w = rng.uniform(0.35, 0.55) * side
    x = rng.uniform(w / 2, side - w / 2)
    foot = horizon + rng.uniform(0, 0.15) * side
    colour = _colour(rng, 40, 220)
    if label == 0:
        h = w * rng.uniform(0.6, 0.9)
        draw.rectangle((x - w / 2, foot - h, x + w / 2, foot), colour)
        draw.polygon([(x - w * 0.6, foot - h), (x, foot - h * 1.6), (x + w * 0.6, foot - h)], _colour(rng, 60, 160))
        draw.rectangle((x - w * 0.1, foot - h * 0.5, x + w * 0.1, foot), _colour(rng, 0, 80))
    elif label == 1:
        draw.rectangle((x - w * 0.08, foot - w * 0.8, x + w * 0.08, foot), (90, 60, 40))
        green = (int(rng.integers(20, 90)), int(rng.integers(80, 150)), int(rng.integers(10, 70)))
        for _ in range(6):
            a, b = x + rng.uniform(-0.25, 0.25) * w, foot - w * rng.uniform(0.7, 1.2)
            draw.ellipse((a - w * 0.25, b - w * 0.25, a + w * 0.25, b + w * 0.25), green)
    else:
        h = w * 0.3
        draw.rectangle((x - w / 2, foot - h, x + w / 2, foot - h * 0.2), colour)
        draw.polygon(
            [(x - w * 0.3, foot - h), (x - w * 0.2, foot - h * 1.8), (x + w * 0.2, foot - h * 1.8), (x + w * 0.35, foot - h)], colour
        )
        for wheel in (-0.28, 0.28):
            draw.ellipse((x + w * wheel - h * 0.35, foot - h * 0.5, x + w * wheel + h * 0.35, foot + h * 0.2), (20, 20, 20))
    for _ in range(8):
        a, b = rng.uniform(0, side, 2)
        draw.line((a, b, a + rng.uniform(-30, 30), b + rng.uniform(-30, 30)), _colour(rng), width=3)
    return _photo(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 4)))), rng)


def arrows(label: int, rng: np.random.Generator) -> Image.Image:
    """Arrows that point left, right or up: classes that a mirror changes."""
    image = _ground(rng)
    draw = ImageDraw.Draw(image)
    x, y, r = _place(rng)
    a = (np.pi, 0.0, -np.pi / 2)[label] + rng.uniform(-0.25, 0.25)
    colour, width = _colour(rng, 0, 90), round(r * rng.uniform(0.2, 0.35))
    tip = np.array([x + r * np.cos(a), y + r * np.sin(a)])
    draw.line((x - r * np.cos(a), y - r * np.sin(a), *tip), colour, width=width)
    head = [tip + 0.9 * r * np.array([np.cos(b), np.sin(b)]) for b in (a + 2.5, a - 2.5)]
    draw.polygon([tuple(tip), *(tuple(point) for point in head)], colour)
    return _photo(image, rng)


def stripes(label: int, rng: np.random.Generator) -> Image.Image:
    """Slanted stripes, falling, rising or level, of any two colours: again a mirror changes them, and no pixel says which."""
    angle = (np.pi / 4, -np.pi / 4, np.pi / 2)[label] + rng.uniform(-0.2, 0.2)
    y, x = np.mgrid[:SIDE, :SIDE]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(6, 14) + rng.uniform(0, 6.3))[..., None]
    light, dark = np.array(_colour(rng, 120, 256)), np.array(_colour(rng, 0, 120))
    return _photo(Image.fromarray((dark + (light - dark) * (wave + 1) / 2).astype(np.uint8)), rng, 14)


def clothes(label: int, rng: np.random.Generator) -> Image.Image:
    """A garment's outline on a plain wall: trousers, a bag or a shoe, always in the middle."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), _colour(rng, 180, 250))
    draw = ImageDraw.Draw(image)
    w, h = rng.uniform(90, 120, 2)
    x, y = 128 + rng.uniform(-12, 12, 2)
    colour = _colour(rng, 10, 150)
    if label == 0:
        points = [(-0.5, -1), (0.5, -1), (0.6, 1), (0.15, 1), (0, -0.2), (-0.15, 1), (-0.6, 1)]
        draw.polygon([(x + w * 0.8 * a, y + h * b) for a, b in points], colour)
    elif label == 1:
        draw.rectangle((x - w * 0.9, y - h * 0.2, x + w * 0.9, y + h * 0.8), colour)
        draw.arc((x - w * 0.5, y - h * 0.9, x + w * 0.5, y + h * 0.4), 180, 360, colour, width=14)
    else:
        points = [(-1, -0.5), (-0.4, -0.5), (-0.1, -0.1), (0.9, 0.15), (1, 0.5), (-1, 0.5)]
        draw.polygon([(x + w * a, y + h * b) for a, b in points], colour)
    return _photo(image.filter(ImageFilter.GaussianBlur(2)), rng)


KINDS: Mapping[str, Draw] = {
    "shapes": shapes,
    "textures": textures,
    "colours": colours,
    "objects": objects,
    "arrows": arrows,
    "stripes": stripes,
    "clothes": clothes,
}


def write(kind: str, folder: Path, seed: int = 0, each: int = EACH, others: int = OTHERS) -> None:
    """``folder``/photos and ``folder``/others, one sub-folder a class."""
    rng = np.random.default_rng((seed, list(KINDS).index(kind)))
    for part, count in (("photos", each), ("others", others)):
        for label in range(CLASSES):
            place = folder / part / "abc"[label]
            place.mkdir(parents=True)
            for number in range(count):
                KINDS[kind](label, rng).save(place / f"{number:02}.jpg", quality=int(rng.integers(60, 90)))


def _onnxferry(*words: object) -> str:
    command = [sys.executable, "-m", "onnxferry.runtime", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def measure(folder: Path, *, autoencoder: bool, more: list[str]) -> dict[str, object]:
    """Trains on ``folder``/photos as a user would, and scores ``folder``/others through the exported file."""
    photos = ("--data", folder / "photos", "--size", SIDE, "--color", "--preset", "quick", "--device", "cpu", "--json")
    begun = time.perf_counter()
    result = json.loads(_onnxferry("train", "cnn", *photos, "--out", folder / "cnn", *more).splitlines()[-1])
    figures: dict[str, object] = {"seconds": round(time.perf_counter() - begun, 1)}
    _onnxferry("export", folder / "cnn", "-o", folder / "photos.onnx")
    model = load(folder / "photos.onnx", device="cpu")
    if not isinstance(model, Classifier):
        raise SystemExit("photos.onnx is not a recogniser")
    files = sorted((folder / "others").glob("*/*.jpg"))
    figures["accuracy on the others"] = float(np.mean([p.label == f.parent.name for p, f in zip(model.predict(files), files, strict=True)]))
    figures["epoch"] = result["epoch"]
    if autoencoder:
        begun = time.perf_counter()
        result = json.loads(_onnxferry("train", "ae", *photos, "--out", folder / "ae").splitlines()[-1])
        figures["autoencoder's error over PCA's"] = round(result["test"]["of_pca"], 3)
        figures["autoencoder, seconds"] = round(time.perf_counter() - begun, 1)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ae", action="store_true", help="the autoencoder too")
    parser.add_argument("--write", type=Path, help="only make the photos, in this folder")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="further options of train cnn; the last one here")
    arguments = parser.parse_args()
    if arguments.write:
        for kind in arguments.kinds:
            write(kind, arguments.write / kind, arguments.seed)
        return
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.kinds:
            write(kind, Path(folder, kind), arguments.seed)
            figures[kind] = measure(Path(folder, kind), autoencoder=arguments.ae, more=arguments.train)
            print(f"{kind}: {figures[kind]}", file=sys.stderr, flush=True)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
