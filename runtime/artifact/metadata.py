"""Reads and writes the contract in the ``metadata_props`` of an ONNX file."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import is_text
from onnxferry.runtime.artifact.contract import GOLDEN_BYTES, GOLDEN_DTYPES, MAX_VALUE_BYTES, SCHEMA, TEXT, Contract, Golden, Tolerance
from onnxferry.runtime.errors import ArtifactError

DEFAULTS_KEY = "onnxferry.defaults"
"""Where the inputs' defaults stand."""


MAX_NESTING = 64
"""Lists and objects in each other, in one value: what prints or copies them calls itself for each level."""


def metadata_from_contract(contract: Contract) -> dict[str, str]:
    """The ``metadata_props`` of an artifact, string to string, keys sorted so that equal contracts give equal bytes.

    Raises ArtifactError for what JSON cannot represent (NaN, arrays outside the golden samples, …) and for values too long to be read.
    """
    about = {
        "kind": contract.kind,
        "name": contract.name,
        "family": contract.family,
        "labels": list(contract.labels),
        "options": dict(contract.options),
        "tolerances": {name: [t.rtol, t.atol] for name, t in contract.tolerances.items()},
    }
    goldens = [
        {"inputs": {k: json_from_array(v) for k, v in g.inputs.items()}, "outputs": {k: json_from_array(v) for k, v in g.outputs.items()}}
        for g in contract.goldens
    ]
    metadata = {
        "onnxferry.schema": str(contract.schema),
        "onnxferry.contract": _dumps("labels and options", about),
        "onnxferry.goldens": _dumps("goldens", goldens),
        DEFAULTS_KEY: _dumps("defaults", {name: json_from_array(array) for name, array in contract.defaults.items()}),
        "onnxferry.provenance": _dumps("provenance", dict(contract.provenance)),
        "onnxferry.metrics": _dumps("metrics", dict(contract.metrics)),
        "onnxferry.parity": _dumps("parity", dict(contract.parity)),
        "onnxferry.certificate": _dumps("certificate", dict(contract.certificate)),
        # Plain keys as other tools write and read them.
        "task": contract.kind,
        "description": contract.description,
        "author": contract.author,
        "license": contract.license,
        "version": contract.version,
    }
    if contract.labels:
        metadata["names"] = _dumps("labels", {str(i): label for i, label in enumerate(contract.labels)})
    if "image_size" in contract.options:
        metadata["imgsz"] = _dumps("image_size", contract.options["image_size"])
    return {key: value for key, value in sorted(metadata.items()) if value not in ("", "{}", "[]")}


def contract_from_metadata(metadata: Mapping[str, str]) -> Contract | None:
    """The contract in a file's ``metadata_props``, or None if the file has none.

    Raises ArtifactError for one that is invalid, too large or newer than this runtime.
    """
    if "onnxferry.schema" not in metadata:
        return None
    schema = _schema_number(metadata["onnxferry.schema"])
    about = _object(metadata, "onnxferry.contract", required=True)
    labels = about.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _broken("onnxferry.contract", "labels must be a list of strings")
    return Contract(
        kind=_string(about, "kind"),
        name=_string(about, "name"),
        family=_string(about, "family"),
        description=metadata.get("description", "")[:MAX_VALUE_BYTES],
        labels=tuple(labels),
        options=_mapping(about, "options"),
        tolerances=_tolerances(_mapping(about, "tolerances")),
        goldens=_goldens(metadata),
        defaults={name: _array_from_json(value, DEFAULTS_KEY) for name, value in _object(metadata, DEFAULTS_KEY).items()},
        provenance=_object(metadata, "onnxferry.provenance"),
        metrics=_object(metadata, "onnxferry.metrics"),
        parity=_object(metadata, "onnxferry.parity"),
        certificate=_object(metadata, "onnxferry.certificate"),
        author=metadata.get("author", "")[:MAX_VALUE_BYTES],
        license=metadata.get("license", "")[:MAX_VALUE_BYTES],
        version=metadata.get("version", "")[:MAX_VALUE_BYTES],
        schema=schema,
    )


def contract_of(metadata: Mapping[str, str], file: str) -> Contract | None:
    """As :func:`contract_from_metadata`, with the name of the file in the error."""
    try:
        return contract_from_metadata(metadata)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error


