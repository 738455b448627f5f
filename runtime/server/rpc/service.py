"""The Open Inference Protocol over gRPC, on the same models, callers, bounds and errors as over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.access import Access
from onnxferry.runtime.server.errors import GRPC_CODES, RequestError, answered
from onnxferry.runtime.server.http.rest import EXTENSIONS, model_document
from onnxferry.runtime.server.models import Repository, ServedModel
from onnxferry.runtime.server.observe import Observer, Request, request_id, trace_of
from onnxferry.runtime.server.rpc import protocol
from onnxferry.runtime.server.tensors import described, from_bytes, from_list, to_bytes

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field that holds a datatype's elements; 16-bit floats have none, and travel as raw bytes."""

_OPEN = ("ServerLive", "ServerReady")


class GrpcService:
    """The methods, for one repository."""

    def __init__(self, repository: Repository, access: Access, observer: Observer, version: str) -> None:
        self.repository, self.access, self.observer, self.version = repository, access, observer, version
        self.methods: dict[str, Callable[[Any, Request], Awaitable[dict[str, Any]]]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_load,
            "RepositoryModelUnload": self.repository_unload,
        }

    def handler(self) -> Any:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        import grpc

        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(self.call, name, answer),
                request_deserializer=partial(_message, asked),
                response_serializer=answer.SerializeToString,
            )
            for name, (asked, answer) in protocol.methods().items()
        }
        return grpc.method_handlers_generic_handler(protocol.SERVICE, handlers)

    async def call(self, name: str, answer_class: Any, request: Any, context: Any) -> Any:
        import grpc

        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        known = Request("grpc", request_id(headers.get("x-request-id")), trace_of(headers.get("traceparent"))[0], route=name)
        status = "OK"
        try:
            if isinstance(request, RequestError):
                raise request
            if name not in _OPEN:
                known.caller = self.access.caller(headers.get("authorization"))
                known.caller.admit()
            left = context.time_remaining()
            longest = self.repository.options.timeout
            async with asyncio.timeout(longest if left is None else min(left, longest)):
                return answer_class(**await self.methods[name](request, known))
        except Exception as raised:  # noqa: BLE001 (every error is answered; what is a bug goes to the log with its traceback)
            answer, known.traceback = answered(raised, self.repository.private_names, known.identity)
            status, known.error = GRPC_CODES.get(answer.status, "INTERNAL"), str(answer)
            extra = (("retry-after", str(max(1, round(answer.retry_after)))),) if answer.retry_after is not None else ()
            await context.abort(getattr(grpc.StatusCode, status), known.error, (("x-request-id", known.identity), *extra))
        finally:
            self.observer.done(known, status, bool(known.traceback), method=name)

    async def server_live(self, request: Any, known: Request) -> dict[str, Any]:
        return {"live": True}

    async def server_ready(self, request: Any, known: Request) -> dict[str, Any]:
        return {"ready": self.repository.ready}

    async def model_ready(self, request: Any, known: Request) -> dict[str, Any]:
        try:
            self.repository.find_for(known, request.name, request.version or None)
        except RequestError as error:
            if error.status == 503:
                return {"ready": False}
            raise
        return {"ready": True}

    async def server_metadata(self, request: Any, known: Request) -> dict[str, Any]:
        return {"name": "onnxferry", "version": self.version, "extensions": EXTENSIONS}

    async def model_metadata(self, request: Any, known: Request) -> dict[str, Any]:
        return model_document(self.repository, self.repository.find_for(known, request.name, request.version or None))

    async def model_infer(self, request: Any, known: Request) -> dict[str, Any]:
        served = self.repository.find_for(known, request.model_name, request.model_version or None)
        raw = list(request.raw_input_contents)
        feeds = _feeds(served, request, raw)
        outputs = [output.name for output in request.outputs] or None
        answer = await served.infer(feeds, outputs)
        as_raw = bool(raw) or any(np.asarray(array).dtype == np.float16 for array in answer.values())
        tensors = [described(name, array) for name, array in answer.items()]
        if not as_raw:
            for tensor, array in zip(tensors, answer.values(), strict=True):
                tensor["contents"] = {CONTENTS[tensor["datatype"]]: _elements(array)}
        return {
            "model_name": served.name,
            "model_version": served.version,
            "id": request.id,
            "outputs": tensors,
            "raw_output_contents": [to_bytes(array) for array in answer.values()] if as_raw else [],
        }

    async def repository_index(self, request: Any, known: Request) -> dict[str, Any]:
        rows = self.repository.index(ready=request.ready)
        return {"models": [row for row in rows if known.may_use(row["name"])]}

    async def repository_load(self, request: Any, known: Request) -> dict[str, Any]:
        known.check_model(request.model_name)
        await self.repository.load(request.model_name)
        return {}

    async def repository_unload(self, request: Any, known: Request) -> dict[str, Any]:
        known.check_model(request.model_name)
        await self.repository.unload(request.model_name)
        return {}


def _message(message_class: Any, data: bytes) -> Any:
    """The message; the error where there is none, which the call then answers with."""
    from google.protobuf.message import DecodeError

    try:
        return message_class.FromString(data)
    except DecodeError:
        return RequestError(400, f"the request is no {message_class.DESCRIPTOR.name}: its bytes cannot be read")


def _feeds(served: ServedModel, request: Any, raw: list[bytes]) -> dict[str, np.ndarray]:
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    feeds: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(request.inputs):
        spec = served.input(tensor.name, feeds)
        shape = list(tensor.shape)
        if raw:
            if tensor.HasField("contents"):
                raise InputError(f"input {tensor.name!r} has contents beside raw_input_contents")
            feeds[tensor.name] = from_bytes(spec, tensor.datatype, shape, raw[number])
            continue
        place = CONTENTS.get(tensor.datatype)
        if place is None:
            raise InputError(f"input {tensor.name!r}: the datatype {tensor.datatype[:20]!r} has no contents; send raw_input_contents")
        elements = list(getattr(tensor.contents, place))
        if place == "bytes_contents":
            try:
                elements = [element.decode("utf-8") for element in elements]
            except UnicodeDecodeError as error:
                raise InputError(f"input {tensor.name!r}: a text is not UTF-8 ({error.reason} at byte {error.start})") from error
        feeds[tensor.name] = from_list(spec, tensor.datatype, shape, elements)
    return feeds


def _elements(array: np.ndarray) -> list[Any]:
    flat = np.asarray(array).reshape(-1).tolist()
    return [str(value).encode("utf-8", "surrogatepass") for value in flat] if np.asarray(array).dtype.kind in "OUS" else flat
