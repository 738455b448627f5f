"""Infer requests that uvicorn's protocol answers itself, in callbacks of the event loop.

They pass what :mod:`onnxferry.runtime.server.http.gate` has every request pass. A task, a scope and messages for each, and an answer in two
writes, took longer than all else that the server does for a small request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

import numpy as np

from onnxferry.runtime.server.errors import RETRY_AFTER, RequestError, answered
from onnxferry.runtime.server.http.gate import Gate, check_taken, error_form, text_of
from onnxferry.runtime.server.http.infer import HEADER, InferCall, read_call, write_answer
from onnxferry.runtime.server.models import Repository, ServedModel
from onnxferry.runtime.server.observe import Request, request_id, trace_of
from onnxferry.runtime.server.scheduling import Call

TARGET = re.compile(rb"/v2/models/([A-Za-z0-9._-]+)(?:/versions/([A-Za-z0-9._-]+))?/infer")

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus} | {
    499: b"HTTP/1.1 499 Client Closed Request\r\n"
}


class Connection(Protocol):
    """What a request needs of its connection."""

    loop: asyncio.AbstractEventLoop
    transport: Any
    tasks: Any  # what is under way in the server, which waits for it when it stops, and cancels it
    headers: list[tuple[bytes, bytes]]
    url: bytes
    lost: list[Callable[[], None]]  # called when the connection is lost

    def is_lone(self) -> bool:
        """Whether no other request is under way or expected."""

    def on_response_complete(self) -> None:
        """The next request may begin."""


class _NoEvent:
    """In place of the event that uvicorn's cycle waits for."""

    def set(self) -> None:
        """Nothing waits."""


class DirectInfer:
    """One infer request and its answer. To the connection it is what uvicorn's cycle is, and to the server what that one's task is."""

    message_event = _NoEvent()

    def __init__(self, gate: Gate, repository: Repository, connection: Connection, name: bytes, version: bytes | None, keep: bool) -> None:
        self.gate, self.repository, self.connection = gate, repository, connection
        self.name, self.version = name.decode(), None if version is None else version.decode()
        self.path = connection.url.decode()
        self.headers = dict(connection.headers)
        self.keep_alive = keep
        self.disconnected = self.response_complete = False  # uvicorn's names
        self._parts: list[bytes] = []
        self._taken = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._reason: Exception | None = None  # why the request was stopped
        self._call: Call | None = None
        self._asked: tuple[ServedModel, InferCall] | None = None
        trace, self._traceparent = trace_of(text_of(self.headers, b"traceparent"))
        self.request = Request("http", request_id(text_of(self.headers, b"x-request-id")), trace)

    def begin(self) -> None:
        """The head is complete."""
        self.connection.tasks.add(self)
        self.connection.lost.append(self._gone)
        try:
            self._stop_after(self.gate.admit(self.path, self.headers, self.request))
        except Exception as raised:  # noqa: BLE001 (every error is answered; a bug goes to the log with its traceback)
            self._fail(raised)

    def take(self, body: bytes) -> None:
        """A part of the body."""
        if self.response_complete:
            return
        self._taken += len(body)
        self._parts.append(body)
        try:
            check_taken(self._taken, self.gate.options.max_body)
        except RequestError as error:
            self._fail(error)

    def complete(self) -> None:
        """The body is complete."""
        if self.response_complete:
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        try:
            self.request.route = "infer"
            served = self.repository.find_for(self.request, self.name, self.version)
            asked = read_call(served, body, text_of(self.headers, HEADER))
            self.request.rows = asked.rows
            if asked.timeout is not None:
                self._stop_after(asked.timeout)
            self._asked = served, asked
            call = served.submit(asked.feeds, asked.outputs, self._done, self.connection.is_lone())
            if not call.over:
                self._call = call
        except Exception as raised:  # noqa: BLE001 (as above)
            self._fail(raised)

    def cancel(self, msg: object = None) -> None:
        """The server stops, and has waited long enough. Not at once: it goes through all that is under way as it calls this."""
        stopped = RequestError(503, "the server stops", RETRY_AFTER)
        self.connection.loop.call_soon(self._stop, stopped)

    def _stop_after(self, seconds: float) -> None:
        self._timers.append(self.connection.loop.call_later(seconds, self._stop, TimeoutError()))

    def _gone(self) -> None:
        self._stop(RequestError(499, "the client has gone"))

    def _stop(self, reason: Exception) -> None:
        if self.response_complete:
            return
        self._reason = self._reason or reason
        if self._call is not None and not self._call.over:
            self._call.cancel()
        else:
            self._fail(self._reason)

    def _done(self, found: dict[str, np.ndarray] | None, error: BaseException | None) -> None:
        if self.response_complete or self._asked is None:
            return
        if found is None:
            stopped = error if isinstance(error, Exception) else RequestError(503, "the run was stopped", RETRY_AFTER)
            self._fail(self._reason or stopped)
            return
        try:
            self._answer(200, *write_answer(*self._asked, found))
        except Exception as raised:  # noqa: BLE001 (as above)
            self._fail(raised)

    def _fail(self, error: Exception) -> None:
        if self.response_complete:
            return
        answer, self.request.traceback = answered(error, self.repository.private_names, self.request.identity)
        self.request.error = str(answer)
        self._answer(answer.status, *error_form(answer))

    def _answer(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Head and body in one write: two are two packets, which wake the client twice."""
        self.response_complete = True
        self._call = self._asked = None  # the connection holds this until its next request, which may never come
        self._parts = []
        connection = self.connection
        if not connection.transport.is_closing():
            head = [_STATUS.get(status) or b"HTTP/1.1 %d Error\r\n" % status]
            for name, value in headers:
                head += (name, b": ", value, b"\r\n")
                if name == b"connection":
                    self.keep_alive = False
            if not self.keep_alive and (b"connection", b"close") not in headers:
                head.append(b"connection: close\r\n")
            head.append(b"content-length: %d\r\nx-request-id: %b\r\n" % (len(body), self.request.identity.encode()))
            if self._traceparent:
                head.append(b"traceparent: %b\r\n" % self._traceparent.encode())
            connection.transport.write(b"".join((*head, b"\r\n", body)))
            if not self.keep_alive:
                connection.transport.close()
        for timer in self._timers:
            timer.cancel()
        connection.tasks.discard(self)
        connection.lost.remove(self._gone)
        failed = bool(self.request.traceback) or status >= 500
        self.gate.observer.done(self.request, status, failed, method="POST", path=self.path, bytes_in=self._taken)
        connection.on_response_complete()
