"""An inference request of the Open Inference Protocol over HTTP: parsed, and its answer written, in JSON and in raw bytes.

With the header ``Inference-Header-Content-Length: N`` the first N bytes of a body are JSON and the rest are the tensors whose JSON says
``binary_data_size`` (in requests and answers alike).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.models import ServedModel
from onnxferry.runtime.server.tensors import described_json, from_bytes, from_list, to_bytes, to_json

HEADER = b"inference-header-content-length"

MAX_INPUTS = 1000

_SHORT = 4096
"""Bytes of JSON before raw tensors up to which it is kept: a client that sends tensors of one shape sends the same JSON each time."""

_MOST_LAYOUTS = 256


class InferCall(NamedTuple):
    """What a client asks for."""

    feeds: dict[str, np.ndarray]
    outputs: tuple[str, ...] | None = None  # None: all
    binary: frozenset[str] = frozenset()  # outputs that are wanted in raw bytes
    binary_default: bool = False
    identity: str = ""
    timeout: float | None = None  # seconds

    @property
    def rows(self) -> int:
        first = next(iter(self.feeds.values()), None)
        return int(first.shape[0]) if first is not None and first.ndim else 1


def read_json(body: bytes | memoryview, what: str = "the body") -> dict[str, Any]:
    """A JSON object. Raises InputError for anything else."""
    try:
        document = _DECODER.decode(str(body, "utf-8"))
    except InputError as error:
        raise InputError(f"{what} is refused: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(document, dict):
        raise InputError(f"{what} must be a JSON object, got a {type(document).__name__}")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises InputError for a name that occurs twice, of which JSON's readers take the first, the last, or none."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"{next(name for name in names if names.count(name) > 1)[:60]!r} occurs twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_call(served: ServedModel, body: bytes, header_length: str | None = None) -> InferCall:
    """Parses the body of an infer request. Raises InputError for what is wrong with it."""
    if header_length is None:
        head, rest, text = _read_head(body), memoryview(b""), b""
    else:
        if not header_length.isdecimal() or int(header_length) > len(body):
            raise InputError(
                f"Inference-Header-Content-Length must be a number of bytes up to the body's {len(body)}, got {header_length[:40]!r}"
            )
        length = int(header_length)
        text = body[:length]
        known: Layout | None = served.layouts.get(text)
        if known is not None and known.size == len(body):
            return known.call(body)
        head = _known_head(text) if length <= _SHORT else _read_head(text)
        rest = memoryview(body)[length:]
    feeds: dict[str, np.ndarray] = {}
    place = 0
    plain = bool(text and head.inputs)  # whether another body of this size with this text needs no checks
    for tensor in head.inputs:
        name = _name(tensor, "input")
        spec = served.input(name, feeds)
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            feeds[name] = from_list(spec, tensor.get("datatype"), tensor.get("shape"), tensor.get("data"))
            plain = False
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - place:
            raise InputError(f"input {name!r}: binary_data_size is {str(size)[:40]}, and the body has {len(rest) - place} bytes left")
        feeds[name] = from_bytes(spec, tensor.get("datatype"), tensor.get("shape"), rest[place : place + size])
        place += size
        plain = plain and size > 0 and tensor["datatype"] not in ("BYTES", "BOOL")
    if place != len(rest):
        raise InputError(f"the body has {len(rest) - place} bytes more than its tensors")
    call = InferCall(feeds, head.outputs, head.binary, head.binary_default, head.identity, head.timeout)
    if plain and len(text) <= _SHORT:
        if len(served.layouts) >= _MOST_LAYOUTS:
            del served.layouts[next(iter(served.layouts))]
        served.layouts[text] = Layout(call, len(text), len(body))
    return call


class Layout:
    """Where the tensors stand in a body whose JSON, and size, is that of a request before it, which has been checked.

    ``call``: that request's; each tensor is in raw bytes, and any bytes are a value of its dtype.
    """

    def __init__(self, call: InferCall, start: int, size: int) -> None:
        self.size = size
        self._rest = call[1:]
        self._tensors: list[tuple[str, np.dtype, tuple[int, ...], int, int]] = []
        for name, array in call.feeds.items():
            self._tensors.append((name, array.dtype, array.shape, array.size, start))
            start += array.nbytes

    def call(self, body: bytes) -> InferCall:
        """As :func:`read_call` of that body."""
        feeds = {}
        for name, dtype, shape, count, start in self._tensors:
            array = np.frombuffer(body, dtype, count, start).reshape(shape)
            feeds[name] = array if array.flags.aligned else array.copy()
        return InferCall(feeds, *self._rest)


class _Head(NamedTuple):
    """What the JSON of a request says; its tensors are checked against the model later."""

    inputs: list[Any]
    outputs: tuple[str, ...] | None
    binary: frozenset[str]
    binary_default: bool
    identity: str
    timeout: float | None


def _read_head(data: bytes) -> _Head:
    document = read_json(data)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) > MAX_INPUTS:
        raise InputError(f"inputs must be a list of at most {MAX_INPUTS} tensors")
    outputs, binary = _wanted(document.get("outputs"))
    parameters = _parameters(document)
    identity = document.get("id", "")
    if not isinstance(identity, str):
        raise InputError("id must be a text")
    default = bool(parameters.get("binary_data_output", False))
    return _Head(inputs, outputs, binary, default, identity, _timeout(parameters.get("timeout")))


_known_head = functools.lru_cache(256)(_read_head)


def write_answer(served: ServedModel, call: InferCall, answer: Mapping[str, np.ndarray]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The body and its headers."""
    tensors, raw = [], []
    for name, array in answer.items():
        if name in call.binary or (call.binary_default and (call.outputs is None or name in call.outputs)):
            data = to_bytes(array)
            tensors.append(f'{{{described_json(name, array)},"parameters":{{"binary_data_size":{len(data)}}}}}')
            raw.append(data)
        else:
            tensors.append(f'{{{described_json(name, array)},"data":{to_json(array)}}}')
    identity = f',"id":{json.dumps(call.identity)}' if call.identity else ""
    # A served model's name and version need no escapes.
    text = f'{{"model_name":"{served.name}","model_version":"{served.version}","outputs":[{",".join(tensors)}]{identity}}}'
    head = text.encode()
    if not raw:
        return head, [(b"content-type", b"application/json")]
    return b"".join((head, *raw)), [(b"content-type", b"application/octet-stream"), (HEADER, b"%d" % len(head))]


def _name(tensor: Any, what: str) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise InputError(f"each {what} must be an object with a name")
    return name


def _parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError("parameters must be an object")
    return parameters


def _wanted(outputs: Any) -> tuple[tuple[str, ...] | None, frozenset[str]]:
    if outputs is None or outputs == []:
        return None, frozenset()
    if not isinstance(outputs, list) or len(outputs) > MAX_INPUTS:
        raise InputError(f"outputs must be a list of at most {MAX_INPUTS} names")
    names = tuple(dict.fromkeys(_name(output, "output") for output in outputs))
    binary = frozenset(output["name"] for output in outputs if _parameters(output).get("binary_data") is True)
    return names, binary


def _timeout(microseconds: Any) -> float | None:
    """Triton's parameter ``timeout``, in microseconds; 0 for none."""
    if microseconds is None or microseconds == 0:
        return None
    if isinstance(microseconds, bool) or not isinstance(microseconds, int) or microseconds < 0:
        raise InputError(f"the parameter timeout must be a whole number of microseconds, got {str(microseconds)[:40]}")
    return microseconds / 1e6
