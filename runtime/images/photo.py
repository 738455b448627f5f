"""Photographs of writing: the paper's own light is divided out, and what lies around the paper is left out.

A shadow of a tenth is fainter than any ink, and yet it is the strongest figure of an empty corner: a recogniser that looks for what
differs from the background finds the shadow. The background is what is left when all dark figures thinner than a sixth of the image
are filled (a morphological closing), smoothed; the image is divided by it. Source: P. Soille, "Morphological Image Analysis", 2nd
edition, 2003, section 4.5.1 ("shading correction").
"""

from __future__ import annotations

import numpy as np

SIDE = 96
"""Pixels of the longer side on which the background is looked for: light changes slowly."""


LEAST_SIDE = 64
"""Smaller images are no photographs; strokes in them may be as wide as a sixth."""


_WINDOW = 6  # the longer side over this is the widest stroke that counts as ink


_FLAT = 3  # levels by which the ground of a drawing or a scan may differ from itself


_PAPER_SHARE = (0.1, 0.97)  # of the image


_PAPER_SOLID = 0.5  # of its bounding box, without the ink on it; a sheet that lies askew has half of it


_LEAST_INK = 0.1  # share of the paper's light that ink takes at least: what is all fainter, as the graph has it, is blank paper


_FAINT = 0.35  # of the strongest ink: what is fainter is ruled lines, creases and the grain of the paper


_PAPER_STEP = 28  # levels that the paper is lighter than what it lies on, within two pixels at its edge


def is_evenly_lit(image: np.ndarray) -> bool:
    """True where the ground of a uint8 image (height, width, channels) has one colour, as in a drawing: there is nothing to divide out."""
    grey = _grey(image)
    ring = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = np.median(ring)
    return bool((np.abs(ring - ground) <= _FLAT).mean() > 0.98 and (np.abs(grey - ground) <= _FLAT).mean() > 0.5)


def without_background(image: np.ndarray) -> np.ndarray:
    """A photograph, uint8 (height, width, 1 | 3), as dark writing on white: uint8 (height, width, 1).

    What is evenly lit already, or smaller than LEAST_SIDE, is given back as it is. Light writing on a dark ground is inverted.

        prediction = load("digits").predict_one(without_background(photo))
    """
    height, width = image.shape[:2]
    if max(height, width) < LEAST_SIDE or is_evenly_lit(image):
        return image
    grey = _grey(image)
    small, factor = _smaller(grey)
    if np.median(small) < 90 and not _paper(small).any():  # chalk on a board
        grey, small = 255 - grey, 255 - small
    paper = _paper(small)
    if not paper.any():
        paper = np.ones_like(small, bool)
    background = _background(small, paper)
    wide = _larger(background, factor, grey.shape)
    inside = _larger(paper.astype(np.float64), factor, grey.shape) > 0.999
    share = np.where(inside, np.clip(grey / np.maximum(wide, 1), 0, 1), 1.0)
    ink = 1 - share
    strongest = max(float(_smaller(ink)[0].max()), _LEAST_INK)
    ink = np.clip((ink / strongest - _FAINT) / (1 - _FAINT), 0, 1)
    made: np.ndarray = (255 * (1 - ink)).round().astype(np.uint8)[..., None]
    return made


def _grey(image: np.ndarray) -> np.ndarray:
    grey: np.ndarray = image.astype(np.float64).mean(axis=2)
    return grey


