"""What every HTTP request passes first: its id, its caller, its bounds, its deadline; and what every one leaves: a log line and metrics."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import nullcontext
from typing import Any

from onnxferry.runtime.server.access import Access
from onnxferry.runtime.server.errors import RequestError, answered
from onnxferry.runtime.server.http.infer import HEADER, read_call, write_answer
from onnxferry.runtime.server.models import Repository
from onnxferry.runtime.server.observe import Observer, Request, request_id, span, trace_of, tracing
from onnxferry.runtime.server.options import ServeOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""What needs no token: a container's health check has none."""

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

Headers = Mapping[bytes, bytes]


class Gate:
    """The ASGI application around the routes. With a ``repository`` infer requests, most of a server's, are answered without them."""

    def __init__(
        self, routes: App, options: ServeOptions, access: Access, observer: Observer, repository: Repository | None = None
    ) -> None:
        self.routes, self.options, self.access, self.observer, self.repository = routes, options, access, observer, repository

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        trace, traceparent = trace_of(text_of(headers, b"traceparent"))
        request = Request("http", request_id(text_of(headers, b"x-request-id")), trace)
        exchange = _Exchange(scope, receive, send, self.options.max_body)
        exchange.extra = [(b"x-request-id", request.identity.encode())]
        if traceparent:
            exchange.extra.append((b"traceparent", traceparent.encode()))
        stop = Stop()
        scope["onnxferry"], scope["onnxferry.stop"] = request, stop
        try:
            stop.after(self.admit(scope["path"], headers, request))
            with span(scope["method"], scope["path"], headers) if tracing() else _NOTHING:
                if self.repository is not None and (infer := _INFER.fullmatch(scope["path"])):
                    await self._infer(self.repository, infer[1], infer[2], headers, request, exchange)
                else:
                    await self.routes(scope, exchange.receive, exchange.send)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 (every error is answered; a bug goes to the log with its traceback)
            error = stop.reason_of(raised)
            names = self.repository.private_names if self.repository is not None else []
            answer, request.traceback = answered(error, names, request.identity)
            request.error = str(answer)
            await exchange.fail(answer)
        finally:
            stop.end()
            self.observer.done(
                request,
                exchange.status,
                bool(request.traceback) or exchange.status >= 500,
                method=scope["method"],
                path=scope["path"],
                bytes_in=exchange.taken,
            )

    def admit(self, path: str, headers: Headers, request: Request) -> float:
        """The seconds that a request may take, by its head. Raises RequestError for one that is refused."""
        if path not in OPEN_PATHS:
            request.caller = self.access.caller(text_of(headers, b"authorization"))
            request.caller.admit()
        _refuse_encoding(text_of(headers, b"content-encoding"))
        length = text_of(headers, b"content-length")
        if length is not None and length.isdecimal() and int(length) > self.options.max_body:
            raise RequestError(413, f"the body has {length} bytes, more than the {self.options.max_body} that are taken")
        return _deadline(text_of(headers, b"x-request-timeout"), self.options.timeout)

    async def _infer(
        self, repository: Repository, name: str, version: str | None, headers: Headers, request: Request, exchange: _Exchange
    ) -> None:
        if exchange.scope["method"] != "POST":
            raise RequestError(405, f"{exchange.scope['path'][:200]} does not take {exchange.scope['method'][:20]}")
        body = await exchange.body()
        request.route = "infer"
        served = repository.find_for(request, name, version)
        call = read_call(served, body, text_of(headers, HEADER))
        request.rows = call.rows
        if call.timeout is not None:
            exchange.scope["onnxferry.stop"].after(call.timeout)
        answer = await while_connected(exchange.scope, exchange.receive, served.infer(call.feeds, call.outputs, is_lone(exchange.scope)))
        await exchange.answer(200, *write_answer(served, call, answer))


_NOTHING = nullcontext()


