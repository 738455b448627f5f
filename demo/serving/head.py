"""The head of the page that Streamlit serves for all addresses: title, language, style, and what a link shows where it is shared.

The style and a picture to begin with are in the page itself, so that the first paint does not wait for three megabytes of script and
nothing moves when Streamlit's elements come. Source: The Open Graph protocol, https://ogp.me
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"


TITLE = "onnxferry"


DESCRIPTION = "Draw a digit, let a network write Shakespeare, make and compress images: small ONNX models that run on your own computer."


CARD = "card.png"
"""What a shared link shows, 1200 × 630, taken by tests/bench/demo_screenshots.py; its address is beside the page's."""


_HOST = re.compile(r"[A-Za-z0-9.\-\[\]:]{1,255}")


@cache
def card() -> bytes:
    """The picture that a shared link shows, a PNG file's bytes; empty where there is none."""
    file = ASSETS / CARD
    return file.read_bytes() if file.is_file() else b""


def with_head(page: bytes, *, language: str = "en", root: str = "") -> bytes:
    """Streamlit's page with our head. ``root``: the address under which the pages are, without a slash at its end; "" if unknown."""
    rows = [
        ("name", "description", DESCRIPTION),
        ("name", "color-scheme", "light dark"),
        ("property", "og:title", TITLE),
        ("property", "og:description", DESCRIPTION),
        ("property", "og:type", "website"),
        ("property", "og:site_name", TITLE),
    ]
    if root and card():
        rows += [
            ("property", "og:url", f"{root}/"),
            ("property", "og:image", f"{root}/{CARD}"),
            ("property", "og:image:width", "1200"),
            ("property", "og:image:height", "630"),
            ("property", "og:image:alt", "The same digit read by PyTorch, by its ONNX file, and by the same file in 8 bits"),
            ("name", "twitter:card", "summary_large_image"),
        ]
    tags = "".join(f'<meta {kind}="{name}" content="{escape(value)}">' for kind, name, value in rows)
    head = f"<title>{TITLE}</title>{tags}<style>{_style()}</style>"
    made = page.replace(b"<title>Streamlit</title>", head.encode(), 1)
    if language == "zh":
        made = made.replace(b'<html lang="en">', b'<html lang="zh-CN">', 1)
    begin = f'<div id="root"><div class="of-begin">{_logo()}<p>{TITLE}</p></div></div>'
    return made.replace(b'<div id="root"></div>', begin.encode(), 1)


def asked_language(query: bytes, accepts: bytes) -> str:
    """``en`` or ``zh``, from an address's query and a browser's Accept-Language."""
    asked = re.search(rb"(?:^|&)lang=(en|zh)(?:&|$)", query)
    if asked:
        return asked[1].decode()
    return "zh" if accepts.strip().lower().startswith(b"zh") else "en"


def address(scheme: str, host: bytes, root_path: str) -> str:
    """Where the pages are, from what a request says; "" where its host is none."""
    name = host.decode("latin-1")
    return f"{'https' if scheme == 'https' else 'http'}://{name}{root_path.rstrip('/')}" if _HOST.fullmatch(name) else ""


@cache
def _style() -> str:
    return (ASSETS / "style.css").read_text(encoding="utf-8")


@cache
def _logo() -> str:
    return (ASSETS / "logo.svg").read_text(encoding="utf-8").strip()
