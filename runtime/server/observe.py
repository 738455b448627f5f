"""What the server shows of itself: Prometheus metrics, log lines in JSON, and W3C trace context.

Trace context: https://www.w3.org/TR/trace-context/. A ``traceparent`` that comes in is logged and given back with a new parent id; where
OpenTelemetry is installed and configured, each request is a span of the caller's trace.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

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


def request_id(given: str | None) -> str:
    """The client's own id where it is one of at most 128 letters, digits and ``._:-``; else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def trace_of(traceparent: str | None) -> tuple[str, str]:
    """The trace's id and the header to give on; empty where no valid one came in."""
    found = _TRACEPARENT.fullmatch((traceparent or "").strip().lower())
    if not found or set(found[1]) == {"0"} or set(found[2]) == {"0"}:
        return "", ""
    return found[1], f"00-{found[1]}-{secrets.token_hex(8)}-{found[3]}"


def span(route: str, headers: dict[str, str]) -> AbstractContextManager[Any]:
    """A span of OpenTelemetry for a request; nothing where it is not installed."""
    if "opentelemetry" not in sys.modules and not os.environ.get("OTEL_SERVICE_NAME"):
        return nullcontext()
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return nullcontext()
    tracer = trace.get_tracer("onnxferry.server")
    opened: AbstractContextManager[Any] = tracer.start_as_current_span(
        route, context=propagate.extract(headers), kind=trace.SpanKind.SERVER
    )
    return opened
