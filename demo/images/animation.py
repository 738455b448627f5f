"""Images that follow one another as a GIF."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

FRAME_MS = 80


def animation(made: np.ndarray, scale: int = 8, *, back: bool = True) -> bytes:
    """Images, uint8 (n, height, width[, 3]), as an endless GIF's bytes; forth and back, or round and round without ``back``."""
    there = [Image.fromarray(each.repeat(scale, axis=0).repeat(scale, axis=1)) for each in made]
    frames = there + there[-2:0:-1] if back else there
    stream = BytesIO()
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return stream.getvalue()
