"""The server on a Ray cluster: Ray Serve's proxy in front, and replicas that each are this server's application, with the same protocol.

Ray starts and ends replicas by the requests that are under way. The models' files have to have the same paths on all machines. Tokens, body
limits and deadlines are the replicas' own; a rate of a token counts in each replica.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

from onnxferry.runtime.errors import InputError, MissingExtraError, first_line
from onnxferry.runtime.server.options import ServeOptions

UNDER_WAY = 8
"""Requests under way in a replica, from which on Ray adds one."""


def check(options: ServeOptions) -> None:
    """Raises InputError for options that are Ray's to decide."""
    if options.workers > 1 or options.grpc_port is not None or options.certificate or options.repository:
        raise InputError("--on ray: leave --workers, --grpc-port, --tls-cert and --allow-loading out; --replicas says how many there are")


def deployment(options: ServeOptions, replicas: int | None = None, cpus: int = 1) -> Any:
    """An application for ``ray.serve.run``. ``replicas``: None for one to ``cpus`` of them, by the requests. Each needs one CPU.

    Raises MissingExtraError without Ray Serve.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "serving on a Ray cluster") from error
    own = dataclasses.replace(options, threads=options.threads or 1, host="127.0.0.1")

    def build() -> Any:
        from onnxferry.runtime.server.app import Application

        return Application(own)

    scaling = {"min_replicas": 1, "max_replicas": max(1, cpus), "target_ongoing_requests": UNDER_WAY}
    size = {"num_replicas": replicas} if replicas is not None else {"autoscaling_config": scaling}
    actor = {"num_cpus": 1}  # fractions put several models on one CPU
    made = serve.deployment(
        serve.ingress(build)(), name="onnxferry", ray_actor_options=actor, max_ongoing_requests=options.max_queue, **size
    )
    return made.bind()


def serve_on_ray(options: ServeOptions, replicas: int | None = None, started: Any = None) -> None:
    """Serves until Ctrl-C. ``started``: called with the URL and the models once a replica is ready.

    The cluster is that of RAY_ADDRESS, or one that is started on this machine. One CPU of it is left to Ray: with all of them taken it
    waits for ever. Raises InputError for options that do not fit, and where the cluster cannot be used; MissingExtraError without Ray.
    """
    options.check()
    check(options)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use otherwise
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "serving on a Ray cluster") from error
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or None, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise InputError(f"the Ray cluster cannot be used: {first_line(error)}; check RAY_ADDRESS") from error
    try:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 0)) - 1)
        if replicas is not None and replicas > cpus:
            raise InputError(f"{replicas} replicas need a CPU each, and Ray one more: the cluster has {cpus + 1}; give --replicas {cpus}")
        serve.start(http_options={"host": options.host, "port": options.port})
        serve.run(deployment(options, replicas, cpus), name="onnxferry", route_prefix="/")
        if started is not None:
            started(f"http://{options.host}:{options.port}", options.models)
        while True:
            time.sleep(3600)
    except RuntimeError as error:
        raise InputError(f"Ray Serve could not start the models: {first_line(error)}") from error
    finally:
        serve.shutdown()
        ray.shutdown()
