"""A front that holds each request until one of several replicas has answered it, so that a replica may end at any time.

Inference changes nothing, so a request whose replica has ended is sent to another. A stream that has begun is made again from its
beginning, with the same seed, and what the client has already is left out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple, Protocol

from onnxferry.runtime.server.errors import RequestError
from onnxferry.runtime.server.http.gate import Message, Receive, Scope, Send, Stop, while_connected
from onnxferry.runtime.server.observe import Metrics, Request

MOST_LOST = 3
"""Replicas that may end while they work on one request: after that, the request is taken for the reason."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds before a request is sent again; doubled each time."""

_PLACE = re.compile(r"/(?:v2/models|v2/repository/models|predict|generate|sample|run)/([^/]+)(?:/versions/([^/]+))?(?:/([a-z_]+))?")

_STREAMS = re.compile(r"/generate/[^/]+|/v2/models/.*/generate_stream")

_OWN = (b"x-request-timeout", b"x-request-id", b"content-length", b"transfer-encoding", b"connection", b"expect")
"""Headers that are not passed on as they came."""

Headers = list[tuple[bytes, bytes]]


class Asked(NamedTuple):
    """A request on its way to a replica."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes

    @property
    def may_stream(self) -> bool:
        """Whether its answer may come piece by piece."""
        return _STREAMS.fullmatch(self.path) is not None

    def scope(self) -> Scope:
        """For an ASGI application."""
        path = self.path.encode("utf-8", "surrogateescape")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "server": None,
            "client": None,
            "root_path": "",
            "method": self.method,
            "path": self.path,
            "raw_path": path,
            "query_string": self.query,
            "headers": self.headers,
        }


class Part(NamedTuple):
    """A piece of an answer. Status and headers are those of the first; ``more``: another piece follows."""

    status: int
    headers: Headers
    body: bytes
    more: bool


class ReplicaLostError(Exception):
    """Within the front: the replica that a request was sent to did not answer it, and another may. ``replica``: which, if it has ended."""

    def __init__(self, replica: str = "") -> None:
        super().__init__(replica)
        self.replica = replica


class Replicas(Protocol):
    """What answers the requests."""

    def ask(self, asked: Asked) -> AsyncGenerator[Part, None]:
        """The answer of a replica, whichever is free. Raises ReplicaLostError, or RequestError for what another would not answer either."""


class Relay:
    """The routes of the front: all go to the replicas, but for its own metrics and for whether it lives."""

    def __init__(self, replicas: Replicas, metrics: Metrics) -> None:
        from prometheus_client import Counter

        self.replicas, self.metrics = replicas, metrics
        self._again = Counter("asked_again", "Requests sent to another replica", registry=metrics.registry, namespace="onnxferry")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request = scope["onnxferry"]
        if scope["path"] == "/metrics":
            request.route = "metrics"
            content, kind = self.metrics.page()
            await _whole(send, content, kind.encode())
            return
        if scope["path"] == "/v2/health/live":
            request.route = "live"
            await _whole(send, b'{"live": true}', b"application/json")
            return
        if place := _PLACE.fullmatch(scope["path"]):
            request.check_model(place[1])
            request.route = place[3] or ("metadata" if scope["path"].startswith("/v2") else scope["path"].split("/")[1])
        body = await _body(receive)
        headers = [(name, value) for name, value in scope["headers"] if name not in _OWN]
        headers += [(b"x-request-id", request.identity.encode()), (b"content-length", b"%d" % len(body))]
        asked = Asked(scope["method"], scope["path"], scope["query_string"], headers, body)
        answer = _Answer(send)
        await while_connected(scope, receive, self._until_answered(asked, answer, scope["onnxferry.stop"]))
        if place and answer.status < 400:  # names that there are not would fill the metrics
            request.model, request.version = place[1], place[2] or ""

    async def _until_answered(self, asked: Asked, answer: _Answer, stop: Stop) -> None:
        pause, lost = _FIRST_PAUSE, set[str]()
        while True:
            left = b"%.3f" % max(0.001, stop.left)
            try:
                asked_now = asked._replace(headers=[*asked.headers, (b"x-request-timeout", left)])
                async with aclosing(self.replicas.ask(asked_now)) as parts:
                    async for part in parts:
                        await answer.take(part)
                return
            except ReplicaLostError as error:
                if error.replica:
                    lost.add(error.replica)
                if len(lost) >= MOST_LOST:
                    raise RequestError(500, f"{MOST_LOST} replicas have ended while they worked on this request") from error
            self._again.inc()
            answer.again()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class _Answer:
    """What the client gets: each byte once, also where the answer is made a second time."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self._sent = bytearray()  # kept for an answer in several pieces
        self._made = 0  # bytes of the answer that is being made, up to what was sent

    async def take(self, part: Part) -> None:
        """A piece of the answer. Raises RequestError where the second answer is not the first one's continuation."""
        if part.status and not self.status:
            self.status = part.status
            own = (b"x-request-id", b"traceparent", b"connection")  # the front's own are sent
            headers = [(name, value) for name, value in part.headers if name.lower() not in own]
            await self._send({"type": "http.response.start", "status": part.status, "headers": headers})
        elif part.status and part.status != self.status:
            raise RequestError(503, "the answer had begun, and no replica could go on with it")
        known = self._sent[self._made : self._made + len(part.body)]
        if not part.body.startswith(known):
            raise RequestError(503, "the answer had begun, and another replica would go on with another")
        new = part.body[len(known) :]
        self._made += len(part.body)
        if new or not part.more:
            if part.more:
                self._sent += new
            await self._send({"type": "http.response.body", "body": new, "more_body": part.more})

    def again(self) -> None:
        """The answer is made from its beginning."""
        self._made = 0


async def answer_in_parts(app: object, asked: Asked) -> AsyncGenerator[Part, None]:
    """An ASGI application's answer to a request, as it is made. Leaving the loop cancels it."""
    parts: asyncio.Queue[Part | None] = asyncio.Queue()
    start: list[Message] = []
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # the front cancels a request that no client waits for
        given = True
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.append(message)
            return
        begun: Message = start.pop() if start else {"status": 0, "headers": []}
        more = message.get("more_body", False)
        parts.put_nowait(Part(begun["status"], list(begun["headers"]), bytes(message.get("body", b"")), more))

    async def run() -> None:
        try:
            await app(asked.scope(), receive, send)  # type: ignore[operator]
        finally:
            parts.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        while (part := await parts.get()) is not None:
            yield part
        await task
    finally:
        task.cancel()


async def _whole(send: Send, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise RequestError(499, "the client has gone")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
