"""The inside of a network as one strip: what it saw, some maps of each stage, and the bars of its answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Protocol

import numpy as np

from onnxferry.demo.widgets.html import png, sprite
from onnxferry.demo.words.language import say


class Inside(Protocol):
    """One pass: see ``shipped/maps.py``."""

    @property
    def probabilities(self) -> np.ndarray: ...
    @property
    def saw(self) -> np.ndarray: ...
    @property
    def stages(self) -> tuple[np.ndarray, ...]: ...


def _ramp() -> np.ndarray:
    """uint8 (256, 3): dark over blue to yellow, as in "viridis"."""
    stops = np.array([[20, 24, 40], [38, 70, 130], [34, 145, 168], [110, 200, 120], [250, 225, 80]], np.float64)
    places, share = np.arange(len(stops)), np.linspace(0, len(stops) - 1, 256)
    mixed: np.ndarray = np.stack([np.interp(share, places, channel) for channel in stops.T], axis=1)
    return mixed.round().astype(np.uint8)


_RAMP = _ramp()


def coloured(values: np.ndarray) -> np.ndarray:
    """float32 (maps, side, side) from 0 → uint8 (maps, side, side, 3): dark where a map found nothing, yellow where it found most."""
    largest = np.maximum(values.max(axis=(1, 2), keepdims=True), 1e-6)
    made: np.ndarray = _RAMP[(np.clip(values / largest, 0, 1) * 255).astype(np.uint8)]
    return made


def signed(values: np.ndarray) -> np.ndarray:
    """Weights (side, side) → uint8 (side, side, 3): orange above 0, blue below, white at 0; the largest magnitude is the fullest."""
    share = np.clip(values / max(float(np.abs(values).max()), 1e-6), -1, 1)[..., None]
    warm, cold, white = np.array([226.0, 73.0, 28.0]), np.array([38.0, 102.0, 200.0]), np.full(3, 255.0)
    mixed: np.ndarray = white + np.abs(share) * (np.where(share > 0, warm, cold) - white)
    return mixed.round().astype(np.uint8)


def strip(inside: Inside, before: Sequence[str], labels: Sequence[str], chosen: Mapping[int, Sequence[int]]) -> str:
    """HTML. ``before``: figures that stand first. ``chosen``: by stage, which of its maps are shown."""
    saw = _source(np.round(255 * (1 - np.clip(inside.saw, 0, 1))).astype(np.uint8))
    side = inside.saw.shape[0]
    parts = [f'<div class="of-stage">{each}</div>' for each in before]
    alt = say("recognise.seen.alt", size=side)
    parts.append(
        f'<div class="of-stage"><figure class="of-image"><img alt="{escape(alt)}" src="{saw}">'
        f"<figcaption>{escape(say('recognise.seen'))}</figcaption></figure></div>"
    )
    for stage, maps in enumerate(inside.stages):
        shown = chosen[stage]
        # One image a stage, of which each tile shows a part: 24 small ones take longer to make, to send and to decode than the answer does.
        sheet = _source(sprite(coloured(maps[list(shown)]), len(shown)))
        tiles = "".join(
            f'<span class="of-tile" tabindex="-1" role="img" style="--at:{at}" '
            f'aria-label="{escape(say("recognise.live.map", number=index + 1, stage=stage + 1))}"></span>'
            for at, index in enumerate(shown)
        )
        words = say("recognise.live.maps", shown=len(shown), count=len(maps), side=maps.shape[1])
        parts.append(
            f'<div class="of-stage of-maps"><div class="of-tiles" style="--sheet:url({sheet});--tiles:{len(shown)}">{tiles}</div>'
            f"<p><b>{escape(say('recognise.live.stage', number=stage + 1))}</b> {escape(words)}</p></div>"
        )
    bars = "".join(
        f'<span style="height:{max(2.0, 100 * float(share)):.1f}%" title="{escape(label)}"><i>{escape(label if len(label) < 3 else "")}</i>'
        "</span>"
        for label, share in zip(labels, inside.probabilities.tolist(), strict=True)
    )
    parts.append(f'<div class="of-stage"><div class="of-columns" aria-hidden="true">{bars}</div></div>')
    group = f'class="of-network" role="group" aria-label="{escape(say("recognise.live"))}" style="--saw:url({saw})"'
    return f"<div {group}>{''.join(parts)}</div>"


def _source(image: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode('ascii')}"
