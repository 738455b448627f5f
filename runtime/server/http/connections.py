"""uvicorn's HTTP protocol with bounds: connections, bytes of a request's head, and the time that a head may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onnxferry.runtime.server.options import ServeOptions

_SLACK = 256 * 1024
"""Bytes that may come in one read beside a head: the body's, or the next request's."""


class BoundedConfig(Config):
    """uvicorn's configuration with the bounds of a connection beside it, for every worker process."""

    def __init__(self, *arguments: Any, bounds: ServeOptions, **settings: Any) -> None:
        settings["http"] = BoundedProtocol
        super().__init__(*arguments, **settings)
        self.bounds = bounds


class BoundedProtocol(HttpToolsProtocol):
    """Closes what goes beyond its bounds: 503 for one connection too many, 431 for too large a head, 408 for one that never ends."""

    config: BoundedConfig

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head: int | None = 0  # bytes of the head that is being read; None: no head is
        self._raw = 0
        self._lost: list[Callable[[], None]] = []  # called when the connection is lost
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.config.bounds.max_connections:
            self._refuse(503, "Service Unavailable", "too many connections")
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done_waiting()
        super().connection_lost(exc)
        for callback in list(self._lost):
            callback()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head is not None:
            self._raw += len(data)
        super().data_received(data)
        if (
            self._head is not None
            and max(self._head, self._raw - _SLACK) > self.config.bounds.header_bytes
            and not self.transport.is_closing()
        ):
            self._refuse(431, "Request Header Fields Too Large", f"the request's head is beyond {self.config.bounds.header_bytes} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = self._raw = 0
        self._wait()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["onnxferry.abort"], scope["onnxferry.lost"] = self.transport.abort, self._lost

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head = (self._head or 0) + len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head = (self._head or 0) + len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._done_waiting()
        too_large = (self._head or 0) > self.config.bounds.header_bytes
        self._head = None
        if too_large:
            self._refuse(431, "Request Header Fields Too Large", f"the request's head is beyond {self.config.bounds.header_bytes} bytes")
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.config.bounds.header_timeout, self._late)

    def _done_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._raw or self._head:
            self._refuse(408, "Request Timeout", "the request's head did not come in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, words: str, message: str) -> None:
        self._done_waiting()
        body = b'{"error": "%s"}' % message.encode()
        head = f"HTTP/1.1 {status} {words}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()
