"""What the server offers, from the models' contracts: an OpenAPI 3.1 description, and a page for people that loads nothing."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Sequence
from typing import Any

from onnxferry.runtime.server.http.examples import example_feeds, infer_example, run_example
from onnxferry.runtime.server.models import ServedModel
from onnxferry.runtime.server.tensors import metadata
from onnxferry.runtime.server.text import MAX_BYTES
from onnxferry.runtime.tasks.autoencoder import Autoencoder
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.image_generator import ImageGenerator

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}

_TEXT_OPTIONS = {
    "max_bytes": {"type": "integer", "minimum": 1, "maximum": MAX_BYTES},
    "temperature": {"type": "number", "minimum": 0},
    "top_k": {"type": "integer", "minimum": 1},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": 0},
    "stop": {"type": "string", "minLength": 1},
}

_AS_JSON = "'content-type: application/json'"


_STREAMED = '{"prompt": "To be", "max_bytes": 100, "stream": true}'


_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


MOST_SHOWN = 1000
"""Letters of a command on the page."""


def description(models: Sequence[ServedModel]) -> dict[str, Any]:
    """The OpenAPI document for these models. Its examples can be sent as they are; making them runs each model once."""
    paths: dict[str, Any] = {
        "/v2/health/live": _get("Whether the server runs", {"live": {"type": "boolean"}}),
        "/v2/health/ready": _get("Whether the server takes requests", {"ready": {"type": "boolean"}}, ("503",)),
        "/v2": _get("Name, version and extensions of the server", {"name": {"type": "string"}, "version": {"type": "string"}}),
    }
    for served in models:
        paths |= _protocol_paths(served) | _plain_paths(served)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "onnxferry",
            "version": "2",
            "description": "The Open Inference Protocol, version 2, at /v2, and simpler routes for images, text and lists beside it.",
        },
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def page(models: Sequence[ServedModel], url: str) -> str:
    """HTML for people: each model, what it takes, and a command that tries it. It has no script, and nothing of another host."""
    url = url.rstrip("/")
    parts = [_model_section(served, url) for served in models]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>onnxferry: the models served here</title>"
        "<meta name=viewport content='width=device-width'><style>body{font:1rem/1.5 system-ui;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem;"
        "color-scheme:light dark}code,pre{font:.9rem ui-monospace,monospace}pre{overflow:auto;padding:.7rem;border:1px solid #8888;"
        "border-radius:.4rem}table{border-collapse:collapse}td,th{padding:.2rem 1rem .2rem 0;text-align:left}</style>"
        "<h1>The models served here</h1><p>Every model answers by the Open Inference Protocol, version 2, at "
        f"<code>{html.escape(url)}/v2</code>. <a href='{html.escape(url)}/openapi.json'>openapi.json</a> describes all "
        "routes, with examples; "
        f"<a href='{html.escape(url)}/metrics'>metrics</a> are in the format of Prometheus. "
        "The commands can be sent as they are; replace IMAGE.png by an image of yours.</p>"
        f"{''.join(parts) or '<p>No model is loaded.</p>'}</html>"
    )


def curl_lines(served: ServedModel, url: str) -> list[str]:
    """Commands that try a model. ``IMAGE.png`` is to be replaced by a file of the reader's."""
    model = served.model
    if isinstance(model, Classifier | Autoencoder):
        return [f"curl --data-binary @IMAGE.png {url}/predict/{served.name}"]
    if served.text is not None:
        return [
            f"curl --data-binary 'To be' {url}/generate/{served.name}",
            f"curl -N -d {shlex.quote(_STREAMED)} -H {_AS_JSON} {url}/generate/{served.name}",
        ]
    if isinstance(model, ImageGenerator):
        return [f"curl -X POST {url}/sample/{served.name} -o sample.png"]
    feeds = example_feeds(served)
    line = f"curl -d {shlex.quote(json.dumps(run_example(feeds)))} {url}/run/{served.name}" if feeds else ""
    return [line] if 0 < len(line) <= MOST_SHOWN else [f"curl {url}/v2/models/{served.name}"]


def _model_section(served: ServedModel, url: str) -> str:
    rows = "".join(
        f"<tr><td>{role}<td><code>{html.escape(spec.name)}</code><td>{about['datatype']}<td><code>{html.escape(str(about['shape']))}</code>"
        for role, specs in (("input", served.inputs), ("output", served.outputs))
        for spec in specs.values()
        for about in (metadata(spec),)
    )
    contract = served.model.contract
    lines = "\n".join(curl_lines(served, url))
    return (
        f"<h2>{html.escape(served.name)}</h2><p>Version {html.escape(served.version)}, {html.escape(served.kind.noun)}. "
        f"{html.escape(contract.description if contract else '')}</p><pre>{html.escape(lines)}</pre>"
        f"<table><tr><th><th>name<th>datatype<th>shape (-1: any size){rows}</table>"
    )


