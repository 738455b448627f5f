"""uvicorn's HTTP protocol with bounds: connections, bytes of a head, the time that a head takes, and how slowly a client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onnxferry.runtime.server.errors import RETRY_AFTER
from onnxferry.runtime.server.http.direct import TARGET, DirectInfer
from onnxferry.runtime.server.http.gate import Gate
from onnxferry.runtime.server.observe import tracing
from onnxferry.runtime.server.options import ServeOptions

_SLACK = 256 * 1024
"""Bytes that may come in one read beside a head: the body's, or the next request's."""


_LEAST_READ = 16 * 1024
"""Bytes of an answer that a client must take in ``header_timeout`` seconds."""


_LINGER = 2.0
"""Seconds in which what a client still sends is read and thrown away, after an answer that ends the connection."""


_MOST_LINGERING = 256
"""Connections that do so at a time."""


class LingeringTransport:
    """A connection whose ``close`` lets the client read the answer first.

    Closing a socket that holds unread bytes, the rest of a request that is refused, resets the connection, and the reset may overtake the
    answer (RFC 9112, 9.6). So only the sending half is closed; the client closes the other one, or it is closed after some time.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, lingering: set[Any]) -> None:
        self._transport, self._loop, self._lingering = transport, loop, lingering
        self._closing = False
        self.write = transport.write  # for every answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._transport.can_write_eof() or len(self._lingering) >= _MOST_LINGERING:  # TLS waits for the client by itself
            self.close_now()
            return
        self._closing = True
        self._lingering.add(self)
        self._transport.resume_reading()
        self._transport.write_eof()
        self._loop.call_later(_LINGER, self.close_now)

    def close_now(self) -> None:
        """Also where it lingers."""
        self._closing = True
        self._lingering.discard(self)
        self._transport.close()


class BoundedConfig(Config):
    """uvicorn's configuration with the bounds of a connection beside it, for every worker process."""

    def __init__(self, *arguments: Any, bounds: ServeOptions, **settings: Any) -> None:
        settings["http"] = BoundedProtocol
        super().__init__(*arguments, **settings)
        self.bounds = bounds
        self.latest: Any = None  # the connection that a request came by last
        self.lingering: set[Any] = set()  # connections that have been answered, and that the client has not closed yet
        self.gate: Gate | None = None  # where infer requests are answered by the connection itself

    def load(self) -> None:
        super().load()
        app: Any = self.loaded_app
        while not isinstance(gate := getattr(app, "gate", None), Gate) and hasattr(app, "app"):  # uvicorn's layers around it
            app = app.app
        self.gate = gate if isinstance(gate, Gate) and gate.repository is not None and not self.root_path else None


class BoundedProtocol(HttpToolsProtocol):
    """Closes what goes beyond its bounds: 503 for one connection too many, 431 for too large a head, 408 for one that never ends."""

    config: BoundedConfig

    def connection_made(self, transport: Any) -> None:
        super().connection_made(LingeringTransport(transport, self.loop, self.config.lingering))  # type: ignore[arg-type]
        self._head: int | None = 0  # bytes of the headers that have been read of a head; None: no head is being read
        self._raw = self._counted = 0
        self.url = b""
        self._again = False  # whether the request before this one came by this connection too
        self.lost: list[Callable[[], None]] = []  # called when the connection is lost
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None  # until the client must have taken some of an answer
        if len(self.connections) > self.config.bounds.max_connections:
            self._refuse(503, "Service Unavailable", "too many connections")
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done_waiting()
        self._has_read()
        self.transport.close_now()  # type: ignore[attr-defined]
        super().connection_lost(exc)
        for callback in list(self.lost):
            callback()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head is not None:
            self._raw += len(data)
        before = self.cycle
        idle = before is not None and before.response_complete
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head is None:
            if idle and self.cycle is before:  # these bytes begin no request
                self._wait()
        elif max(self._head_bytes(), self._raw - _SLACK) > self.config.bounds.header_bytes:
            self._refuse_head()
        else:  # it has begun, and has not ended
            self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = self._raw = self._counted = 0
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["onnxferry.abort"], scope["onnxferry.lost"], scope["onnxferry.lone"] = self.transport.abort, self.lost, self.is_lone
        self._again, self.config.latest = self.config.latest is self, self

    def on_headers_complete(self) -> None:
        self._done_waiting()
        size = self._head_bytes()
        self._head = None
        if size > self.config.bounds.header_bytes:
            self._refuse_head()
        elif direct := self._direct():
            self.cycle = direct
            direct.begin()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if type(cycle) is DirectInfer:
            cycle.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if type(cycle) is DirectInfer:
            cycle.complete()
        else:
            super().on_message_complete()

    def _direct(self) -> Any:
        """An infer request that needs no more than its answer; None for other requests, and for what uvicorn has to see to."""
        gate, parser = self.config.gate, self.parser
        if gate is None or gate.repository is None or (found := TARGET.fullmatch(self.url)) is None or parser.get_method() != b"POST":
            return None
        pipelined = self.cycle is not None and not self.cycle.response_complete
        if pipelined or self.expect_100_continue or self.flow.write_paused or parser.should_upgrade() or tracing():
            return None
        keep = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        return DirectInfer(gate, gate.repository, self, found[1], found[2], keep)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._must_read()

    def resume_writing(self) -> None:
        self._has_read()
        super().resume_writing()

    def _must_read(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.config.bounds.header_timeout, self._look_at_reader, left)

    def _has_read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _look_at_reader(self, before: int) -> None:
        """Cuts the connection of a client that takes next to nothing: its answer would stay in memory."""
        if before - self.transport.get_write_buffer_size() < _LEAST_READ:
            self.transport.abort()
        else:
            self._must_read()

    def is_lone(self) -> bool:
        """Whether this connection's request is the only one, and so was the one before it: two clients in turns are not alone."""
        return self._again and len(self.tasks) == 1

    def _head_bytes(self) -> int:
        """Of the head so far: the URL, and names and values."""
        new = (self.headers or [])[self._counted :]
        self._counted += len(new)
        self._head = (self._head or 0) + sum([len(name) + len(value) for name, value in new])
        return self._head + len(self.url)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.config.bounds.header_timeout, self._late)

    def _done_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._head is not None and (self._raw or self._head_bytes()):
            self._refuse(408, "Request Timeout", "the request's head did not come in time")
        else:
            self.transport.close_now()  # type: ignore[attr-defined]

    def shutdown(self) -> None:
        """The server stops: a connection without a request is closed, another one after its answer."""
        if self.transport.is_closing():  # it ends by itself
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close_now()  # type: ignore[attr-defined]
        else:
            super().shutdown()

    def _refuse_head(self) -> None:
        self._refuse(431, "Request Header Fields Too Large", f"the request's head is beyond {self.config.bounds.header_bytes} bytes")

    def _refuse(self, status: int, words: str, message: str) -> None:
        self._done_waiting()
        body = b'{"error": "%s"}' % message.encode()
        head = f"HTTP/1.1 {status} {words}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head += f"retry-after: {RETRY_AFTER:.0f}\r\n\r\n" if status == 503 else "\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()
