"""How much each letter of a text surprised a text generator, and which ones it weighed in its place.

Surprise is -log2 of the probability that the model gave to a letter before it saw it (C. Shannon, "Prediction and entropy of printed
English", Bell System Technical Journal 30, 1951).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxferry.runtime import TextGenerator


def bits(model: TextGenerator, letters: Sequence[str]) -> np.ndarray:
    """float64 (n,), one a letter: the sum over its bytes."""
    encoded = [letter.encode("utf-8", "replace") for letter in letters]
    text = np.frombuffer(b"".join(encoded), np.uint8)[None]
    outputs = model.run({"prompt": text, "uniforms": np.zeros((1, 0), np.float32)})
    per_byte = -outputs["log_probabilities"][0].astype(np.float64) / np.log(2)
    starts = np.concatenate([[0], np.cumsum([len(each) for each in encoded])[:-1]]).astype(int)
    summed: np.ndarray = np.add.reduceat(per_byte, starts)
    return summed


def weighed(model: TextGenerator, before: str, count: int = 5) -> list[tuple[str, float]]:
    """The ``count`` likeliest letters after a text, with their probabilities, best first. ASCII only: others are several bytes."""
    text = np.frombuffer(before.encode("utf-8", "replace") or b"\n", np.uint8)[None]
    outputs = model.run({"prompt": text, "uniforms": np.zeros((1, 0), np.float32)})
    logits = outputs["next_logits"][0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = [index for index in np.argsort(-shares, kind="stable").tolist() if index == 10 or 32 <= index < 127]
    return [(chr(index), float(shares[index])) for index in order[:count]]
