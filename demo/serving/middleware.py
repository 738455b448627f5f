"""ASGI middleware around Streamlit: response headers, the head of the first page, and a bound on what uploads hold in memory.

Source of the headers: W3C, "Content Security Policy Level 3"; WHATWG, "HTML", X-Frame-Options.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any

from starlette.middleware import Middleware
from streamlit.runtime import Runtime

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


TITLE = "onnxferry"


DESCRIPTION = "Draw a digit, let a network write Shakespeare, make and compress images: small ONNX models that run on your own computer."


class Headers:
    """Adds HEADERS to every response, and title and description to the page that Streamlit serves for all addresses."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()
        page = False

        async def sends(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start":
                ours = {name.encode(): value.encode() for name, value in HEADERS.items()}
                message["headers"] = [(k, v) for k, v in message.get("headers", []) if k.lower() not in ours] + list(ours.items())
                fields = {k.lower(): v for k, v in message["headers"]}
                page = fields.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in fields
                if page:  # its length is not known yet
                    start = message
                    return
            elif page and message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                made = with_head(bytes(body)) if scope["method"] == "GET" else bytes(body)
                if scope["method"] == "GET":
                    kept = [(k, v) for k, v in start["headers"] if k.lower() not in (b"content-length", b"etag")]
                    start["headers"] = [*kept, (b"content-length", str(len(made)).encode())]
                await send(start)
                await send({"type": "http.response.body", "body": made})
                return
            await send(message)

        # Nothing is to be compressed before the head is in: the page is 8 kB, and everything else keeps its encoding.
        if scope["method"] == "GET" and "." not in scope["path"].rsplit("/", 1)[-1] and "/_stcore/" not in scope["path"]:
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k.lower() != b"accept-encoding"]}
        await self.app(scope, receive, sends)


def with_head(page: bytes) -> bytes:
    """Streamlit's page with our title, and what a link shows where it is shared (Open Graph)."""
    tags = "".join(
        f'<meta {kind}="{name}" content="{escape(value)}">'
        for kind, name, value in (
            ("name", "description", DESCRIPTION),
            ("property", "og:title", TITLE),
            ("property", "og:description", DESCRIPTION),
            ("property", "og:type", "website"),
        )
    )
    return page.replace(b"<title>Streamlit</title>", f"<title>{TITLE}</title>{tags}".encode(), 1)


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


async def _refuse(send: Send, status: int, words: str) -> None:
    body = words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


MIDDLEWARE = [Middleware(Headers), Middleware(UploadBound)]
"""In the order in which a request meets them."""
