"""What went wrong with a request, as HTTP and as gRPC say it. No message holds a path or a stack trace."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path

from onnxferry.runtime.errors import BusyError, InputError, MissingExtraError, OnnxFerryError, first_line

RETRY_AFTER = 1
"""Seconds after which a client may try again where a queue is full."""


class RequestError(Exception):
    """Within the server: a request that is answered with an error, ``status`` is HTTP's."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


GRPC_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP's status to gRPC's; INTERNAL for the others."""


def as_request_error(error: BaseException, names: Iterable[tuple[Path | None, str]] = ()) -> RequestError | None:
    """The answer for an error that the caller can do something about; None for a bug. ``names``: paths and what is said instead of them."""
    if isinstance(error, TimeoutError):
        return RequestError(504, "the request took longer than its deadline allows")
    if not isinstance(error, OnnxFerryError | RequestError):
        return None
    message = first_line(error)
    for path, name in names:
        if path is not None:
            message = message.replace(str(path), name).replace(str(path.parent), "…")
    if isinstance(error, RequestError):
        return RequestError(error.status, message, error.retry_after)
    if isinstance(error, BusyError):
        return RequestError(429, "too many requests are waiting for this model; try again later", RETRY_AFTER)
    if isinstance(error, InputError):
        return RequestError(400, message)
    return RequestError(503 if isinstance(error, MissingExtraError) else 500, message)


def answered(error: Exception, names: Iterable[tuple[Path | None, str]], identity: str) -> tuple[RequestError, str]:
    """The answer for any error, and for a bug its traceback, which goes to the log under the request's ``identity``."""
    answer = as_request_error(error, names)
    if answer is not None:
        return answer, ""
    return RequestError(500, f"an error inside the server; its log has it under {identity}"), "".join(traceback.format_exception(error))
