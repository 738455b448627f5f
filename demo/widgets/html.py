"""What the pages show, as HTML: images, bars, tables, a sheet of text. Functions from values to text; all that is not ours is escaped.

Numbers and names stand in the text as well as in a bar's length or an image, so that a screen reader and a monochrome eye get them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from onnxferry.demo.words.markdown import plain_markdown as plain_markdown


def png(image: np.ndarray) -> bytes:
    """A uint8 image (height, width), (height, width, 1 | 3 | 4) as a PNG file's bytes."""
    stream = BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(stream, format="PNG")
    return stream.getvalue()


def sprite(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (n, height, width[, 3]) as one image of ``columns`` a row, without gaps: what is left over is white."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    made = np.full((rows * height, columns * width, *images.shape[3:]), 255, np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        made[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    return made


def image(array: np.ndarray, alt: str, caption: str = "", *, badge: str = "") -> str:
    """One image with its caption. ``alt`` says what is on it. ``badge``: ``right`` or ``wrong`` marks its caption."""
    source = base64.b64encode(png(array)).decode("ascii")
    words = f'<figcaption class="of-{escape(badge or "plain")}">{escape(caption)}</figcaption>' if caption else ""
    return f'<figure class="of-image"><img alt="{escape(alt)}" src="data:image/png;base64,{source}">{words}</figure>'


def grid(images: Sequence[str], smallest: int = 72, *, name: str = "") -> str:
    """Figures from :func:`image` side by side, each at least ``smallest`` CSS pixels wide; they wrap on a narrow screen."""
    label = f' aria-label="{escape(name)}" role="group"' if name else ""
    return f'<div class="of-grid" style="--smallest:{int(smallest)}px"{label}>{"".join(images)}</div>'


def strip(images: Sequence[str], *, name: str = "") -> str:
    """Figures in one row that share the width."""
    label = f' aria-label="{escape(name)}" role="group"' if name else ""
    return f'<div class="of-strip"{label}>{"".join(images)}</div>'


def bars(labels: Sequence[str], shares: Sequence[float], *, title: str) -> str:
    """One horizontal bar a label; ``shares`` are 0 to 1. The longest is marked."""
    best = int(np.argmax(shares)) if len(shares) else -1
    rows = []
    for index, (label, share) in enumerate(zip(labels, shares, strict=True)):
        share = float(share)
        rows.append(
            f'<li class="{"of-best" if index == best else ""}"><span class="of-name">{escape(label)}</span>'
            f'<span class="of-track"><span class="of-fill" style="width:{100 * min(max(share, 0.0), 1.0):.2f}%"></span></span>'
            f'<span class="of-number">{percent(share)}</span></li>'
        )
    widest = max([1.4, *(0.56 * len(label) for label in labels)])
    return f'<ul class="of-bars" style="--name:{min(widest, 8):.1f}em" aria-label="{escape(title)}">{"".join(rows)}</ul>'


def scale_bars(rows: Sequence[tuple[str, float, str]], *, title: str) -> str:
    """As :func:`bars`, for rows of a name, a length 0 to 1, and the words for it; none is marked."""
    items = "".join(
        f'<li><span class="of-name">{escape(name)}</span><span class="of-track"><span class="of-fill" '
        f'style="width:{100 * min(max(length, 0.0), 1.0):.2f}%"></span></span><span class="of-number">{escape(words)}</span></li>'
        for name, length, words in rows
    )
    return f'<ul class="of-bars of-wide" aria-label="{escape(title)}">{items}</ul>'


def answer(label: str, note: str, *, sure: bool = True, reading: str = "") -> str:
    """The large answer of a page. Announced to screen readers when it changes. ``reading``: stands in the note's place while it is old."""
    small = f' style="font-size:{max(1.5, 9 / len(label)):.2f}rem"' if len(label) > 2 else ""
    return (
        f'<div class="of-answer{"" if sure else " of-unsure"}" role="status" aria-live="polite" data-reading="{escape(reading)}">'
        f"<strong{small}>{escape(label)}</strong><span>{escape(note)}</span></div>"
    )


def caption(words: str) -> str:
    """A line in small letters."""
    return f'<p class="of-caption">{escape(words)}</p>'


def meter(value: float, threshold: float, *, name: str, words: str) -> str:
    """A value on a line from 0 to twice its threshold or to itself, with a mark at the threshold."""
    end = max(2 * threshold, value * 1.05, 1e-12)
    state = "over" if value > threshold else "under"
    return (
        f'<div class="of-meter of-{state}" role="img" aria-label="{escape(name)}: {value:.4f}, threshold {threshold:.4f}">'
        f'<div class="of-track"><span class="of-fill" style="width:{100 * value / end:.2f}%"></span>'
        f'<span class="of-mark" style="left:{100 * threshold / end:.2f}%"></span></div>'
        f"<p>{escape(words)}</p></div>"
    )


def sheet(prompt: str, text: str, *, writing: bool = False, name: str = "The text") -> str:
    """A sheet of paper: the prompt, marked, and what was written after it. It shows its end while a text is written, or is long."""
    pen = '<span class="of-pen" aria-hidden="true"></span>' if writing else ""
    follow = " of-follow" if writing or len(text) > 1500 else ""
    return (
        f'<div class="of-sheet{follow}" tabindex="0" role="region" aria-label="{escape(name)}" aria-busy="{str(writing).lower()}">'
        f"<div><mark>{escape(prompt)}</mark>{escape(text)}{pen}</div></div>"
    )


def sparkline(values: Sequence[float], *, title: str) -> str:
    """A line from left to right; the highest value touches the top."""
    return _line(values, max([*values, 1e-6]), len(values), 46, title, "of-spark")


def curve(values: Sequence[float], *, title: str, words: str, span: int, top: float = 0.0) -> str:
    """A named line with its newest value in ``words``. ``span``: how many values the whole width is for. ``top``: at least its height."""
    line = _line(values, max([*values, top, 1e-6]), span, 80, f"{title}: {words}", "of-line")
    return f'<figure class="of-curve"><figcaption><b>{escape(title)}</b><span>{escape(words)}</span></figcaption>{line}</figure>'


def _line(values: Sequence[float], highest: float, span: int, height: int, title: str, style: str) -> str:
    """As an image: Streamlit takes drawings out of a page's HTML."""
    last = max(1, span - 1)
    points = " ".join(f"{1000 * i / last:.0f},{height - 2 - (height - 4) * value / highest:.1f}" for i, value in enumerate(values))
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {height}" width="1000" height="{height}" preserveAspectRatio="none">'
        f'<polyline points="{points}" fill="none" stroke="#d0622a" stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
    )
    source = base64.b64encode(drawing.encode()).decode("ascii")
    return f'<img class="{style}" alt="{escape(title)}" src="data:image/svg+xml;base64,{source}">'