def _smaller(grey: np.ndarray) -> tuple[np.ndarray, int]:
    """Area-averaged by a whole number to at most SIDE pixels, with that number; what does not fit is repeated from the edge."""
    factor = max(1, -(-max(grey.shape) // SIDE))
    rows, columns = (-(-n // factor) * factor for n in grey.shape)
    padded = np.pad(grey, ((0, rows - grey.shape[0]), (0, columns - grey.shape[1])), mode="edge")
    return padded.reshape(rows // factor, factor, columns // factor, factor).mean(axis=(1, 3)), factor


def _larger(values: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    """The way back from :func:`_smaller`, interpolated linearly."""
    from PIL import Image

    size = values.shape[1] * factor, values.shape[0] * factor
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))[: shape[0], : shape[1]]


def _window(grey: np.ndarray) -> int:
    return 2 * (int(max(grey.shape)) // _WINDOW // 2) + 1


def _slid(values: np.ndarray, size: int, take: np.ufunc, beyond: float) -> np.ndarray:
    """The largest or smallest of every window of ``size`` × ``size``; outside the image stands ``beyond``."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (size // 2, size // 2)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, pad, constant_values=beyond), size, axis=axis)
        values = take.reduce(windows, axis=-1)
    return values


def _blurred(values: np.ndarray, size: int) -> np.ndarray:
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (size // 2, size // 2)
        values = np.lib.stride_tricks.sliding_window_view(np.pad(values, pad), size, axis=axis).mean(axis=-1)
    return values


def _background(small: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """The light of the paper where no ink is, float64 of the shape of ``small``; only pixels in ``paper`` count."""
    size = _window(small)
    filled = _slid(np.where(paper, small, 0.0), size, np.maximum, 0.0)
    closed = _slid(np.where(paper, filled, 255.0), size, np.minimum, 255.0)
    closed = np.where(paper, closed, 0.0)
    smooth = size // 2 * 2 + 1
    weight = _blurred(paper.astype(np.float64), smooth)
    light: np.ndarray = _blurred(closed, smooth) / np.maximum(weight, 1e-6)
    return light


def _paper(small: np.ndarray) -> np.ndarray:
    """Where a sheet of paper lies on something darker, bool of the shape of ``small``; all False where the image is all paper."""
    bright = _largest(small > _otsu(small))
    nothing = np.zeros_like(bright)
    sheet = _filled(bright)  # with the ink on it
    rows, columns = np.flatnonzero(sheet.any(axis=1)), np.flatnonzero(sheet.any(axis=0))
    if not _PAPER_SHARE[0] < sheet.mean() < _PAPER_SHARE[1]:
        return nothing
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    if bright.sum() < _PAPER_SOLID * box:  # a figure in chalk
        return nothing
    core = _slid(sheet.astype(np.float64), 5, np.minimum, 1.0) > 0
    edge = sheet & (_slid(sheet.astype(np.float64), 3, np.minimum, 1.0) == 0)
    if not edge.any() or not core.any():
        return nothing
    # A shadow has no edge: within two pixels it changes by a part of its depth only. Four of five pixels at the rim of paper are a step.
    steps = small[edge] - _slid(np.where(sheet, 255.0, small), 5, np.minimum, 255.0)[edge]
    return core if float(np.quantile(steps, 0.2)) >= _PAPER_STEP else nothing


def _filled(mask: np.ndarray) -> np.ndarray:
    """A bool array with its holes: what is not in it and does not reach the image's border."""
    labels = components(np.pad(~mask, 1, constant_values=True))
    inside: np.ndarray = (labels != labels[0, 0])[1:-1, 1:-1]
    return inside


def _otsu(values: np.ndarray) -> float:
    """The level that parts values best into two classes. Source: N. Otsu, IEEE Transactions SMC 9, 1979."""
    counts = np.bincount(np.clip(values, 0, 255).astype(int).ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()
    total = (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    between = np.nan_to_num(between)
    best = np.flatnonzero(between == between.max())
    return float(best.mean()) + 0.5


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a bool array."""
    labels = components(mask)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    largest: np.ndarray = labels == counts.argmax() if counts.any() else np.zeros_like(mask)
    return largest


def components(mask: np.ndarray) -> np.ndarray:
    """Connected parts of a bool array (height, width), by all eight neighbours: int64 of its shape, 0 outside and 1, 2, … in them."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = np.where(mask, _slid(labels.astype(np.int64), 3, np.maximum, 0), 0)
        # Pointers are followed at once, so that a long line takes a few rounds and not its length.
        spread = np.where(mask, np.concatenate([[0], spread.ravel()])[spread], 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    _, small = np.unique(labels, return_inverse=True)
    numbered: np.ndarray = small.reshape(mask.shape) + (0 if (~mask).any() else 1)
    return numbered
