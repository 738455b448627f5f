"""What the server shows of itself: Prometheus metrics, log lines in JSON, and W3C trace context.

Trace context: https://www.w3.org/TR/trace-context/. A ``traceparent`` that comes in is logged and given back with a new parent id; where
OpenTelemetry is installed and configured, each request is a span of the caller's trace.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxferry.runtime.server.access import Caller
    from onnxferry.runtime.server.models import ServedModel

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_random = random.Random()
"""Of ids, which are no secrets: asking the system for each one takes as long as parsing a request."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The server's metrics. With ``PROMETHEUS_MULTIPROC_DIR`` set, those of all worker processes together."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        model = ("model", "version")
        place: dict[str, Any] = {"registry": self.registry, "namespace": "onnxferry"}
        self.requests = Counter("requests", "Requests by route, model and status", ("protocol", "route", *model, "status"), **place)
        self.seconds = Histogram("request_seconds", "Time of a request", ("route", *model), buckets=SECONDS, **place)
        self.rows = Histogram("rows", "Rows of a request", model, buckets=ROWS, **place)
        self.waiting = Gauge("waiting", "Requests that run or wait", model, multiprocess_mode="livesum", **place)
        self.text_bytes = Counter("text_bytes", "Bytes of text written", model, **place)
        self._known: dict[tuple[str, ...], tuple[Any, Any, Any]] = {}  # finding a metric by its labels takes longer than counting

    def count(
        self, protocol: str, route: str, status: str, seconds: float, model: str = "", version: str = "", rows: int | None = None
    ) -> None:
        """One request that has been answered."""
        labels = protocol, route, model, version, status
        found = self._known.get(labels)
        if found is None:
            counted = self.rows.labels(model, version) if rows is not None else None
            found = self._known[labels] = self.requests.labels(*labels), self.seconds.labels(route, model, version), counted
        found[0].inc()
        found[1].observe(seconds)
        if rows is not None:
            (found[2] or self.rows.labels(model, version)).observe(rows)

    def page(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess

        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST


class Log:
    """One JSON object a line on stderr."""

    def write(self, event: str, **fields: Any) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        known = {name: value for name, value in fields.items() if value not in (None, "")}
        sys.stderr.write(json.dumps({"time": stamp, "event": event, **known}, default=str) + "\n")
        sys.stderr.flush()


@dataclass
class Request:
    """What is known of a request, whichever protocol it came by: found out on its way, counted and logged at its end."""

    protocol: str  # "http" or "grpc"
    identity: str
    trace: str = ""  # of the W3C trace context
    begun: float = field(default_factory=time.perf_counter)
    route: str = "other"
    model: str = ""
    version: str = ""
    rows: int | None = None
    caller: Caller | None = None
    held: list[ServedModel] = field(default_factory=list)  # models that stay open until the request is done
    error: str = ""
    traceback: str = ""  # of a bug

    def check_model(self, model: str) -> None:
        """Raises RequestError 403 for a model that the caller may not use."""
        if self.caller is not None:
            self.caller.check_model(model)

    def may_use(self, model: str) -> bool:
        """Whether the caller may."""
        return self.caller is None or self.caller.models is None or model in self.caller.models


class Observer:
    """Counts and logs every request in one way. ``log_all``: a line for each, and not only for errors of the server itself."""

    def __init__(self, metrics: Metrics, log: Log, log_all: bool) -> None:
        self.metrics, self.log, self.log_all = metrics, log, log_all

    def done(self, request: Request, status: int | str, failed: bool, **more: Any) -> None:
        """A request has been answered with ``status``; ``failed``: by an error of the server's own. ``more``: fields of the log line."""
        for served in request.held:
            served.release()
        seconds = time.perf_counter() - request.begun
        self.metrics.count(request.protocol, request.route, str(status), seconds, request.model, request.version, request.rows)
        if self.log_all or failed:
            self.log.write(
                "request",
                request_id=request.identity,
                trace_id=request.trace,
                **more,
                status=status,
                ms=round(seconds * 1e3, 2),
                model=request.model,
                version=request.version,
                caller=request.caller.name if request.caller else "",
                error=request.error,
                traceback=request.traceback,
            )


def request_id(given: str | None) -> str:
    """The client's own id where it is one of at most 128 letters, digits and ``._:-``; else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"{_random.getrandbits(64):016x}"


def trace_of(traceparent: str | None) -> tuple[str, str]:
    """The trace's id and the header to give on; empty where no valid one came in."""
    found = _TRACEPARENT.fullmatch(traceparent.strip().lower()) if traceparent else None
    if not found or set(found[1]) == {"0"} or set(found[2]) == {"0"}:
        return "", ""
    return found[1], f"00-{found[1]}-{_random.getrandbits(64):016x}-{found[3]}"


_ASKED_FOR = "OTEL_SERVICE_NAME" in os.environ  # looked up once: it takes a tenth of what the server adds to a request


def tracing() -> bool:
    """Whether OpenTelemetry may be there."""
    return _ASKED_FOR or "opentelemetry" in sys.modules


def span(method: str, path: str, headers: Mapping[bytes, bytes]) -> AbstractContextManager[Any]:
    """A span of OpenTelemetry for a request; nothing where it is not installed."""
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return nullcontext()
    tracer = trace.get_tracer("onnxferry.server")
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
    opened: AbstractContextManager[Any] = tracer.start_as_current_span(
        f"{method} {path}", context=propagate.extract(carrier), kind=trace.SpanKind.SERVER
    )
    return opened
