"""Connections: which request is alone in the server, and bytes that begin none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.server import ServerState

from onnxferry.runtime.server.http import connections
from onnxferry.runtime.server.http.connections import BoundedConfig
from onnxferry.runtime.server.options import ServeOptions, model_source


@asynccontextmanager
async def listening(app: Any, **bounds: Any) -> AsyncIterator[int]:
    """The port of ``app`` behind the protocol."""
    config = BoundedConfig(app, bounds=ServeOptions((model_source("digits"),), **bounds), log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    made: Any = config.http_protocol_class
    server = await loop.create_server(lambda: made(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()  # type: ignore[union-attr]


async def ask(connection: Any) -> None:
    reader, writer = connection
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(2)


def test_a_request_is_alone_where_no_other_is_under_way_and_none_came_by_another_connection() -> None:
    seen: list[bool] = []
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        seen.append(scope["onnxferry.lone"]())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        async with listening(app) as port:
            one, two = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            go.set()
            for connection in (one, one, one, two, one, one):
                await ask(connection)
            assert seen == [False, True, True, False, False, True]
            go.clear()
            seen.clear()
            both = asyncio.gather(ask(one), ask(two))
            await asyncio.sleep(0.1)
            go.set()
            await both
            assert seen[0] is False

    asyncio.run(main())


@pytest.mark.parametrize("bytes_sent", [b"\r\n", b"GET / HTTP/1.1\r\nx: "])
def test_a_connection_whose_bytes_become_no_request_is_closed(bytes_sent: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        async with listening(app, header_timeout=0.2) as port:
            for answered in (False, True):
                reader, writer = connection = await asyncio.open_connection("127.0.0.1", port)
                if answered:
                    await ask(connection)
                writer.write(bytes_sent)
                async with asyncio.timeout(20):
                    left = await reader.read()
                assert left == b"" or left.startswith(b"HTTP/1.1 408 ")
                writer.close()

    asyncio.run(main())


def test_a_client_that_never_reads_is_cut_off_and_one_that_reads_slowly_is_not() -> None:
    size = 32 * 2**20

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    async def main() -> None:
        async with listening(app, header_timeout=1.0) as port:
            never, slow = [await asyncio.open_connection("127.0.0.1", port, limit=2**16) for _ in range(2)]
            for _, writer in (never, slow):
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await slow[0].readuntil(b"\r\n\r\n")
            left = size
            for _ in range(10):  # longer than the time that a client may take nothing
                left -= len(await slow[0].readexactly(2**20))
                await asyncio.sleep(0.3)
            left -= len(await slow[0].readexactly(left))
            assert left == 0
            got = 0
            with suppress(ConnectionResetError):
                while piece := await never[0].read(2**20):
                    got += len(piece)
            assert got < size

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_bytes", "answer", "bounds"),
    [
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n" + bytes(900_000), b"HTTP/1.1 503 ", {"max_connections": 0}),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 900_000 + b"\r\n\r\n", b"HTTP/1.1 431 ", {"header_bytes": 1000}),
        (b"GET\r\n\r\n" + bytes(900_000), b"HTTP/1.1 400 ", {}),
        (b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 900000\r\n\r\n" + bytes(900_000), b"HTTP/1.1 200 ", {}),
    ],
)
def test_an_answer_that_ends_the_connection_can_be_read_whole(request_bytes: bytes, answer: bytes, bounds: dict[str, int]) -> None:
    """Also where the request comes after it: closing at once would reset the connection, and the client might see that alone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # does not read the body
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        async with listening(app, **bounds) as port:
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for start in range(0, len(request_bytes), 100_000):
                    writer.write(request_bytes[start : start + 100_000])
                    await asyncio.sleep(0)
                async with asyncio.timeout(20):
                    await writer.drain()
                    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert head.startswith(answer)
                assert b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"
                assert (b"retry-after: 1" in head) == (answer == b"HTTP/1.1 503 ")
                writer.close()

    asyncio.run(main())


def test_a_refused_client_that_goes_on_sending_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER", 0.3)

    async def main() -> None:
        async with listening(None, max_connections=0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert b" 503 " in await reader.read()
            async with asyncio.timeout(20):
                with suppress(ConnectionError):
                    while True:
                        writer.write(bytes(1000))
                        await writer.drain()
                        await asyncio.sleep(0.05)

    asyncio.run(main())
