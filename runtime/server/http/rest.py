"""The routes of the Open Inference Protocol, version 2, over HTTP; all but infer, which is in :mod:`onnxferry.runtime.server.http.infer`.

Source: https://github.com/kserve/open-inference-protocol, open_inference_rest.yaml and generate_rest.yaml; the repository extension as of
Triton Inference Server (https://github.com/triton-inference-server/server, docs/protocol/extension_model_repository.md).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.errors import RequestError, as_request_error
from onnxferry.runtime.server.http.gate import while_connected
from onnxferry.runtime.server.http.infer import read_json
from onnxferry.runtime.server.models import Repository, ServedModel
from onnxferry.runtime.server.tensors import metadata
from onnxferry.runtime.server.text import TextQueue, TextRequest

EXTENSIONS = ["binary_tensor_data", "model_repository", "generate"]

PLATFORM = "onnxruntime_onnx"


class Protocol:
    """The routes, for one repository."""

    def __init__(self, repository: Repository, version: str) -> None:
        self.repository, self.version = repository, version

    def routes(self) -> list[Route]:
        at = "/v2/models/{name}"
        routes = []
        for place in (at, at + "/versions/{version}"):
            routes += [
                Route(f"{place}/generate", self.generate, methods=["POST"]),
                Route(f"{place}/generate_stream", self.generate_stream, methods=["POST"]),
                Route(f"{place}/ready", self.model_ready),
                Route(place, self.model_metadata),
            ]
        return [
            *routes,
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2", self.server_metadata),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{name}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", self.unload, methods=["POST"]),
        ]

    async def generate(self, request: Request) -> Response:
        asked = read_json(await request.body())
        served = find(self.repository, request, "generate")
        queue, wanted = text_queue(served), text_request(asked)
        with served.counted():
            text, stopped = await while_connected(request.scope, request.receive, queue.whole(wanted))
        details = {"finish_reason": "stop_sequence" if stopped else "length"}
        answer = {"model_name": served.name, "model_version": served.version, "text_output": text, "details": details}
        return JSONResponse(answer)

    async def generate_stream(self, request: Request) -> Response:
        asked = read_json(await request.body())
        served = find(self.repository, request, "generate_stream")
        queue, wanted = text_queue(served), text_request(asked)
        queue.check(wanted)  # before the answer begins

        def event(piece: str) -> dict[str, Any]:
            return {"model_name": served.name, "model_version": served.version, "text_output": piece}

        return StreamingResponse(
            events(served, queue, wanted, event), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def live(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "live"
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "ready"
        ready = self.repository.ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        served = find(self.repository, request, "model_ready")
        return JSONResponse({"name": served.name, "ready": True})

    async def server_metadata(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "metadata"
        return JSONResponse({"name": "onnxferry", "version": self.version, "extensions": EXTENSIONS})

    async def model_metadata(self, request: Request) -> Response:
        return JSONResponse(model_document(self.repository, find(self.repository, request, "model_metadata")))

    async def index(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "index"
        body = await request.body()
        ready = read_json(body).get("ready", False) if body else False
        rows = self.repository.index(ready=ready is True)
        return JSONResponse([row for row in rows if request.scope["onnxferry"].may_use(row["name"])])

    async def load(self, request: Request) -> Response:
        return await self._change(request, "load")

    async def unload(self, request: Request) -> Response:
        return await self._change(request, "unload")

    async def _change(self, request: Request, what: str) -> Response:
        request.scope["onnxferry"].route = what
        await request.body()
        name = request.path_params["name"]
        request.scope["onnxferry"].check_model(name)
        await (self.repository.load(name) if what == "load" else self.repository.unload(name))
        return Response(status_code=200)


def find(repository: Repository, request: Request, route: str) -> ServedModel:
    """The model that a path names, which the caller may use. It stays open until the request is done. Raises RequestError for others."""
    known = request.scope["onnxferry"]
    known.route = route
    return repository.find_for(known, request.path_params["name"], request.path_params.get("version"))


def model_document(repository: Repository, served: ServedModel) -> dict[str, Any]:
    """A model's metadata."""
    contract = served.model.contract
    properties = {"kind": served.kind.name}
    if contract and contract.description:
        properties["description"] = contract.description
    if served.model.labels:
        properties["labels"] = json.dumps(list(served.model.labels))
    return {
        "name": served.name,
        "versions": repository.versions(served.name),
        "platform": PLATFORM,
        "inputs": [metadata(spec) for spec in served.inputs.values()],
        "outputs": [metadata(spec) for spec in served.outputs.values()],
        "properties": properties,
    }


def text_queue(served: ServedModel) -> TextQueue:
    if served.text is None:
        raise RequestError(400, f"model {served.name!r} is {served.kind.noun}, and generate is for text generators")
    return served.text


def text_request(asked: dict[str, Any]) -> TextRequest:
    """From the protocol's body: ``text_input`` and ``parameters`` (max_tokens are bytes; temperature, top_k, top_p, seed, stop).

    Parameters may be given beside ``text_input`` too, as clients of Triton's back ends send them.
    """
    prompt, parameters = asked.get("text_input"), asked.get("parameters") or {}
    if not isinstance(prompt, str) or not isinstance(parameters, dict):
        raise InputError("text_input must be a text, and parameters an object")
    beside = {name: value for name, value in asked.items() if name not in ("id", "text_input", "parameters", "stream")}
    if twice := set(beside) & set(parameters):
        raise InputError(f"{min(twice)[:60]!r} is given both beside text_input and in parameters; give it once")
    parameters = {**beside, **parameters}
    known = {name: value for name, value in parameters.items() if value is not None}
    known.pop("details", None)
    if "max_tokens" in known:
        known["max_bytes"] = known.pop("max_tokens")
    return text_options(prompt, known)


def text_options(prompt: str, options: dict[str, Any]) -> TextRequest:
    """Raises InputError for an option that is unknown."""
    known = [field.name for field in dataclasses.fields(TextRequest) if field.name != "prompt"]
    unknown = set(options) - set(known)
    if unknown:
        raise InputError(f"unknown parameter {sorted(unknown)[0][:60]!r}; known are {', '.join(known[:-1])} and {known[-1]}")
    return TextRequest(prompt, **options)


async def events(served: ServedModel, queue: TextQueue, wanted: TextRequest, event: Any) -> AsyncIterator[bytes]:
    """Server-sent events, one a piece. An error that comes on the way is the last event, as the answer has begun."""
    try:
        with served.counted():
            async for piece in queue.stream(queue.check(wanted)):
                yield b"data: " + json.dumps(event(piece)).encode() + b"\n\n"
    except Exception as error:
        answer = as_request_error(error, [(served.path, served.name)])
        if answer is None:
            raise
        yield b"data: " + json.dumps({"error": str(answer)}).encode() + b"\n\n"