def _dumps(what: str, value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: NaN, infinity, half a character
        raise ArtifactError(
            f"the contract's {what} cannot be written as JSON: {error}; use plain strings, numbers, lists and dicts"
        ) from error
    if size > MAX_VALUE_BYTES:
        raise ArtifactError(f"the contract's {what} take {size} bytes, more than the {MAX_VALUE_BYTES} that are read back")
    return text


def _broken(key: str, why: str) -> ArtifactError:
    return ArtifactError(f"the file's contract is broken: {key}: {why}; export the model again")


def _schema_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise _broken("onnxferry.schema", f"expected a whole number, got {text[:40]!r}")
    schema = int(text)
    if schema > SCHEMA:
        raise ArtifactError(f"the file's contract has schema {schema}, this runtime reads up to {SCHEMA}: pip install -U onnxferry")
    return schema


def _loads(metadata: Mapping[str, str], key: str) -> Any:
    text = metadata[key]
    if len(text) > MAX_VALUE_BYTES:
        raise _broken(key, f"{len(text)} characters, more than the {MAX_VALUE_BYTES} that are read")
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _broken(key, f"not JSON ({error})") from error
    level = [value]
    for _ in range(MAX_NESTING):
        level = [item for each in level if isinstance(each, dict | list) for item in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return value
    raise _broken(key, f"lists and objects in each other more than {MAX_NESTING} deep")


def _finite(text: str) -> float:
    """JSON has no NaN and no infinity; Python's parser lets NaN, Infinity and 1e999 through."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _object(metadata: Mapping[str, str], key: str, required: bool = False) -> dict[str, Any]:
    if key not in metadata:
        if required:
            raise _broken(key, "missing")
        return {}
    value = _loads(metadata, key)
    if not isinstance(value, dict):
        raise _broken(key, f"expected an object, got {type(value).__name__}")
    return value


def _string(about: Mapping[str, Any], key: str) -> str:
    value = about.get(key, "")
    if not isinstance(value, str):
        raise _broken("onnxferry.contract", f"{key} must be a string")
    return value


def _mapping(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = about.get(key, {})
    if not isinstance(value, dict):
        raise _broken("onnxferry.contract", f"{key} must be an object")
    return value


def _tolerances(pairs: Mapping[str, Any]) -> dict[str, Tolerance]:
    tolerances = {}
    for name, pair in pairs.items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, int | float) and not isinstance(x, bool) for x in pair)):
            raise _broken("onnxferry.contract", f"the tolerance of {name[:40]!r} must be [rtol, atol]")
        try:
            tolerances[name] = Tolerance(float(pair[0]), float(pair[1]))
        except (ArtifactError, OverflowError) as error:  # OverflowError: a whole number beyond float64
            raise _broken("onnxferry.contract", f"the tolerance of {name[:40]!r}: {error}") from error
    return tolerances


def _goldens(metadata: Mapping[str, str]) -> tuple[Golden, ...]:
    if "onnxferry.goldens" not in metadata:
        return ()
    items = _loads(metadata, "onnxferry.goldens")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _broken("onnxferry.goldens", "expected a list of objects")
    goldens = []
    for item in items:
        sides = []
        for side in ("inputs", "outputs"):
            arrays = item.get(side)
            if not isinstance(arrays, dict):
                raise _broken("onnxferry.goldens", f"a sample has no {side}")
            sides.append({name: _array_from_json(value, "onnxferry.goldens") for name, value in arrays.items()})
        goldens.append(Golden(*sides))
    return tuple(goldens)


def json_from_array(array: np.ndarray) -> dict[str, Any]:
    """As an array is written in a contract. Raises ArtifactError for a dtype that none has."""
    array = np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis
    if is_text(array):
        return {"dtype": TEXT, "shape": list(array.shape), "data": array.ravel().tolist()}
    if array.dtype.name not in GOLDEN_DTYPES:
        raise ArtifactError(f"an array of dtype {array.dtype} cannot be stored in a contract; expected one of {', '.join(GOLDEN_DTYPES)}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": base64.b64encode(little.tobytes()).decode("ascii")}


def _array_from_json(value: Any, key: str) -> np.ndarray:
    if not isinstance(value, dict):
        raise _broken(key, "an array must be an object")
    dtype, shape, data = value.get("dtype"), value.get("shape"), value.get("data")
    if dtype != TEXT and dtype not in GOLDEN_DTYPES:
        raise _broken(key, f"unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > 16 or not all(type(n) is int and 0 <= n <= GOLDEN_BYTES for n in shape):
        raise _broken(key, "a shape must be a list of small whole numbers")
    if dtype == TEXT:
        return _reshaped(_text(data, math.prod(shape), key), shape, key)
    if not isinstance(data, str):
        raise _broken(key, "an array's data must be base64 text")
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _broken(key, f"bad base64 ({error})") from error
    little = np.dtype(dtype).newbyteorder("<")
    if len(raw) != math.prod(shape) * little.itemsize:
        raise _broken(key, f"{len(raw)} bytes do not fill shape {shape} of {dtype}")
    if dtype == "bool" and raw.strip(b"\0\1"):
        raise _broken(key, "a bool is neither 0 nor 1")
    return _reshaped(np.frombuffer(raw, dtype=little).astype(np.dtype(dtype)), shape, key)


def _text(data: Any, count: int, key: str) -> np.ndarray:
    """As objects: one long string among many would make numpy's own strings enormous."""
    if not isinstance(data, list) or len(data) != count or not all(isinstance(text, str) for text in data):
        raise _broken(key, f"text must be a list of {count} strings")
    if any("\ud800" <= character <= "\udfff" for text in data for character in text):
        raise _broken(key, "text holds half a character")
    return np.array(data, dtype=object)


def _reshaped(array: np.ndarray, shape: list[int], key: str) -> np.ndarray:
    try:
        return array.reshape(shape)
    except ValueError as error:  # an empty array whose other axes multiply beyond what numpy can count
        raise _broken(key, f"no array has the shape {shape}") from error
