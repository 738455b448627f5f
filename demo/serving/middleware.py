"""ASGI middleware around Streamlit: response headers, the head of the page, what a browser runs itself, and a bound on uploads in memory.

Source of the headers: W3C, "Content Security Policy Level 3"; WHATWG, "HTML", X-Frame-Options.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware
from streamlit.runtime import Runtime

from onnxferry.demo.serving.head import CARD, address, asked_language, card, with_head
from onnxferry.demo.shipped.in_browser import FOLDER, browser_files

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


POLICY = "; ".join(
    (
        "default-src 'self'",
        # Streamlit's own page has inline scripts and styles, and components are loaded from blobs.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""No address but the server's own can be reached from a page, whatever an uploaded file has for a name."""


HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


UPLOADS_HELD = 768 * 2**20
"""Bytes of uploaded files of all visitors together: they lie in memory until their visitor leaves."""


class Headers:
    """Adds HEADERS to every response, and our head to the page that Streamlit serves for all addresses; serves the card of shared links."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        fields = dict(scope["headers"])
        start: Message = {}
        body = bytearray()
        page = False

        async def sends(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start":
                ours = {name.encode(): value.encode() for name, value in HEADERS.items()}
                message["headers"] = [(k, v) for k, v in message.get("headers", []) if k.lower() not in ours] + list(ours.items())
                sent = {k.lower(): v for k, v in message["headers"]}
                page = sent.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in sent
                if page:  # its length is not known yet
                    start = message
                    return
            elif page and message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                made = bytes(body)
                if scope["method"] == "GET":
                    language = asked_language(scope.get("query_string", b""), fields.get(b"accept-language", b""))
                    root = address(scope.get("scheme", "http"), fields.get(b"host", b""), _root(scope["path"]))
                    made = with_head(made, language=language, root=root)
                    kept = [(k, v) for k, v in start["headers"] if k.lower() not in (b"content-length", b"etag")]
                    start["headers"] = [*kept, (b"content-length", str(len(made)).encode())]
                await send(start)
                await send({"type": "http.response.body", "body": made})
                return
            await send(message)

        if scope["method"] in ("GET", "HEAD") and scope["path"].rsplit("/", 1)[-1] == CARD and card():
            await sends(_head(200, b"image/png", len(card())))
            await sends({"type": "http.response.body", "body": card() if scope["method"] == "GET" else b""})
            return
        # Nothing is to be compressed before the head is in: the page is 8 kB, and everything else keeps its encoding.
        if scope["method"] == "GET" and "." not in scope["path"].rsplit("/", 1)[-1] and "/_stcore/" not in scope["path"]:
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k.lower() != b"accept-encoding"]}
        await self.app(scope, receive, sends)


class InBrowser:
    """Serves what a visitor's browser needs to run a shipped model itself, at ``in-browser/DIGEST/NAME`` beside the pages."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _IN_BROWSER.search(scope["path"]) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        if asked is None:
            await self.app(scope, receive, send)
            return
        found = await asyncio.to_thread(browser_files)  # the first call reads them
        if found is None or asked[1] != found.digest or asked[2] not in found.files:
            await _refuse(send, 404, "There is no such file. Load the page again.")
            return
        data = found.files[asked[2]]
        start = _head(200, _KINDS.get(asked[2].rpartition(".")[2], b"application/octet-stream"), len(data))
        start["headers"].append((b"cache-control", b"public, max-age=31536000, immutable"))  # the address names the bytes
        await send(start)
        await send({"type": "http.response.body", "body": data if scope["method"] == "GET" else b""})


_IN_BROWSER = re.compile(rf"/{FOLDER}/([0-9a-f]{{16}})/([\w.\-]+)\Z")


_KINDS = {"mjs": b"text/javascript; charset=utf-8", "wasm": b"application/wasm", "LICENSE": b"text/plain; charset=utf-8"}
"""By what a name ends with. Browsers compile WebAssembly as it arrives if it is named so."""


class UploadBound:
    """Refuses an upload that would bring all visitors' files together above ``held`` bytes (HTTP 413), or does not say its size (411)."""

    def __init__(self, app: Asgi, held: int = UPLOADS_HELD, in_memory: Callable[[], int] | None = None) -> None:
        self.app, self.held = app, held
        self._in_memory = in_memory or uploads_in_memory
        self._arriving = 0  # bytes of uploads that are on their way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("PUT", "POST") or "/_stcore/upload_file/" not in scope["path"]:
            await self.app(scope, receive, send)
            return
        length = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
        if not length.isdigit():
            await _refuse(send, 411, "An upload has to say its size.")
            return
        size = int(length)
        if self._in_memory() + self._arriving + size > self.held:
            await _refuse(send, 413, f"All uploads together may hold {self.held // 2**20} MB here. Try a smaller file, or try again later.")
            return
        self._arriving += size
        try:
            await self.app(scope, receive, send)
        finally:
            self._arriving -= size


def uploads_in_memory() -> int:
    """Bytes of the files that Streamlit holds for all sessions of this server."""
    manager: Any = Runtime.instance().uploaded_file_mgr
    return sum(each.byte_length for stats in manager.get_stats().values() for each in stats)


def _root(path: str) -> str:
    """What a page's path begins with before its own name: the base path that the server was given."""
    return path.rsplit("/", 1)[0]


def _head(status: int, kind: bytes, length: int) -> Message:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", kind), (b"content-length", str(length).encode())],
    }


async def _refuse(send: Send, status: int, words: str) -> None:
    body = words.encode()
    await send(_head(status, b"text/plain; charset=utf-8", len(body)))
    await send({"type": "http.response.body", "body": body})


MIDDLEWARE = [Middleware(Headers), Middleware(InBrowser), Middleware(UploadBound)]
"""In the order in which a request meets them."""
