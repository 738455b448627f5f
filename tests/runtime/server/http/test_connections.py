"""Connections: which request is alone in the server, and bytes that begin none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.server import ServerState

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
