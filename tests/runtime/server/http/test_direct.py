"""Infer requests that the connection answers itself: by their bytes on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from uvicorn.server import ServerState

from onnxferry.runtime.server.access import new_token
from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.http.connections import BoundedConfig
from onnxferry.runtime.server.http.direct import DirectInfer
from onnxferry.runtime.server.options import ModelSource
from tests.runtime.server.conftest import options, write_echo

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


class Running:
    """A server in this event loop."""

    def __init__(self, application: Application, state: ServerState, port: int) -> None:
        self.application, self.state, self.port = application, state, port

    async def connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def served(self) -> Any:
        return self.application.repository.find("echo")

    def counted(self, status: int) -> float:
        labels = {"protocol": "http", "route": "infer", "model": "echo", "version": "1", "status": str(status)}
        return self.application.metrics.registry.get_sample_value("onnxferry_requests_total", labels) or 0.0


@asynccontextmanager
async def running(echo: Path, **changes: object) -> AsyncIterator[Running]:
    bounds = options(ModelSource("echo", str(echo)), **changes)
    application = Application(bounds)
    await application.start()
    config = BoundedConfig(application, bounds=bounds, log_config=None)
    config.load()
    state = ServerState()
    made: Any = config.http_protocol_class
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: made(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    try:
        yield Running(application, state, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        await asyncio.sleep(0)
        await application.stop()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo(tmp_path_factory.mktemp("direct") / "echo.onnx")


@pytest.fixture(scope="module")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One input in raw bytes."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path_factory.mktemp("negated") / "echo.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that were answered so."""
    seen: list[str] = []
    begin = DirectInfer.begin

    def noted(self: DirectInfer) -> None:
        seen.append(self.path)
        begin(self)

    monkeypatch.setattr(DirectInfer, "begin", noted)
    return seen


def body(values: np.ndarray = VALUES, **more: object) -> bytes:
    names = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES")
    data: dict[str, list[Any]] = {"BOOL": [True] * values.size, "BYTES": ["x"] * values.size, "FP32": values.reshape(-1).tolist()}
    inputs = [{"name": n, "datatype": n, "shape": list(values.shape), "data": data.get(n, [1] * values.size)} for n in names]
    return json.dumps({"inputs": inputs, "outputs": [{"name": "FP32_out"}], **more}).encode()


