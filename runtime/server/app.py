"""The server's application: the models are opened as it starts, and closed, with what they accepted finished, as it ends."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxferry.runtime.engine.open import Identity, copies
from onnxferry.runtime.errors import DeviceError
from onnxferry.runtime.server.access import read_access
from onnxferry.runtime.server.errors import RequestError
from onnxferry.runtime.server.http.friendly import Friendly
from onnxferry.runtime.server.http.gate import Gate, Receive, Scope, Send
from onnxferry.runtime.server.http.rest import Protocol
from onnxferry.runtime.server.models import Repository, shown
from onnxferry.runtime.server.observe import Log, Metrics, Observer
from onnxferry.runtime.server.options import ServeOptions
from onnxferry.runtime.server.rpc.service import GrpcService


class Application:
    """An ASGI application, for uvicorn or any other ASGI server.

    app = Application(ServeOptions((model_source("digits"),)))
    """

    def __init__(self, options: ServeOptions) -> None:
        from starlette.exceptions import HTTPException
        from starlette.routing import Router

        from onnxferry.runtime import __version__

        self.options = options
        self.log = Log()
        self.metrics = Metrics()
        self.repository = Repository(options)
        self.access = read_access(options.tokens, options.environment_token)
        # In the order of how often they are asked for: the router tries one after the other.
        routes = [*Friendly(self.repository, self.metrics).routes(), *Protocol(self.repository, __version__).routes()]
        router = Router(routes, redirect_slashes=False)

        async def routed(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await router({**scope, "app": self}, receive, send)
            except HTTPException as error:
                raise RequestError(error.status_code, _words(error.status_code, scope)) from error

        observer = Observer(self.metrics, self.log, options.log)
        self.gate = Gate(routed, options, self.access, observer, self.repository)
        self.grpc_service = GrpcService(self.repository, self.access, observer, __version__)
        self.grpc_server: Any = None
        self.grpc_port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.gate(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:  # no WebSocket is served
            await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> None:
        """Opens the models and the gRPC port. Raises what that raises."""
        if not self.repository.open:
            self.repository.open_all()
        if self.options.grpc_port is not None:
            await self._start_grpc(self.options.grpc_port)
        for served in self.repository.open.values():
            self.log.write("loaded", **shown(served))

    async def stop(self) -> None:
        """Takes no more requests, finishes those that run, and closes the models."""
        self.repository.ready = False
        if self.grpc_server is not None:
            await self.grpc_server.stop(self.options.drain)
        await asyncio.to_thread(self.repository.close)

    async def reload(self) -> None:
        """Opens every model's file again; one that cannot be opened stays as it is, and the log says why."""
        for name in sorted({name for name, _ in self.repository.sources}):
            try:
                await self.repository.reload(name)
                self.log.write("reloaded", model=name)
            except RequestError as error:
                self.log.write("reload failed", model=name, error=str(error))

    async def _start_grpc(self, port: int) -> None:
        import grpc

        limit = self.options.max_body
        settings = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(self.options.workers > 1)),
            ("grpc.max_metadata_size", self.options.header_bytes),
        ]
        concurrent = self.options.max_connections
        self.grpc_server = grpc.aio.server(options=settings, maximum_concurrent_rpcs=concurrent)
        self.grpc_server.add_generic_rpc_handlers((self.grpc_service.handler(),))
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        try:
            if self.options.certificate:
                pair = Path(self.options.key).read_bytes(), Path(self.options.certificate).read_bytes()
                self.grpc_port = self.grpc_server.add_secure_port(f"{host}:{port}", grpc.ssl_server_credentials([pair]))
            else:
                self.grpc_port = self.grpc_server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise DeviceError(
                f"gRPC cannot listen on {self.options.host}:{port} (is the port in use?); give another --grpc-port"
            ) from error
        await self.grpc_server.start()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:  # noqa: BLE001 (uvicorn ends, and the log says why)
            self.log.write("failed", error=str(error))
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


@dataclass(frozen=True)
class ApplicationFactory:
    """Makes the application in a process of its own, to which it travels."""

    options: ServeOptions
    copies: Mapping[Identity, str] = field(default_factory=dict)  # of model files, whose weights several processes share

    def __call__(self) -> Application:
        parent = multiprocessing.parent_process()
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent,), name="end with the main process", daemon=True).start()
        copies.update(self.copies)
        application = Application(self.options)
        gc.collect()
        gc.freeze()  # modules and classes, which stay: looking through them again and again took a tenth of a small request's time
        return application


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Stops this process, after what it accepted, when the one that started it has ended, however it ended."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _words(status: int, scope: Scope) -> str:
    path = scope["path"][:200]
    return {404: f"there is nothing at {path}; see /docs", 405: f"{path} does not take {scope['method'][:20]}"}.get(status, "bad request")
