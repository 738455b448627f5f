"""Images that belong to none of a set's classes, made for training a recogniser that may answer "none of them".

Outlier exposure (D. Hendrycks, M. Mazeika and T. Dietterich, "Deep anomaly detection with outlier exposure", 2019, arXiv 1812.04606) needs
examples of what the model may meet besides its classes. For single figures on a plain background they are letters and signs in many fonts,
scribbles, drawn shapes and several figures side by side; for photographs, images whose parts are mixed up. Both get noise, plain and
shaded areas.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 64
"""Side of a made figure's image, pixels. The network's own preprocessing scales it."""


HELD_OUT_FONTS = ("DejaVuSans",)
"""Beginnings of the names of fonts that are never trained on: tests/bench/figures_known.py measures with them."""


HELD_OUT_SIGNS = "♥♡❤☺☻☹★☆#@&%?+=∞△▲□■→←↑↓中三"
"""Never trained on, for the same reason."""


LIKE_A_DIGIT = "IlOoSsZzBbgqDQij|!¡¦()[]{}/\\'`´,.;:·-_~¬¯°ºıſ" + "ΙΟοιΖσςρβδθΘφ" + "ОоЗзбІіЇїЧчэЭӏԚԛѳѲʒƷɔƧƨƵƶ"
"""Characters that are written as some digit is, or as a line or a dot."""


Draw = Callable[[np.random.Generator], np.ndarray]
"""One grey image, uint8 (height, width), light on dark."""


def made_others(images: np.ndarray, count: int, *, figures: bool, seed: int = 0) -> np.ndarray:
    """``count`` images of no class: uint8 (count, side, side, channels), a function of ``seed`` and ``images``.

    ``images``: uint8 (n, size, size, channels), some of the training set, whose parts are put together anew. ``figures``: for single
    figures on a plain background, with SIDE as the side; otherwise the side is the images'.

        others = made_others(splits.train.images, 1000, figures=True)     # uint8 (1000, 64, 64, 1)
    """
    rng = np.random.default_rng(seed)
    channels = images.shape[3]
    if figures:
        kinds: Sequence[tuple[float, Draw]] = (
            (0.52, _glyph),
            (0.18, _scribble),
            (0.08, _shape),
            (0.12, lambda draw: _crowd(draw, images)),
            (0.10, lambda draw: _texture(draw, SIDE)),
        )
        chosen = rng.choice(len(kinds), count, p=[share for share, _ in kinds])
        made = [kinds[kind][1](rng) for kind in chosen]
        return np.repeat(np.stack(made)[..., None], channels, axis=3)
    return np.stack([_mixed(rng, images) for _ in range(count)])


@cache
def _fonts() -> tuple[tuple[str, str], ...]:
    """Path and usable characters of each font that matplotlib carries."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = []
    for path in sorted(folder.glob("*.ttf")):
        if (
            path.stem.startswith((*HELD_OUT_FONTS, "LastResort", "cmex")) or "Siz" in path.stem
        ):  # no letters, but boxes and parts of brackets
            continue
        characters = "".join(chr(code) for code in sorted(FT2Font(str(path)).get_charmap()) if _usable(chr(code)))
        if characters:
            found.append((str(path), characters))
    return tuple(found)


def _usable(character: str) -> bool:
    """True for a letter or a sign that is neither a digit nor written like one, and is not held out."""
    base = unicodedata.normalize("NFKD", character)
    if any(part.isnumeric() or part in LIKE_A_DIGIT or part in HELD_OUT_SIGNS for part in base):
        return False
    return unicodedata.category(character) in ("Lu", "Ll", "Lo", "So", "Sm", "Sc", "Po")


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _glyph(rng: np.random.Generator) -> np.ndarray:
    """A letter or sign; half of them from the Latin alphabet, which is what people write."""
    while True:
        path, characters = _fonts()[rng.integers(len(_fonts()))]
        latin = [character for character in characters if character.isascii() and character.isalpha()]
        pool = latin if latin and rng.random() < 0.6 else characters
        image = Image.new("L", (SIDE, SIDE))
        place = (SIDE / 2 + rng.normal(0, 2), SIDE / 2 + rng.normal(0, 2))
        font = _font(path, int(rng.integers(28, 50)))
        ImageDraw.Draw(image).text(place, pool[rng.integers(len(pool))], 255, font, anchor="mm", stroke_width=int(rng.integers(0, 4)))
        grey = np.asarray(_turned(rng, image))
        if _is_figure(grey):
            return grey


def _is_figure(grey: np.ndarray) -> bool:
    """False for an empty image, a dot and an upright line, which may be a 1."""
    rows, columns = np.nonzero(grey > 80)
    if len(rows) < 12:
        return False
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    return max(height, width) >= 12 and width >= 0.3 * height