def asked(sent: bytes, *headers: str, path: str = "/v2/models/echo/infer", version: str = "1.1", length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: x", *headers, *([f"content-length: {len(sent)}"] if length else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())


def value_of(found: bytes) -> list[float]:
    values: list[float] = json.loads(found)["outputs"][0]["data"]
    return values


def test_whole_bodies_pieces_and_chunks(echo: Path, direct: list[str]) -> None:
    async def main() -> None:
        async with running(echo) as server:
            reader, writer = await server.connect()
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            writer.write(asked(body(), "x-request-id: seven", f"traceparent: {trace}", path="/v2/models/echo/versions/1/infer"))
            status, headers, found = await answer(reader)
            assert (status, headers["x-request-id"], headers["content-type"]) == (200, "seven", "application/json")
            assert headers["traceparent"][:36] == trace[:36]
            assert headers["traceparent"] != trace
            assert value_of(found) == VALUES.reshape(-1).tolist()
            whole = asked(body(2 * VALUES))
            for place in range(0, len(whole), 97):
                writer.write(whole[place : place + 97])
                await writer.drain()
                await asyncio.sleep(0)
            assert value_of((await answer(reader))[2]) == (2 * VALUES).reshape(-1).tolist()
            sent = body(3 * VALUES)
            writer.write(asked(b"", "transfer-encoding: chunked", length=False))
            for piece in (sent[:100], sent[100:], b""):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            assert value_of((await answer(reader))[2]) == (3 * VALUES).reshape(-1).tolist()
            assert server.counted(200) == 3
            assert not server.state.tasks
            assert (server.served.waiting, server.served.users) == (0, 0)
            (connection,) = server.state.connections
            assert connection.cycle._asked is None  # type: ignore[union-attr]  # no body stays while it is idle
        assert direct == ["/v2/models/echo/versions/1/infer", "/v2/models/echo/infer", "/v2/models/echo/infer"]

    run(main)


def test_requests_that_are_sent_before_the_answer_are_answered_in_their_order(echo: Path) -> None:
    async def main() -> None:
        async with running(echo) as server:
            reader, writer = await server.connect()
            writer.write(b"".join(asked(body(n * VALUES)) for n in range(5)) + b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            for n in range(5):
                assert value_of((await answer(reader))[2]) == (n * VALUES).reshape(-1).tolist()
            assert json.loads((await answer(reader))[2]) == {"live": True}

    run(main)


def test_what_is_refused_and_the_connection_after_it(echo: Path, tmp_path: Path) -> None:
    async def main() -> None:
        token, entry = new_token("alice")
        (tmp_path / "tokens.toml").write_text(entry)
        known = f"authorization: Bearer {token}"
        async with running(echo, tokens=str(tmp_path / "tokens.toml"), max_body=5000) as server:
            reader, writer = await server.connect()
            for sent, status, words in (
                (asked(body()), 401, "a token is needed"),
                (asked(body(), known, path="/v2/models/nothing/infer"), 404, "no model"),
                (asked(body(), known, path="/v2/models/echo/versions/7/infer"), 404, "no version"),
                (asked(b"{", known), 400, "not JSON"),
                (asked(body(), known, "content-encoding: gzip"), 415, "content-encoding"),
                (asked(body(), known, "x-request-timeout: soon"), 400, "x-request-timeout"),
                (asked(body(outputs=[{"name": "z"}]), known), 400, "no output 'z'"),
            ):
                writer.write(sent)
                found, headers, text = await answer(reader)
                assert (found, headers["content-type"]) == (status, "application/json")
                assert words in json.loads(text)["error"]
            writer.write(asked(body(), known))  # the connection is kept
            assert (await answer(reader))[0] == 200
            writer.write(asked(b"x" * 6000, known))
            found, headers, _ = await answer(reader)
            assert (found, headers["connection"]) == (413, "close")
            assert await reader.read() == b""
            reader, writer = await server.connect()
            writer.write(asked(b"", known, "transfer-encoding: chunked", length=False) + b"1770\r\n" + b"x" * 6000 + b"\r\n")
            assert (await answer(reader))[0] == 413
            assert await reader.read() == b""
            assert not server.state.tasks

    run(main)


def test_connections_that_are_not_kept(echo: Path) -> None:
    async def main() -> None:
        async with running(echo) as server:
            for sent in (asked(body(), version="1.0"), asked(body(), "connection: close")):
                reader, writer = await server.connect()
                writer.write(sent)
                status, headers, _ = await answer(reader)
                assert (status, headers["connection"]) == (200, "close")
                assert await reader.read() == b""

    run(main)


def test_a_client_that_waits_for_100_continue_gets_it(echo: Path, direct: list[str]) -> None:
    async def main() -> None:
        async with running(echo) as server:
            reader, writer = await server.connect()
            head, _, sent = asked(body(), "expect: 100-continue").partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(sent)
            assert (await answer(reader))[0] == 200
            assert direct == []

    run(main)


class Held:
    """In place of an engine: its runs do not end."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.begun, self.cancelled = engine, asyncio.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def arun(self, *arguments: Any) -> Any:
        self.begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("how", ["deadline", "its own deadline", "gone", "stopped"])
def test_what_ends_a_request_stops_its_run(echo: Path, how: str) -> None:
    async def main() -> None:
        async with running(echo) as server:
            held = server.served.scheduler.engine = Held(server.served.engine)
            reader, writer = await server.connect()
            timeout = {"its own deadline": {"parameters": {"timeout": 50_000}}}.get(how, {})
            writer.write(asked(body(**timeout), *(["x-request-timeout: 0.05"] if how == "deadline" else [])))
            await held.begun.wait()
            status = 504
            if how == "gone":
                writer.close()
                status = 499
            elif how == "stopped":
                for task in server.state.tasks:  # as uvicorn does when a stop has waited long enough
                    task.cancel()
                status = 503
            if how != "gone":
                assert (await answer(reader))[0] == status
            while not held.cancelled:
                await asyncio.sleep(0.01)
            assert server.counted(status) == 1
            assert not server.state.tasks
            assert (server.served.waiting, server.served.users) == (0, 0)

    run(main)


def test_a_client_that_goes_before_its_body_is_complete(echo: Path) -> None:
    async def main() -> None:
        async with running(echo) as server:
            _, writer = await server.connect()
            writer.write(asked(body())[:300])
            while not server.state.tasks:
                await asyncio.sleep(0.01)
            writer.close()
            while server.state.tasks:
                await asyncio.sleep(0.01)

    run(main)


def test_a_queue_that_is_full(echo: Path) -> None:
    async def main() -> None:
        async with running(echo, max_queue=1) as server:
            held = server.served.scheduler.engine = Held(server.served.engine)
            first, second = [await server.connect() for _ in range(2)]
            first[1].write(asked(body()))
            await held.begun.wait()
            second[1].write(asked(body()))
            status, headers, _ = await answer(second[0])
            assert (status, headers["retry-after"]) == (429, "1")

    run(main)


def test_a_connection_is_kept_after_a_request_that_ran_in_the_event_loop(echo: Path) -> None:
    async def main() -> None:
        async with running(echo, header_timeout=0.3) as server:
            reader, writer = await server.connect()
            for wait in (0, 0, 0, 0, 0.8, 0):
                await asyncio.sleep(wait)  # longer than a head may take
                writer.write(asked(body()))
                assert (await answer(reader))[0] == 200

    run(main)


def test_bodies_in_raw_bytes_with_the_same_head(echo: Path) -> None:
    """The second time the head is known; another size, other bytes and a mixture with JSON are not taken for it."""
    names = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
    sizes = {"FP16": 2, "FP32": 4, "FP64": 8, **{name: int(name.lstrip("UINT")) // 8 for name in names[:8]}}

    def sent(value: int, mixed: bool = False, more: bytes = b"", pad: str = "") -> bytes:
        arrays = {name: np.full((2, 3), value, name.lower().replace("fp", "float")) for name in names}
        raw = [{"name": n, "datatype": n, "shape": [2, 3], "parameters": {"binary_data_size": 6 * sizes[n]}} for n in names]
        raw += [{"name": "BOOL", "datatype": "BOOL", "shape": [2, 3], "parameters": {"binary_data_size": 6}}] * (not mixed)
        rest = [{"name": "BYTES", "datatype": "BYTES", "shape": [2, 3], "data": ["x"] * 6}]
        rest += [{"name": "BOOL", "datatype": "BOOL", "shape": [2, 3], "data": [bool(value % 2)] * 6}] * mixed
        head = json.dumps({"inputs": [*raw, *rest], "outputs": [{"name": f"{n}_out"} for n in (*names, "BOOL")], "id": pad}).encode()
        whole = head + b"".join(array.tobytes() for array in arrays.values()) + (b"" if mixed else bytes([value % 2]) * 6) + more
        return asked(whole, f"inference-header-content-length: {len(head)}")

    async def main() -> None:
        async with running(echo) as server:
            reader, writer = await server.connect()
            for pad in ("", "1", "22", "333"):  # the tensors begin at any place, aligned or not
                for value in (1, 2, 3, 3):
                    for mixed in (False, True):
                        writer.write(sent(value, mixed, pad=pad))
                        status, _, found = await answer(reader)
                        assert status == 200
                        for tensor in json.loads(found)["outputs"]:
                            assert tensor["data"] == [value % 2 if tensor["datatype"] == "BOOL" else value] * 6
                writer.write(sent(1, more=b"x", pad=pad))
                status, _, found = await answer(reader)
                assert (status, json.loads(found)["error"]) == (400, "the body has 1 bytes more than its tensors")

    run(main)


def test_a_known_head_with_a_body_of_another_size(echo_model: Path) -> None:
    async def main() -> None:
        async with running(echo_model) as server:
            reader, writer = await server.connect()
            head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}).encode()
            for raw, status in ((b"\0" * 8, 200), (b"\1" * 8, 200), (b"\1" * 9, 400), (b"\1" * 4, 400), (b"\0\0\x80\x3f" * 2, 200)):
                writer.write(asked(head + raw, f"inference-header-content-length: {len(head)}"))
                found = await answer(reader)
                assert found[0] == status
            assert value_of(found[2]) == [-1.0, -1.0]
            assert len(server.served.layouts) == 1

    run(main)
