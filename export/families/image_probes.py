"""The inputs that graphs with an image input are traced and compared with."""

from __future__ import annotations

import numpy as np

from onnxferry.export.source import Feeds, numbered


def traced_image(channels: int) -> np.ndarray:
    """uint8 (2, 45, 37, channels): of a shape that no probe has, so that nothing passes because its size was fixed in the graph."""
    return np.random.default_rng(1).integers(0, 256, (2, 45, 37, channels), dtype=np.uint8)


def image_probes(channels: int, examples: np.ndarray) -> dict[str, Feeds]:
    """More inputs to compare on, by name: real images, and difficult variants of them, at untraced shapes.

    ``examples``: uint8 (n, height, width, channels).
    """
    rng = np.random.default_rng(0)
    n, height, width, _ = examples.shape
    wide = np.zeros((min(3, n), 2 * height + 5, 3 * width + 2, channels), np.uint8)  # small and off-centre
    wide[:, height : 2 * height, 7 : 7 + width] = examples[:3]
    enlarged = examples[:2].repeat(5, axis=1).repeat(7, axis=2)
    noise = rng.integers(0, 256, (5, 33, 17, channels), dtype=np.uint8)
    probes = [examples, 255 - examples[:7], wide, enlarged, noise, examples[:1, ::2, ::3]]
    # One color: black, white and a gray, at the examples' own size and at others.
    probes += [np.zeros((1, 1, 1, channels), np.uint8), np.full((2, 9, 40, channels), 255, np.uint8)]
    probes += [np.stack([np.full((height, width, channels), level, np.uint8) for level in (0, 1, 127, 128, 254, 255)])]
    # Every second pixel black, one white pixel in a corner.
    board = np.indices((2, height, width)).sum(0)[..., None].repeat(channels, 3) % 2 * 255
    board[1] = 0
    board[1, 0, 0] = 255
    probes += [board.astype(np.uint8)]
    return numbered([{"image": np.ascontiguousarray(probe)} for probe in probes])
