"""Files to try where a visitor has none at hand: shipped models, and one that is damaged."""

from __future__ import annotations

import numpy as np

from onnxferry.runtime.artifact.zoo import zoo_model

BROKEN = "broken"


_OVERWRITTEN = 2000  # bytes


def example_file(name: str) -> bytes:
    """The bytes of a shipped model; for BROKEN those of ``digits`` with some of its weights overwritten."""
    if name != BROKEN:
        return zoo_model(name).path.read_bytes()
    model = bytearray(zoo_model("digits").path.read_bytes())
    start = len(model) // 3  # in the middle of the weights, which are nearly all of the file
    model[start : start + _OVERWRITTEN] = np.random.default_rng(0).integers(0, 256, _OVERWRITTEN, np.uint8).tobytes()
    return bytes(model)
