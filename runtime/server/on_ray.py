"""The server on a Ray cluster: a front in this process, and replicas on the cluster that each are this server's application.

Ray starts and ends replicas by the requests that are under way, and says which is free; the front holds each request until one has answered
it, so that none is lost with a replica or a machine (:mod:`onnxferry.runtime.server.http.relay`). The models' files have to have the same
paths on all machines.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import AsyncGenerator
from typing import Any

from onnxferry.runtime.errors import InputError, MissingExtraError, first_line
from onnxferry.runtime.server.access import read_access
from onnxferry.runtime.server.errors import RETRY_AFTER, RequestError
from onnxferry.runtime.server.http.gate import Gate
from onnxferry.runtime.server.http.relay import Asked, Part, Relay, ReplicaLostError, answer_in_parts
from onnxferry.runtime.server.observe import Log, Metrics, Observer
from onnxferry.runtime.server.options import ServeOptions

UNDER_WAY = 8
"""Requests under way in a replica, from which on Ray adds one."""

NAME = "onnxferry"


def check(options: ServeOptions) -> None:
    """Raises InputError for options that are Ray's to decide."""
    if options.workers > 1 or options.grpc_port is not None or options.repository:
        raise InputError("--on ray: leave --workers, --grpc-port and --allow-loading out; --replicas says how many there are")


def deployment(options: ServeOptions, replicas: int | None = None, cpus: int = 1) -> Any:
    """An application for ``ray.serve.run``. ``replicas``: None for one to ``cpus`` of them, by the requests. Each needs one CPU.

    With a ``route_prefix`` Ray's own proxy serves it; that answers a request with 500 whose replica ends. :class:`Front` around the handle
    that ``ray.serve.run`` returns does not. Raises MissingExtraError without Ray Serve.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "serving on a Ray cluster") from error
    own = dataclasses.replace(options, threads=options.threads or 1, host="127.0.0.1", certificate="", key="")

    def build() -> Any:
        from onnxferry.runtime.server.app import Application

        application = Application(own)
        for caller in application.access.callers:  # the front counts
            caller.rate = math.inf
        return application

    class Replica:
        """For the front: the application's answers, whole and piece by piece."""

        async def answer(self, asked: Asked) -> list[Part]:
            return [part async for part in self.stream(asked)]

        async def stream(self, asked: Asked) -> AsyncGenerator[Part, None]:
            async for part in answer_in_parts(self.app, asked):  # type: ignore[attr-defined]  # serve.ingress adds it
                yield part

    scaling = {"min_replicas": 1, "max_replicas": max(1, cpus), "target_ongoing_requests": UNDER_WAY}
    size = {"num_replicas": replicas} if replicas is not None else {"autoscaling_config": scaling}
    actor = {"num_cpus": 1}  # fractions put several models on one CPU
    bounds = {"max_ongoing_requests": options.max_queue, "max_queued_requests": options.max_connections}
    return serve.deployment(serve.ingress(build)(Replica), name=NAME, ray_actor_options=actor, **bounds, **size).bind()


class RayReplicas:
    """The replicas behind a handle of Ray Serve."""

    def __init__(self, handle: Any) -> None:
        self._whole = handle.options(method_name="answer")
        self._streaming = handle.options(method_name="stream", stream=True)

    async def ask(self, asked: Asked) -> AsyncGenerator[Part, None]:
        """As :class:`onnxferry.runtime.server.http.relay.Replicas` says."""
        waiting = (self._streaming if asked.may_stream else self._whole).remote(asked)
        try:
            if asked.may_stream:
                async for part in waiting:
                    yield part
            else:
                for part in await waiting:
                    yield part
        except BaseException as error:
            waiting.cancel()
            if isinstance(error, Exception):
                raise _of_the_front(error) from error
            raise


def _of_the_front(error: Exception) -> Exception:
    """What an error of Ray's means to the relay; any other error is itself."""
    from ray import exceptions
    from ray.serve import exceptions as of_serve

    if isinstance(error, exceptions.ActorDiedError):
        return ReplicaLostError(str(error.actor_id or ""))
    if isinstance(error, _kinds(of_serve, "BackPressureError")):
        return RequestError(429, "too many requests are waiting; try again later", RETRY_AFTER)
    if isinstance(error, _kinds(of_serve, "DeploymentUnavailableError")):
        return RequestError(503, "Ray cannot start the replicas", RETRY_AFTER)
    # TaskCancelledError comes from a replica that is about to end: the front does not wait for what it cancels itself.
    ended = ("RayActorError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError", "TaskCancelledError")
    lost = isinstance(error, (*_kinds(exceptions, *ended), *_kinds(of_serve, "ReplicaUnavailableError")))
    return ReplicaLostError() if lost else error


def _kinds(module: Any, *names: str) -> tuple[type[BaseException], ...]:
    """Those that this version of Ray has."""
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


class Front:
    """The ASGI application that clients talk to, over the ``handle`` of the deployment. It checks tokens, counts, logs, and asks replicas.

    handle = ray.serve.run(deployment(options, replicas=3), route_prefix=None)
    uvicorn.run(Front(options, handle))
    """

    def __init__(self, options: ServeOptions, handle: Any) -> None:
        metrics = Metrics()
        access = read_access(options.tokens, options.environment_token)
        self._gate = Gate(Relay(RayReplicas(handle), metrics), options, access, Observer(metrics, Log(), options.log))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._gate(scope, receive, send)
        elif scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        else:  # no WebSocket is served
            await send({"type": "websocket.close", "code": 1000})


def serve_on_ray(options: ServeOptions, replicas: int | None = None, started: Any = None) -> None:
    """Serves until a signal. ``started``: called with the URL and the models once a replica is ready.

    The cluster is that of RAY_ADDRESS, or one that is started on this machine. One CPU of it is left to Ray: with all of them taken it
    waits for ever. Raises InputError for options that do not fit, a port in use, and where the cluster cannot be used; MissingExtraError
    without Ray.
    """
    from onnxferry.runtime.server.process import listening, serve_application

    options.check()
    check(options)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use otherwise
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "serving on a Ray cluster") from error
    with listening(options) as (listener, url):
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS") or None, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise InputError(f"the Ray cluster cannot be used: {first_line(error)}; check RAY_ADDRESS") from error
        try:
            cpus = max(1, int(ray.cluster_resources().get("CPU", 0)) - 1)
            if replicas is not None and replicas > cpus:
                raise InputError(
                    f"{replicas} replicas need a CPU each, and Ray one more: the cluster has {cpus + 1}; give --replicas {cpus}"
                )
            try:
                serve.start(proxy_location="Disabled")
                handle = serve.run(deployment(options, replicas, cpus), name=NAME, route_prefix=None)
            except RuntimeError as error:
                raise InputError(f"Ray Serve could not start the models: {first_line(error)}") from error
            if started is not None:
                started(url, options.models)
            serve_application(Front(options, handle), options, listener)
        finally:
            serve.shutdown()
            ray.shutdown()
