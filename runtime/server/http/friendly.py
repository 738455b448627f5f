"""Plain routes beside the protocol: an image file or a text in, JSON or an image out, and a page that shows how.

curl --data-binary @seven.png http://127.0.0.1:8000/predict/digits
curl --data-binary 'To be' http://127.0.0.1:8000/generate/shakespeare
"""

from __future__ import annotations

import asyncio
import io
import math
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import decode_image, with_channels
from onnxferry.runtime.images.grid import image_grid
from onnxferry.runtime.server.errors import RequestError
from onnxferry.runtime.server.http.gate import is_lone, while_connected
from onnxferry.runtime.server.http.infer import read_json
from onnxferry.runtime.server.http.openapi import description, page
from onnxferry.runtime.server.http.rest import events, find, text_options, text_queue
from onnxferry.runtime.server.models import Repository, ServedModel
from onnxferry.runtime.server.observe import Metrics
from onnxferry.runtime.server.tensors import datatype_of, from_list, to_list
from onnxferry.runtime.tasks.autoencoder import Autoencoder
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.image_generator import ImageGenerator

_SMALL = 16 * 1024
"""An encoded image below that is decoded on the event loop: another thread would take longer."""

MAX_IMAGES = 256


class Friendly:
    """The routes, for one repository."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self.repository, self.metrics = repository, metrics

    def routes(self) -> list[Route]:
        return [
            Route("/predict/{name}", self.predict, methods=["POST"]),
            Route("/generate/{name}", self.generate, methods=["POST"]),
            Route("/sample/{name}", self.sample, methods=["POST"]),
            Route("/run/{name}", self.run, methods=["POST"]),
            Route("/metrics", self.metrics_page),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
        ]

    async def predict(self, request: Request) -> Response:
        """A class for an image; the anomaly score of an autoencoder."""
        data = await _upload(request)
        served = find(self.repository, request, "predict")
        model = served.model
        if isinstance(model, Classifier):
            image = await _decoded(data, model.channels)
            top = _number(request.query_params.get("top"), "top")
            outputs = await while_connected(
                request.scope, request.receive, served.infer({"image": image[None]}, model.needed_outputs, is_lone(request.scope))
            )
            (found,) = model.predictions(outputs, 1)
            return JSONResponse({"model": served.name, **found.to_dict(top)})
        if isinstance(model, Autoencoder):
            image = await _decoded(data, model.channels)
            outputs = await while_connected(
                request.scope, request.receive, served.infer({"image": image[None]}, ["anomaly_score"], is_lone(request.scope))
            )
            score = float(outputs["anomaly_score"][0])
            answer = {"anomaly_score": score, "threshold": model.threshold, "unusual": score > model.threshold}
            return JSONResponse({"model": served.name, **answer})
        raise RequestError(400, f"model {served.name!r} is {served.kind.noun}, which takes no image; see /docs")

    async def generate(self, request: Request) -> Response:
        """The continuation of a prompt: a text body, or JSON with options."""
        body = await request.body()
        served = find(self.repository, request, "generate")
        queue = text_queue(served)
        asked: dict[str, Any] = {}
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            asked = read_json(body)
            prompt = asked.pop("prompt", "")
        else:
            try:
                prompt = body.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"the prompt is not UTF-8 ({error.reason} at byte {error.start})") from error
        if not isinstance(prompt, str):
            raise InputError("prompt must be a text")
        stream = asked.pop("stream", False) is True
        wanted = text_options(prompt, asked)
        queue.check(wanted)
        if stream:
            made = events(served, queue, wanted, lambda piece: {"text": piece})
            return StreamingResponse(made, media_type="text/event-stream", headers={"cache-control": "no-store"})
        with served.counted():
            text, _ = await while_connected(request.scope, request.receive, queue.whole(wanted))
        self.metrics.text_bytes.labels(served.name, served.version).inc(len(text.encode()))
        return JSONResponse({"model": served.name, "text": text})

    async def sample(self, request: Request) -> Response:
        """Images of a class, as one PNG."""
        body = await request.body()
        served = find(self.repository, request, "sample")
        asked = read_json(body) if body else {}
        unknown = set(asked) - {"n", "label", "seed"}
        if unknown:
            raise InputError(f"unknown option {sorted(unknown)[0][:60]!r}; known are n, label and seed")
        n = asked.get("n", 1)
        if isinstance(n, int) and n > MAX_IMAGES:
            raise InputError(f"n must be at most {MAX_IMAGES}, got {n}")
        model = served.model
        if not isinstance(model, ImageGenerator):
            raise RequestError(400, f"model {served.name!r} is {served.kind.noun}, and sample is for image generators")
        with served.counted():
            made = await asyncio.to_thread(model.sample, n, asked.get("label"), asked.get("seed", 0))
        file = io.BytesIO()
        Image.fromarray(image_grid(made, math.ceil(math.sqrt(len(made))), gap=int(len(made) > 1))).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def run(self, request: Request) -> Response:
        """Any model: a JSON object of lists by input name in, one by output name out."""
        asked = read_json(await request.body())
        served = find(self.repository, request, "run")
        feeds = {name: _array(served, name, value) for name, value in asked.items()}
        outputs = await while_connected(request.scope, request.receive, served.infer(feeds, lone=is_lone(request.scope)))
        answer = {name: _nested(array) for name, array in outputs.items()}
        return JSONResponse({"model": served.name, "outputs": answer})

    async def metrics_page(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "metrics"
        for served in self.repository.open.values():
            self.metrics.waiting.labels(served.name, served.version).set(served.waiting)
        content, kind = self.metrics.page()
        return Response(content, media_type=kind)

    async def openapi(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "docs"
        return JSONResponse(await asyncio.to_thread(description, self._visible(request)))

    async def docs(self, request: Request) -> Response:
        request.scope["onnxferry"].route = "docs"
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        made = await asyncio.to_thread(page, self._visible(request), str(request.base_url))
        return HTMLResponse(made, headers={"content-security-policy": policy})

    def _visible(self, request: Request) -> list[ServedModel]:
        return [served for served in self.repository.open.values() if request.scope["onnxferry"].may_use(served.name)]


async def _upload(request: Request) -> bytes:
    """The body, or the first file of a form."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        from starlette.datastructures import UploadFile
        from starlette.exceptions import HTTPException

        try:
            async with request.form(max_files=1, max_fields=10) as form:
                for value in form.values():
                    if isinstance(value, UploadFile):
                        return await value.read()
        except HTTPException as error:
            raise InputError(f"the form cannot be read: {error.detail}") from error
        raise InputError("the form holds no file")
    body = await request.body()
    if not body:
        raise InputError("the body is empty: send the bytes of an image, as PNG or JPEG")
    return body


async def _decoded(data: bytes, channels: int) -> np.ndarray:
    def decode() -> np.ndarray:
        return with_channels(decode_image(data), channels)

    return decode() if len(data) < _SMALL else await asyncio.to_thread(decode)


def _number(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise InputError(f"{name} must be a whole number from 1, got {text[:40]!r}")
    return int(text)


def _array(served: ServedModel, name: str, value: Any) -> np.ndarray:
    spec = served.input(name)
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    return from_list(spec, datatype_of(spec), shape, value if isinstance(value, list) else [value])


def _nested(array: np.ndarray) -> Any:
    flat = to_list(array)
    nested = np.empty(len(flat), object)
    nested[:] = flat
    return nested.reshape(np.shape(array)).tolist()
