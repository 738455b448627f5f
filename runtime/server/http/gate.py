"""What every HTTP request passes first: its id, its caller, its bounds, its deadline; and what every one leaves: a log line and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

from onnxferry.runtime.server.access import Access
from onnxferry.runtime.server.errors import RequestError, answered
from onnxferry.runtime.server.models import Repository
from onnxferry.runtime.server.observe import Log, Metrics, request_id, span, trace_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""What needs no token: a container's health check has none."""


class Gate:
    """The ASGI application around the routes."""

    def __init__(self, routes: App, repository: Repository, access: Access, metrics: Metrics, log: Log) -> None:
        self.routes, self.repository, self.access, self.metrics, self.log = routes, repository, access, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = _Exchange(scope, receive, send, self.repository.options.max_body)
        trace, traceparent = trace_of(headers.get("traceparent"))
        identity = request_id(headers.get("x-request-id"))
        exchange.extra = [(b"x-request-id", identity.encode())]
        if traceparent:
            exchange.extra.append((b"traceparent", traceparent.encode()))
        held = ExitStack()
        facts: dict[str, Any] = {"held": held}  # what the route finds out: model, version, rows; and the models that it keeps open
        scope["onnxferry"] = facts
        bug = ""
        try:
            if scope["path"] not in OPEN_PATHS:
                caller = self.access.caller(headers.get("authorization"))
                caller.admit()
                facts["caller"] = caller
            _refuse_encoding(headers.get("content-encoding", "identity"))
            exchange.check_length(headers.get("content-length"))
            deadline = _deadline(headers.get("x-request-timeout"), self.repository.options.timeout)
            async with asyncio.timeout(deadline):
                with span(f"{scope['method']} {scope['path']}", headers):
                    await self.routes(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 (every error is answered; what is a bug goes to the log with its traceback)
            answer, bug = answered(error, self.repository.private_names, identity)
            await exchange.fail(answer)
        finally:
            held.close()
            self._record(scope, exchange, facts, time.perf_counter() - begun, identity, trace, bug)

    def _record(
        self, scope: Scope, exchange: _Exchange, facts: dict[str, Any], seconds: float, identity: str, trace: str, bug: str
    ) -> None:
        model, version = facts.get("model", ""), facts.get("version", "")
        route = facts.get("route", "other")
        self.metrics.requests.labels("http", route, model, version, str(exchange.status)).inc()
        self.metrics.seconds.labels(route, model, version).observe(seconds)
        if "rows" in facts:
            self.metrics.rows.labels(model, version).observe(facts["rows"])
        if self.repository.options.log or bug or exchange.status >= 500:
            caller = facts.get("caller")
            self.log.write(
                "request",
                request_id=identity,
                trace_id=trace,
                method=scope["method"],
                path=scope["path"],
                status=exchange.status,
                ms=round(seconds * 1e3, 2),
                model=model,
                version=version,
                caller=caller.name if caller else "",
                bytes_in=exchange.taken,
                error=exchange.error,
                traceback=bug,
            )


class _Exchange:
    """One request and its answer: counts the body, and knows whether the answer has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        self.scope, self._receive, self._send, self.max_body = scope, receive, send, max_body
        self.taken = 0
        self.status = 0
        self.error = ""
        self.ended = False
        self.extra: list[tuple[bytes, bytes]] = []

    def check_length(self, length: str | None) -> None:
        """Raises RequestError 413 for a body that says itself that it is too large."""
        if length is not None and length.isdecimal() and int(length) > self.max_body:
            raise RequestError(413, f"the body has {length} bytes, more than the {self.max_body} that are taken")

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.taken += len(message.get("body", b""))
            if self.taken > self.max_body:
                raise RequestError(413, f"the body is beyond the {self.max_body} bytes that are taken")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self.extra]}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: RequestError) -> None:
        """The protocol's error form; where the answer has begun, the connection is cut instead."""
        self.error = str(error)
        if self.status and not self.ended:
            self.scope.get("onnxferry.abort", lambda: None)()
            return
        if self.ended:
            return
        body = json.dumps({"error": str(error)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if error.retry_after is not None:
            headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if error.status in (408, 413, 504):
            headers.append((b"connection", b"close"))  # what is left of the body is not read
        try:
            async with asyncio.timeout(5):
                await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
                await self.send({"type": "http.response.body", "body": body})
        except TimeoutError:
            self.scope.get("onnxferry.abort", lambda: None)()


def _refuse_encoding(encoding: str) -> None:
    """Raises RequestError 415 for a compressed body: a few bytes of it may stand for any number."""
    if encoding.strip().lower() not in ("identity", ""):
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


async def while_connected(receive: Receive, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled when the client goes. The body must have been read."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=0.02)
        if done:
            return task.result()
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if task.done():
            return task.result()
        raise RequestError(499, "the client has gone")
    finally:
        if not task.done():
            task.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
