"""Images that play, and images that a hand moves between on a plane."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import numpy as np

from onnxferry.demo.widgets.components import renderer, sent_value, whole
from onnxferry.demo.widgets.html import png, sprite
from onnxferry.demo.words.language import say

_COLUMNS = 21  # of a sprite


def player(key: str, frames: np.ndarray, alts: Sequence[str], captions: Sequence[str], file: str) -> None:
    """Images, uint8 (n, height, width[, 3]), that play forth and back, each with its caption. ``file``: a video's name, without ending."""
    html = (
        '<div class="player"><img alt=""><p></p><div><button type="button" data-do="play"></button>'
        '<input type="range" min="0" step="1"></div><div><button type="button" data-do="video"></button></div></div>'
    )
    mount = renderer("player", html, "video.js", "player.js")
    sources = [f"data:image/png;base64,{base64.b64encode(png(each)).decode('ascii')}" for each in frames]
    words = {"play": say("imagine.play"), "pause": say("imagine.pause"), "step": say("imagine.step"), **_video_words()}
    digest = hashlib.sha256("".join([*sources, *captions]).encode()).hexdigest()[:16]
    data = {"key": digest, "frames": sources, "alts": list(alts), "captions": list(captions), "words": words, "file": file}
    mount(key=key, data=data)


def plane(key: str, images: np.ndarray, captions: Sequence[str], steps: int, at: int, file: str) -> int:
    """The images of a triangle (``images/planes.py``), uint8 (n, size, size, channels): a dot on it is moved, and its image is shown.

    The position where the dot was left, ``at`` at first. ``captions``: one an image. ``file``: a video's name, without its ending.
    """
    html = (
        '<div class="plane"><canvas class="field" tabindex="0" role="slider"></canvas>'
        '<div class="shown"><canvas class="image" role="img"></canvas><p></p><div class="buttons">'
        '<button type="button" data-do="play"></button><button type="button" data-do="video"></button></div></div></div>'
    )
    mount = renderer("plane", html, "video.js", "plane.js")
    sent = sent_value(key, "at")
    shown = at if sent is None else min(whole(sent), len(images) - 1)
    flat = images[..., 0] if images.shape[-1] == 1 else images
    source = base64.b64encode(png(sprite(flat, _COLUMNS))).decode("ascii")
    words = {name: say(f"plane.{name}") for name in ("field", "step")}
    words |= {"play": say("imagine.play"), "pause": say("imagine.pause"), **_video_words()}
    data = {
        "key": hashlib.sha256(source.encode()).hexdigest()[:16],
        "sprite": f"data:image/png;base64,{source}",
        "columns": _COLUMNS,
        "size": int(images.shape[1]),
        "steps": steps,
        "at": shown,
        "captions": list(captions),
        "words": words,
        "file": file,
    }
    result = mount(key=key, data=data, default={"at": at}, on_at_change=lambda: None)
    return min(whole(result.at), len(images) - 1)


def _video_words() -> dict[str, str]:
    return {"video": say("imagine.video"), "recording": say("imagine.recording")}
