"""Scenes with several digits, composed on the fly from single ones: the embedded data of detectors.

The digits are MNIST's, as ``load_images`` splits them: a scene of the training part holds digits of the training part only. Each is
stretched, slanted and turned, drawn 14 to 80 pixels large with strokes of any weight, scattered or in rows like telephone numbers, over a
plain, shaded or ruled background, dark on light or light on dark. Lines, spots, dashes and letters that no digit looks like lie between
them and have no box. A box encloses the pixels that a digit inks by two fifths or more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from onnxferry.train.data.images import ImageSet

SIDES = (96, 256)
"""Least and greatest side of a scene, pixels."""


DIGIT_SIDES = (14, 80)
"""Least and greatest longer side of a digit's ink, pixels."""


MAX_COVERED = 0.25
"""Share of the smaller of two boxes that may lie in the other."""


_LETTERS: dict[str, Sequence[Sequence[tuple[float, float]]]] = {
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.6), (0.8, 0.6)]],
    "E": [[(0.9, 0), (0, 0), (0, 1), (0.9, 1)], [(0, 0.5), (0.8, 0.5)]],
    "F": [[(0.9, 0), (0, 0), (0, 1)], [(0, 0.5), (0.7, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(0.9, 0), (0.9, 1)], [(0, 0.5), (0.9, 0.5)]],
    "K": [[(0, 0), (0, 1)], [(0.8, 0), (0, 0.5), (0.9, 1)]],
    "M": [[(0, 1), (0.1, 0), (0.5, 0.6), (0.9, 0), (1, 1)]],
    "N": [[(0, 1), (0, 0), (0.8, 1), (0.8, 0)]],
    "R": [[(0, 1), (0, 0), (0.7, 0.05), (0.7, 0.45), (0, 0.5), (0.8, 1)]],
    "W": [[(0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    "X": [[(0, 0), (0.9, 1)], [(0.9, 0), (0, 1)]],
    "+": [[(0.5, 0.2), (0.5, 0.8)], [(0.1, 0.5), (0.9, 0.5)]],
    "#": [[(0.3, 0), (0.2, 1)], [(0.7, 0), (0.6, 1)], [(0, 0.35), (0.9, 0.3)], [(0, 0.7), (0.9, 0.65)]],
}


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and what is in it."""

    image: np.ndarray  # uint8 (height, width, channels)
    boxes: np.ndarray  # float32 (objects, 4): left, top, right, bottom, pixels; the right and bottom edges are outside
    labels: np.ndarray  # int64 (objects,)


BEND = 0.85
"""How far a digit's parts are moved in training scenes, pixels of MNIST's images: a standard deviation."""


MESH = 4
"""Pieces along each side that a bent digit is drawn in; the digit is about as long as three of them."""


def compose_scene(rng: np.random.Generator, digits: ImageSet, height: int, width: int, *, bend: float = 0.0) -> Scene:
    """A scene uint8 (``height``, ``width``, 1) of digits drawn from ``digits``: 0 to some 14 of them, one scene in 25 without any.

    ``bend``: how far the parts of each digit are moved, at random (as Simard, Steinkraus and Platt 2003 do), in pixels of its source.
    """
    page = _Page(rng, digits, height, width, bend)
    kind = rng.random()
    if kind < 0.45:
        for _ in range(int(rng.integers(1, 11))):
            page.scatter()
    elif kind < 0.96:
        for _ in range(1 if rng.random() < 0.6 else int(rng.integers(2, 4))):
            page.row(int(rng.integers(2, 12)))
    page.clutter(int(rng.integers(0, 7)) if rng.random() < 0.7 else 0)
    return page.finished()


def compose_number(rng: np.random.Generator, digits: ImageSet, count: int) -> tuple[Scene, str]:
    """A number of ``count`` digits in one row on a background without clutter, and what it says. The digits are 20 to 64 pixels high."""
    side = float(rng.uniform(20, 64))
    height, width = int(side * rng.uniform(1.5, 3)), int(side * (count * rng.uniform(0.95, 1.2) + rng.uniform(1.2, 2.5)))
    while True:
        page = _Page(rng, digits, height, width)
        page.row(count, side)
        if len(page.labels) == count:
            scene = page.finished()
            return scene, "".join(str(label) for label in scene.labels[np.argsort(scene.boxes[:, [0, 2]].sum(axis=1))])


class _Page:
    """Layers of ink in the making."""

    def __init__(self, rng: np.random.Generator, digits: ImageSet, height: int, width: int, bend: float = 0.0) -> None:
        self.rng = rng
        self.digits = digits
        self.bend = bend
        self.ink = np.zeros((height, width), np.float32)  # 0 … 1, how much of a pixel is covered
        self.boxes: list[tuple[int, int, int, int]] = []
        self.labels: list[int] = []
        self.weight = float(rng.uniform(0.3, 0.62))  # the level at which an enlarged digit is cut: low for thick strokes
        self.crisp = float(rng.uniform(0.6, 1.6))

    def scatter(self) -> None:
        """One digit anywhere, if a free place is found in some tries."""
        low, high = DIGIT_SIDES
        largest = min(high, 0.8 * min(self.ink.shape))
        side = math.exp(self.rng.uniform(math.log(low), math.log(largest)))
        drawn, label = self._digit(side)
        for _ in range(8):
            top, left = (
                int(self.rng.integers(0, max(1, whole - part + 1))) for whole, part in zip(self.ink.shape, drawn.shape, strict=True)
            )
            if self._place(drawn, label, top, left):
                return

    def row(self, count: int, side: float | None = None) -> None:
        """Up to ``count`` digits beside each other, as many as there is room for."""
        rng = self.rng
        height, width = self.ink.shape
        if side is None:
            fitting = min(DIGIT_SIDES[1], 0.8 * height, 1.3 * width / count)
            side = math.exp(rng.uniform(math.log(DIGIT_SIDES[0]), math.log(max(fitting, DIGIT_SIDES[0] + 1))))
            y = float(rng.uniform(side / 2, max(height - side / 2, side / 2 + 1)))
            x = float(rng.uniform(0, max(1.0, width - count * side * 0.8)))
        else:
            y = height / 2 + float(rng.uniform(-0.15, 0.15)) * side
            x = float(rng.uniform(0.3, 0.8)) * side
        gap, slope, spread = float(rng.uniform(-0.04, 0.4)) * side, float(rng.normal(0, 0.04)), float(rng.uniform(0, 0.12))
        signs = rng.random() < 0.3 and self.ink.shape[1] > 90
        for position in range(count):
            drawn, label = self._digit(min(DIGIT_SIDES[1], max(DIGIT_SIDES[0], side * float(rng.uniform(1 - spread, 1 + spread)))))
            top = round(y - drawn.shape[0] / 2 + float(rng.normal(0, 0.05)) * side)
            if not self._place(drawn, label, top, round(x)):
                x += 0.1 * side
                if not self._place(drawn, label, top, round(x)):
                    break
            x += drawn.shape[1] + max(gap * float(rng.uniform(0.5, 1.5)), -0.12 * drawn.shape[1])
            y += slope * side
            if signs and position < count - 1 and rng.random() < 0.25:
                x += 0.15 * side
                self._strokes([[(x, y), (x + 0.35 * side, y + float(rng.normal(0, 0.03)) * side)]], side * 0.1)
                x += 0.55 * side

    def _digit(self, side: float) -> tuple[np.ndarray, int]:
        """One of the digits as ink float32 (height, width), cut to its box, the longer side about ``side``; and its label."""
        rng = self.rng
        which = int(rng.integers(len(self.digits)))
        source = self.digits.images[which, :, :, 0]
        rows, columns = np.flatnonzero(source.max(axis=1) > 60), np.flatnonzero(source.max(axis=0) > 60)
        middle_y, middle_x = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
        longest = max(len(rows), len(columns))
        zoom = side / longest
        stretch = math.exp(rng.normal(0, 0.1))
        angle, shear = rng.normal(0, 0.08), rng.normal(0, 0.12)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([1 / (zoom * stretch), stretch / zoom])  # from the drawn to the source
        size = math.ceil(side * 1.5) + 6
        offset = np.array([middle_x, middle_y]) - matrix @ np.array([size / 2, size / 2])
        image = Image.fromarray(source)
        if self.bend:
            pieces = self._pieces(size, matrix, offset)
            image = image.transform((size, size), Image.Transform.MESH, pieces, Image.Resampling.BICUBIC)
        else:
            where = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
            image = image.transform((size, size), Image.Transform.AFFINE, where, Image.Resampling.BICUBIC)
        ink = np.asarray(image, np.float32) / 255
        # Enlarged strokes are blurred: cutting them at a level makes them as crisp as drawn ones.
        gain = max(1.0, zoom * self.crisp)
        ink = np.clip((ink - self.weight) * gain + 0.5, 0, 1) * (ink > 0.06)
        ink *= float(rng.uniform(0.8, 1.0))
        rows, columns = np.flatnonzero(ink.max(axis=1) >= 0.4), np.flatnonzero(ink.max(axis=0) >= 0.4)
        if not len(rows):
            return self._digit(side)
        return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(self.digits.labels[which])

    def _pieces(self, size: int, matrix: np.ndarray, offset: np.ndarray) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Squares that cover an image of ``size``, and where each one's corners come from: the affine map's places, moved at random."""
        edges = [size * number // MESH for number in range(MESH + 1)]
        corners = np.stack(np.meshgrid(edges, edges), axis=-1)  # (row, column, x and y)
        sources = (corners @ matrix.T + offset + self.bend * self.rng.standard_normal(corners.shape)).tolist()
        return [
            (
                (edges[x], edges[y], edges[x + 1], edges[y + 1]),
                (*sources[y][x], *sources[y + 1][x], *sources[y + 1][x + 1], *sources[y][x + 1]),
            )
            for y in range(MESH)
            for x in range(MESH)
        ]

    def _place(self, drawn: np.ndarray, label: int, top: int, left: int) -> bool:
        """Lay a digit there, unless it leaves the page or covers too much of another one."""
        height, width = drawn.shape
        box = left, top, left + width, top + height
        if top < 0 or left < 0 or box[3] > self.ink.shape[0] or box[2] > self.ink.shape[1]:
            return False
        if any(_covered(box, other) > MAX_COVERED for other in self.boxes):
            return False
        part = self.ink[top : box[3], left : box[2]]
        np.maximum(part, drawn, out=part)
        self.boxes.append(box)
        self.labels.append(label)
        return True

    def clutter(self, count: int) -> None:
        """``count`` things that are no digits."""
        rng = self.rng
        height, width = self.ink.shape
        for _ in range(count):
            kind, thickness = rng.random(), float(rng.uniform(1, 5))
            x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
            if kind < 0.3:  # a long line: short ones may be the digit 1
                angle, length = float(rng.uniform(0, math.pi)), float(rng.uniform(0.7, 1.5)) * max(height, width)
                across, down = math.cos(angle) * length / 2, math.sin(angle) * length / 2
                bend = float(rng.normal(0, 0.04)) * length
                self._strokes(
                    [[(x - across, y - down), (x + bend, y - bend), (x + across, y + down)]], thickness, float(rng.uniform(0.4, 1))
                )
            elif kind < 0.5:
                self._strokes([[(x, y), (x + 0.5, y + float(rng.uniform(0, 1)))]], float(rng.uniform(2, 9)))
            else:
                side = float(rng.uniform(14, 60))
                if any(_covered((x, y, x + side, y + side), box) > 0.1 for box in self.boxes):
                    continue
                letter = list(_LETTERS.values())[int(rng.integers(len(_LETTERS)))]
                jitter = 0.05 * side
                strokes = [
                    [(x + side * 0.8 * px + rng.normal(0, jitter), y + side * py + rng.normal(0, jitter)) for px, py in stroke]
                    for stroke in letter
                ]
                self._strokes(strokes, max(1.5, side * float(rng.uniform(0.06, 0.16))))

    def _strokes(self, strokes: Sequence[Sequence[tuple[float, float]]], thickness: float, strength: float = 1.0) -> None:
        """Lines with round ends, drawn at twice the size and halved, so that their edges are soft. Digits stay on top."""
        height, width = self.ink.shape
        layer = Image.new("L", (2 * width, 2 * height))
        draw = ImageDraw.Draw(layer)
        radius = max(1.0, thickness)
        for stroke in strokes:
            points = [(2 * px, 2 * py) for px, py in stroke]
            draw.line(points, 255, round(2 * radius), joint="curve")
            for px, py in (points[0], points[-1]):
                draw.ellipse((px - radius, py - radius, px + radius, py + radius), 255)
        np.maximum(self.ink, np.asarray(layer.reduce(2), np.float32) * (strength / 255), out=self.ink)

    def finished(self) -> Scene:
        """The ink on its background."""
        rng = self.rng
        height, width = self.ink.shape
        paper = np.zeros((height, width), np.float32)
        if rng.random() < 0.3:  # shaded
            down, across = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None]
            paper += np.asarray(rng.normal(0, 0.06) * down + rng.normal(0, 0.06) * across, np.float32)
        if rng.random() < 0.12:  # ruled
            step, start, level = int(rng.integers(12, 40)), int(rng.integers(0, 12)), float(rng.uniform(-0.15, 0.15))
            paper[start::step] += level
            if rng.random() < 0.5:
                paper[:, start::step] += level
        dark, light = float(rng.uniform(0, 0.35)), float(rng.uniform(0.65, 1))
        background, ink = (light, dark) if rng.random() < 0.5 else (dark, light)
        pixels = background + paper + (ink - background - paper) * self.ink
        if rng.random() < 0.5:
            pixels += np.asarray(rng.normal(0, rng.uniform(0, 0.05), pixels.shape), np.float32)
        image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
        if rng.random() < 0.15:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        return Scene(np.asarray(image)[..., None].copy(), boxes, np.asarray(self.labels, np.int64))


def _covered(a: Sequence[float], b: Sequence[float]) -> float:
    """What the overlap of two boxes is of the smaller one."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