def facts(rows: Mapping[str, object], *, name: str) -> str:
    """Names and values in two columns, as a region called ``name``. Empty values are left out."""
    body = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
        for key, value in rows.items()
        if value not in ("", None)
    )
    region = f'<div class="of-scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
    return f'{region}<table class="of-facts"><tbody>{body}</tbody></table></div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, name: str) -> str:
    """A table with a head; it scrolls sideways where the screen is narrow."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    return (
        f'<div class="of-scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table class="of-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def heat_table(columns: Sequence[str], rows: Sequence[str], shares: Sequence[Sequence[float]], *, name: str) -> str:
    """A table of shares 0 to 1, each cell the darker the larger its share; from 5 % on its number is written in it. It scrolls sideways."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    for row, values in zip(rows, shares, strict=True):
        cells = "".join(
            f'<td style="--heat:{min(max(value, 0.0), 1.0):.2f}">{round(100 * value) if value >= 0.05 else ""}</td>' for value in values
        )
        body.append(f'<tr><th scope="row">{escape(row)}</th>{cells}</tr>')
    return (
        f'<div class="of-scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table class="of-heat">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def leaning_words(pieces: Sequence[str], leans: Sequence[float], *, name: str) -> str:
    """A text in pieces, each coloured by how it leans, -1 to 1, the more the farther from 0; 0 for none."""
    spans = [
        f'<span class="{"for" if lean > 0 else "against"}" style="--heat:{min(abs(lean), 1.0):.2f}">{escape(piece)}</span>'
        if lean
        else escape(piece)
        for piece, lean in zip(pieces, leans, strict=True)
    ]
    return f'<p class="of-leaning" role="group" aria-label="{escape(name)}">{"".join(spans)}</p>'


def heading(title: str, lead: str) -> str:
    """A page's title and the one sentence under it."""
    return f'<header class="of-heading"><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>'


def percent(share: float) -> str:
    """0.9965 → ``99.65 %``, never rounded to a certainty, or to an impossibility, that it is not."""
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    if value >= 99.995 and share < 1:
        return "> 99.99 %"
    return f"{value:.2f} %" if value >= 99 else f"{value:.1f} %"