def _protocol_paths(served: ServedModel) -> dict[str, Any]:
    at = f"/v2/models/{served.name}"
    names = {"name": {"type": "string"}}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string", "enum": list(served.inputs)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string", "enum": sorted({metadata(spec)["datatype"] for spec in served.inputs.values()})},
            "data": {"type": "array"},
        },
    }
    infer = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor, "minItems": 1}},
    }
    feeds = example_feeds(served)
    example = infer_example(feeds, served.inputs) if feeds else None
    answer = {"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": {"type": "array"}}
    paths = {
        at: _get(f"Inputs and outputs of {served.name}", {**names, "inputs": {"type": "array"}, "outputs": {"type": "array"}}),
        f"{at}/ready": _get(f"Whether {served.name} is loaded", names),
        f"{at}/infer": _post(f"Run {served.name}", _json(infer, example), answer),
    }
    if served.text is not None:
        options = {("max_tokens" if name == "max_bytes" else name): schema for name, schema in _TEXT_OPTIONS.items()}
        body = {
            "type": "object",
            "required": ["text_input"],
            "properties": {
                "text_input": {"type": "string"},
                "parameters": {"type": "object", "properties": options, "additionalProperties": False},
            },
        }
        content = _json(body, {"text_input": "To be", "parameters": {"max_tokens": 50}})
        paths[f"{at}/generate"] = _post(f"Continue a text with {served.name}", content, {"text_output": {"type": "string"}})
        paths[f"{at}/generate_stream"] = _post(
            f"Continue a text with {served.name}, as server-sent events", content, None, "text/event-stream"
        )
    return paths


def _plain_paths(served: ServedModel) -> dict[str, Any]:
    model, name = served.model, served.name
    image = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
    if isinstance(model, Classifier):
        properties = {"label": {"type": "string", "enum": list(model.labels)}, "index": {"type": "integer"}, "probability": _PROBABILITY}
        if model.tells_unknown:
            properties |= {"unknown": _PROBABILITY, "known": {"type": "boolean"}}
        query = {"name": "top", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10000}}
        return {f"/predict/{name}": _post(f"The class of an image, by {name}", image, properties, parameters=[query])}
    if isinstance(model, Autoencoder):
        properties = {"anomaly_score": {"type": "number"}, "threshold": {"type": "number"}, "unusual": {"type": "boolean"}}
        return {f"/predict/{name}": _post(f"How unusual an image is, by {name}", image, properties)}
    if served.text is not None:
        body = {"type": "object", "properties": {"prompt": {"type": "string"}, **_TEXT_OPTIONS}, "additionalProperties": False}
        content = {
            **_json(body, {"prompt": "To be", "max_bytes": 50}),
            "text/plain": {"schema": {"type": "string"}, "example": "To be"},
        }
        return {f"/generate/{name}": _post(f"Continue a text with {name}", content, {"text": {"type": "string"}})}
    if isinstance(model, ImageGenerator):
        options = {
            "n": {"type": "integer", "minimum": 1, "maximum": 256},
            "label": {"type": "string", "enum": list(model.labels)},
            "seed": {"type": "integer", "minimum": 0},
        }
        body = {"type": "object", "properties": options, "additionalProperties": False}
        return {f"/sample/{name}": _post(f"Images made by {name}", _json(body, {"n": 4, "seed": 1}), None, "image/png")}
    body = {"type": "object", "properties": {spec: {} for spec in served.inputs}}
    feeds = example_feeds(served)
    content = _json(body, run_example(feeds) if feeds else None)
    return {f"/run/{name}": _post(f"Run {name} on lists", content, {"outputs": {"type": "object"}})}


def _json(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **({} if example is None else {"example": example})}}


def _answers(properties: dict[str, Any] | None, kind: str, errors: Sequence[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if kind == "text/event-stream":  # each event
        schema = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
    elif properties is not None:
        schema = {"type": "object", "required": list(properties), "properties": properties}
    answers: dict[str, Any] = {"200": {"description": "The answer", "content": {kind: {"schema": schema}}}}
    for status in errors:
        answers[status] = {"description": "An error", "content": _json(_ERROR)}
    return answers


def _get(summary: str, properties: dict[str, Any], errors: Sequence[str] = ("401", "404")) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _answers(properties, "application/json", errors)}}


def _post(
    summary: str,
    content: dict[str, Any],
    properties: dict[str, Any] | None,
    kind: str = "application/json",
    parameters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    errors = ("400", "401", "403", "404", "413", "415", "429", "503", "504")
    return {
        "post": {
            "summary": summary,
            "security": [{}, {"token": []}],
            "parameters": list(parameters),
            "requestBody": {"required": True, "content": content},
            "responses": _answers(properties, kind, errors),
        }
    }
