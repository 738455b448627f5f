"""The server's processes: one, or several workers on one port, with a signal to stop (what was accepted is finished) or to load anew."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine.open import Identity, identity_of, runs_on, write_copy
from onnxferry.runtime.errors import InputError, MissingExtraError, OnnxFerryError
from onnxferry.runtime.server.opening import open_to_serve
from onnxferry.runtime.server.options import Measured, ServeOptions

_ASK_EVERY = 10.0
"""Seconds after which the worker processes are asked whether they hang."""

_ENDS_WITHIN = 10.0
"""Seconds that a worker process has to end in after its requests; then it is killed."""


def serve(options: ServeOptions, started: Callable[[str, Any], None] | None = None) -> None:
    """Serves until a signal. ``started``: called with the URL and the models, before the first request.

    SIGTERM and SIGINT: no new connection, accepted requests are finished within ``drain`` seconds. SIGHUP: every model is loaded again,
    and no request is lost. Raises InputError for options that make no sense and for a port in use, what opening a model raises, and
    MissingExtraError where the packages of the extra ``serve`` are missing.
    """
    options.check()
    _check_packages()
    from onnxferry.runtime.server.app import ApplicationFactory

    several = options.workers > 1
    with listening(options) as (listener, url), tempfile.TemporaryDirectory(prefix="onnxferry-metrics-") as folder:
        if several:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            for source in options.models:  # an error is one line here, and no worker has to fail for it
                describe(find_model(source.source))
            shared, measured = prepared(options, Path(folder))
            factory = ApplicationFactory(replace(options, measured=measured), shared)
            config = _configuration(factory, options, listener, factory=True)
            if started is not None:
                started(url, options.models)
            _workers(config, [listener], options.drain).run()
            return
        application = ApplicationFactory(options)()
        application.repository.open_all()
        if started is not None:
            started(url, list(application.repository.open.values()))
        _reload_on_hangup(application)
        serve_application(application, options, listener)


def serve_application(application: Any, options: ServeOptions, listener: socket.socket) -> None:
    """Serves an ASGI application on a socket until a signal, within the bounds of the options."""
    _server(_configuration(application, options, listener)).run(sockets=[listener])


@contextmanager
def listening(options: ServeOptions) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens where the options say, and its URL. Raises InputError for a port in use, and a certificate without its key."""
    _check_certificate(options)
    with _listen(options.host, options.port) as listener:
        scheme = "https" if options.certificate else "http"
        host = f"[{options.host}]" if ":" in options.host else options.host
        yield listener, f"{scheme}://{host}:{listener.getsockname()[1]}"


def _check_packages() -> None:
    try:
        import grpc  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name or "uvicorn").partition(".")[0], "serve", "serving models") from error


def _configuration(application: Any, options: ServeOptions, listener: socket.socket, factory: bool = False) -> Any:
    """uvicorn's. ``factory``: ``application`` makes it, in a process of its own."""
    from onnxferry.runtime.server.http.connections import BoundedConfig

    return BoundedConfig(
        application,
        factory=factory,
        host=options.host,
        port=listener.getsockname()[1],
        workers=options.workers,
        bounds=options,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,  # it would close the handlers of every other library
        log_level="error",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=max(1, round(options.drain)),
        timeout_keep_alive=30,
        # After uvicorn's own 5 s a worker that opens a large model, or has a busy machine, would be taken for one that hangs.
        timeout_worker_healthcheck=30,
        ssl_certfile=options.certificate or None,
        ssl_keyfile=options.key or None,
    )


def prepared(options: ServeOptions, folder: Path) -> tuple[dict[Identity, str], dict[Identity, Measured]]:
    """What all worker processes need and one can make, in a process that ends.

    Copies of the models' files, in folders of ``folder``, whose weights the workers map; and what is measured of the models: a worker that
    takes another one's place is there sooner, and measures nothing while the others carry its load.
    """
    if options.isolated or options.tune or runs_on(options.device, None) != "cpu":
        return {}, {}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_prepare, options, folder).result()


def _prepare(options: ServeOptions, folder: Path) -> tuple[dict[Identity, str], dict[Identity, Measured]]:
    written: dict[Identity, str] = {}
    measured: dict[Identity, Measured] = {}
    for number, path in enumerate(find_model(source.source) for source in options.models):
        model = describe(path)
        place = folder / f"copy-{number}"
        place.mkdir()
        identity = identity_of(model)
        if identity is None:
            continue
        with contextlib.suppress(OnnxFerryError):  # no room for it, or a graph that cannot be written: each worker has its own weights
            written[identity] = write_copy(model, place)
        opened = open_to_serve(path, options)
        opened.model.close()
        measured[identity] = opened.measured
    return written, measured


def _workers(config: Any, listeners: list[socket.socket], drain: float) -> Any:
    from uvicorn.supervisors import Multiprocess

    class Workers(Multiprocess):
        """uvicorn's supervisor, which no worker keeps waiting: neither one that is killed nor one that hangs."""

        asked = 0.0

        def keep_subprocess_alive(self) -> None:
            for worker in self.processes:  # their ends of the pipes: who is killed as it is asked is then known by the pipe's end, at once
                worker.child_conn.close()
            alive = all(worker.process.is_alive() for worker in self.processes)
            if alive and time.monotonic() - self.asked < _ASK_EVERY:
                return
            self.asked = time.monotonic()
            super().keep_subprocess_alive()

        def join_all(self) -> None:
            deadline = time.monotonic() + drain + _ENDS_WITHIN
            for worker in self.processes:
                worker.process.join(max(0.0, deadline - time.monotonic()))
                if worker.process.is_alive():
                    worker.kill()
                    worker.join()

    return Workers(config, sockets=listeners)


def _server(config: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Ends with exit code 0 after a signal, where uvicorn raises the signal once more."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals():
                yield
                self._captured_signals.clear()

    return Server(config)


def _reload_on_hangup(application: Any) -> None:
    """SIGHUP opens every model's file again."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        return
    begin = application.start

    async def start() -> None:
        await begin()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(application.reload()))

    application.start = start


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port} is no address to listen on: {error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host") from error
    listener.set_inheritable(True)
    return listener


def _check_certificate(options: ServeOptions) -> None:
    if options.certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certificate, options.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"the certificate {options.certificate} and the key {options.key} cannot be used together: {error}") from error
