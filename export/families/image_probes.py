"""What graphs that take images are compared on."""

from __future__ import annotations

import numpy as np


def image_probes(channels: int, examples: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Inputs beside the example: real images, and the same made hard, at shapes never traced.

    ``examples``: uint8 (n, height, width, channels).
    """
    rng = np.random.default_rng(0)
    n, height, width, _ = examples.shape
    wide = np.zeros((min(3, n), 2 * height + 5, 3 * width + 2, channels), np.uint8)  # small and off-centre
    wide[:, height : 2 * height, 7 : 7 + width] = examples[:3]
    enlarged = examples[:2].repeat(5, axis=1).repeat(7, axis=2)
    noise = rng.integers(0, 256, (5, 33, 17, channels), dtype=np.uint8)
    probes = [examples, 255 - examples[:7], wide, enlarged, noise, examples[:1, ::2, ::3]]
    probes += [np.zeros((1, 1, 1, channels), np.uint8), np.full((2, 9, 40, channels), 255, np.uint8)]
    return [{"image": np.ascontiguousarray(probe)} for probe in probes]