def text_of(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


class _Exchange:
    """One request and its answer: counts the body, and knows whether the answer has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        self.scope, self._receive, self._send, self.max_body = scope, receive, send, max_body
        self.taken = 0
        self.status = 0
        self.ended = False
        self.extra: list[tuple[bytes, bytes]] = []

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.taken += len(message.get("body", b""))
            check_taken(self.taken, self.max_body)
        return message

    async def body(self) -> bytes:
        """All of it."""
        message = await self.receive()
        parts = [message.get("body", b"")]
        while message.get("more_body", False):
            message = await self.receive()
            parts.append(message.get("body", b""))
        if message["type"] != "http.request":
            raise RequestError(499, "the client has gone")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def answer(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """A whole answer; ``headers``: besides its length."""
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self.extra]}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: RequestError) -> None:
        """The protocol's error form; where the answer has begun, the connection is cut instead."""
        if self.status and not self.ended:
            self.scope.get("onnxferry.abort", lambda: None)()
            return
        if self.ended:
            return
        try:
            async with asyncio.timeout(5):
                await self.answer(error.status, *error_form(error))
        except TimeoutError:
            self.scope.get("onnxferry.abort", lambda: None)()


def check_taken(taken: int, max_body: int) -> None:
    """Raises RequestError 413 for a body that turns out to be too large."""
    if taken > max_body:
        raise RequestError(413, f"the body is beyond the {max_body} bytes that are taken")


def error_form(error: RequestError) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The protocol's form of an error: body and headers."""
    headers = [(b"content-type", b"application/json")]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413, 504):
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    return json.dumps({"error": str(error)}).encode(), headers


def _refuse_encoding(encoding: str | None) -> None:
    """Raises RequestError 415 for a compressed body: a few bytes of it may become any number."""
    if encoding is not None and encoding.strip().lower() not in ("identity", ""):
        raise RequestError(415, f"a body with the content-encoding {encoding[:40]!r} is not taken; send it as it is")


def _deadline(given: str | None, longest: float) -> float:
    """The client's own deadline in seconds, but not beyond the server's."""
    if given is None:
        return longest
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise RequestError(400, f"x-request-timeout must be a number of seconds above 0, got {given[:40]!r}")
    return min(seconds, longest)


class Stop:
    """Ends a request before its answer: cancels its task, and knows why. (``asyncio.timeout`` does one half, at several times the cost.)"""

    def __init__(self) -> None:
        self.task: Any = asyncio.current_task()
        self.reason: Exception | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def __call__(self, reason: Exception) -> None:
        if self.reason is None:
            self.reason = reason
            self.task.cancel()

    def after(self, seconds: float) -> None:
        """At a deadline; the earliest of several counts."""
        self._timers.append(asyncio.get_running_loop().call_later(seconds, self, TimeoutError()))

    @property
    def left(self) -> float:
        """Seconds until the earliest deadline."""
        return min(timer.when() for timer in self._timers) - asyncio.get_running_loop().time()

    def gone(self) -> None:
        """The client has closed the connection."""
        self(RequestError(499, "the client has gone"))

    def reason_of(self, raised: BaseException) -> Exception:
        """The error to answer with. Raises a cancellation that is not from here again."""
        self.end()
        if self.reason is not None:
            self.task.uncancel()
            return self.reason
        if isinstance(raised, Exception):
            return raised
        raise raised

    def end(self) -> None:
        """Nothing is stopped any more."""
        for timer in self._timers:
            timer.cancel()


def is_lone(scope: Scope) -> bool:
    """Whether this request is known to be the only one that is under way."""
    lone: Callable[[], bool] | None = scope.get("onnxferry.lone")
    return lone is not None and lone()


async def while_connected(scope: Scope, receive: Receive, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled when the client goes. The body must have been read."""
    stop: Stop = scope["onnxferry.stop"]
    lost: list[Callable[[], None]] | None = scope.get("onnxferry.lost")
    if lost is not None:  # our own protocol says when the connection is lost
        lost.append(stop.gone)
        try:
            return await work
        finally:
            lost.remove(stop.gone)
    watch = asyncio.ensure_future(_gone(receive, stop))
    try:
        return await work
    finally:
        watch.cancel()


async def _gone(receive: Receive, stop: Stop) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop.gone()