def _turned(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Rotated by up to 15 degrees and sheared."""
    shear = rng.normal(0, 0.12)
    slanted = image.transform(image.size, Image.Transform.AFFINE, (1, shear, -shear * SIDE / 2, 0, 1, 0), Image.Resampling.BILINEAR)
    return slanted.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)


def _pen(rng: np.random.Generator, strokes: Sequence[np.ndarray]) -> np.ndarray:
    """Polylines float (n, 2) in 0 to 1, drawn by one pen."""
    image = Image.new("L", (2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(image)
    width = int(rng.integers(3, 17))
    for stroke in strokes:
        points = [(float(x), float(y)) for x, y in (0.15 + 0.7 * stroke) * 2 * SIDE]
        draw.line(points, fill=255, width=width, joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _curve(points: np.ndarray, samples: int = 24) -> np.ndarray:
    """A Catmull-Rom spline through float (n, 2)."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, points[-1:]])


def _scribble(rng: np.random.Generator) -> np.ndarray:
    """Several random strokes, or one long one: a simple one might be a digit."""
    if rng.random() < 0.5:
        strokes = [_curve(rng.random((int(rng.integers(7, 16)), 2)))]
    else:
        strokes = [_curve(rng.random((int(rng.integers(2, 6)), 2))) for _ in range(int(rng.integers(3, 7)))]
    return _pen(rng, strokes)


def _shape(rng: np.random.Generator) -> np.ndarray:
    """A polygon, a spiral, a zigzag, a grid, rings or a cross."""
    kind = int(rng.integers(6))
    turn = rng.uniform(0, 2 * math.pi)
    if kind == 0:
        corners = int(rng.integers(3, 7))
        angles = turn + np.linspace(0, 2 * math.pi, corners + 1)
        strokes = [np.stack([0.5 + 0.5 * np.cos(angles), 0.5 + 0.5 * np.sin(angles)], axis=1)]
    elif kind == 1:
        angles = np.linspace(0, rng.uniform(3.5, 8) * math.pi, 120)
        radius = 0.5 * angles / angles[-1]
        strokes = [np.stack([0.5 + radius * np.cos(angles + turn), 0.5 + radius * np.sin(angles + turn)], axis=1)]
    elif kind == 2:
        count = int(rng.integers(5, 11))
        strokes = [np.stack([np.linspace(0, 1, count), np.arange(count) % 2 + rng.normal(0, 0.05, count)], axis=1)]
    elif kind == 3:
        lines = np.linspace(0, 1, int(rng.integers(2, 5)))
        strokes = [np.array([[x, 0.0], [x, 1.0]]) for x in lines] + [np.array([[0.0, y], [1.0, y]]) for y in lines]
    elif kind == 4:
        angles = np.linspace(0, 2 * math.pi, 60)
        radii = np.linspace(0.5, 0.15, int(rng.integers(2, 4)))
        strokes = [np.stack([0.5 + r * np.cos(angles), 0.5 + r * np.sin(angles)], axis=1) for r in radii]
    else:
        angles = turn + np.arange(int(rng.integers(2, 5))) * math.pi / 4
        strokes = [0.5 + np.array([[-1.0], [1.0]]) * np.array([[math.cos(a), math.sin(a)]]) / 2 for a in angles]
        if len(strokes) == 2:
            strokes.append(0.5 + np.array([[-1.0], [1.0]]) * np.array([[math.cos(turn + math.pi / 2), math.sin(turn + math.pi / 2)]]) / 2)
    return _pen(rng, strokes)


def _crowd(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Two or three of ``images`` side by side, now and then one above the other."""
    count = 2 if rng.random() < 0.75 else 3
    parts = [images[i].max(axis=2) for i in rng.integers(len(images), size=count)]
    together = np.concatenate(parts, axis=0 if count == 2 and rng.random() < 0.15 else 1)
    canvas = Image.new("L", (SIDE, SIDE))
    shrunk = Image.fromarray(together)
    shrunk.thumbnail((SIDE - 4, SIDE - 4), Image.Resampling.BOX)
    canvas.paste(shrunk, ((SIDE - shrunk.width) // 2, (SIDE - shrunk.height) // 2))
    return np.asarray(canvas)


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise at some scale, stripes, a shaded or a plain area."""
    kind = int(rng.integers(4))
    if kind == 0:
        cells = int(rng.choice([3, 5, 9, 17, side]))
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
        return np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.NEAREST))
    y, x = np.mgrid[0:side, 0:side] / side
    turn = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(turn) + y * math.sin(turn)
    if kind == 1:
        wave = np.sin(2 * math.pi * (rng.uniform(1.5, 10) * along + rng.random()))
        return np.asarray(127.5 + 127.5 * (wave if rng.random() < 0.5 else np.sign(wave))).astype(np.uint8)
    if kind == 2:
        shade = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
        return np.asarray(rng.uniform(40, 255) * shade + rng.normal(0, 4, shade.shape)).clip(0, 255).astype(np.uint8)
    plain: np.ndarray = np.asarray(rng.uniform(0, 255) + rng.normal(0, rng.uniform(0, 10), (side, side))).clip(0, 255).astype(np.uint8)
    return plain


def _mixed(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Of photographs: tiles in another order, halves of two images, a blend, or a texture. uint8 (side, side, channels)."""
    chosen = rng.integers(len(images), size=2)
    first: np.ndarray = images[chosen[0]]
    second: np.ndarray = images[chosen[1]]
    side = first.shape[0]
    kind = int(rng.integers(4))
    if kind == 0:
        count = int(rng.integers(2, 5))
        edge = side // count
        tiles = [first[r * edge : (r + 1) * edge, c * edge : (c + 1) * edge] for r in range(count) for c in range(count)]
        order = rng.permutation(len(tiles))
        rows = [np.concatenate([tiles[i] for i in order[r * count : (r + 1) * count]], axis=1) for r in range(count)]
        mixed = np.concatenate(rows, axis=0)
        padded: np.ndarray = np.pad(mixed, ((0, side - len(mixed)), (0, side - len(mixed)), (0, 0)), mode="edge")
        return padded
    if kind == 1:
        joined = np.concatenate([first[:, : side // 2], second[:, side // 2 :]], axis=1)
        return joined if rng.random() < 0.5 else np.ascontiguousarray(joined.transpose(1, 0, 2))
    if kind == 2:
        blended: np.ndarray = (first.astype(np.uint16) + second) // 2
        return blended.astype(np.uint8)
    return np.repeat(_texture(rng, side)[..., None], first.shape[2], axis=2)
