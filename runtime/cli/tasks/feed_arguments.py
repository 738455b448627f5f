"""Inputs on the command line: ``x.npz``, ``rows.csv``, ``feeds.json``, ``photo.png``, ``name=3.5``, ``name=file.npy``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import listed
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError, InputNotFoundError, first_line
from onnxferry.runtime.files import UNREADABLE, read_npz
from onnxferry.runtime.images.decode import IMAGE_SUFFIXES, decode_image, with_channels
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.tables.csv_file import CSV_SUFFIXES, read_table
from onnxferry.runtime.tables.feeds import as_feeds, check_text, chosen_columns

ARRAYS = (".npz", ".npy", ".json")


FORMS = "an .npz, .npy, .csv, .json or image file, or NAME=VALUE"


def feeds_from_arguments(
    arguments: Sequence[str], inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Arrays by input name, and notes on what was left out. Raises InputError, DataError in one line for what does not fit."""
    specs = (*inputs, *optional)
    found: dict[str, Any] = {}
    notes: list[str] = []
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if sign and name in {spec.name for spec in specs}:
            new: dict[str, Any] = {name: _named(next(spec for spec in specs if spec.name == name), value)}
        elif sign and not Path(argument).exists():
            raise InputError(f"the model has no input {name!r}; it takes {_words(specs)}")
        else:
            new = _from_file(Path(argument), inputs, optional, notes)
        for each in new:
            if each in found:
                raise InputError(f"--feeds gives the input {each!r} twice")
        found |= new
    missing = [spec.name for spec in inputs if spec.name not in found]
    if missing:
        have = f"; given: {listed(found)}" if found else ""
        raise InputError(f"no --feeds for the input {missing[0]!r}; the model takes {_words(inputs)}{have}")
    return dict(as_feeds(found, inputs, optional)), notes


def _words(specs: Sequence[TensorSpec]) -> str:
    return "; ".join(map(str, specs[:20])) or "no input"


def _from_file(path: Path, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec], notes: list[str]) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if suffix in CSV_SUFFIXES:
        return rows_from_csv(path, inputs, optional, notes)
    if suffix in IMAGE_SUFFIXES:
        takers = [spec for spec in inputs if spec.dtype == "uint8" and len(spec.shape) in (3, 4)]
        takers = takers or [spec for spec in inputs if len(spec.shape) == 4]
        if len(takers) != 1:
            raise InputError(f"{path.name}: which input takes the image? Give NAME={path.name}; the model takes {_words(inputs)}")
        return {takers[0].name: _image(takers[0], path)}
    if suffix == ".npz":
        arrays: dict[str, Any] = _read(path, read_npz)
        known = {spec.name for spec in (*inputs, *optional)}
        unknown = [name for name in arrays if name not in known]
        if unknown and len(arrays) == len(inputs) == 1:
            notes.append(f"the array {unknown[0]!r} goes to the input {inputs[0].name!r}")
            return {inputs[0].name: arrays[unknown[0]]}
        if {spec.name for spec in inputs} <= set(arrays):
            if unknown:
                notes.append(f"not used of {path.name}: {', '.join(unknown)}")
            return {name: array for name, array in arrays.items() if name in known}
        if unknown:
            raise InputError(f"{path.name} holds {listed(arrays)}; the model takes {_words(inputs)}")
        return arrays
    if suffix == ".npy":
        if len(inputs) != 1:
            raise InputError(f"{path.name}: which input takes the array? Give NAME={path.name}; the model takes {_words(inputs)}")
        return {inputs[0].name: _read(path, _npy)}
    if suffix == ".json":
        document = _read(path, lambda file: json.loads(file.read_text(encoding="utf-8-sig")))
        return dict(as_feeds(document, inputs, optional))
    if not path.exists():
        raise InputNotFoundError(f"there is no file {path}; --feeds takes {FORMS}", path)
    raise InputError(f"{path.name} is no input that can be read; --feeds takes {FORMS}")


def rows_from_csv(path: Path, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec], notes: list[str]) -> dict[str, Any]:
    """The columns that the model takes; the names of the others go into ``notes``."""
    table, left = chosen_columns(read_table(path), inputs, optional)
    if left:
        notes.append(f"not used of {path.name}: {', '.join(name or '(a column without a name)' for name in left)}")
    check_text(table, inputs)
    try:
        return dict(as_feeds(table, inputs, optional))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def _named(spec: TensorSpec, value: str) -> Any:
    path = Path(value)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES and spec.dtype != "str":
        return _image(spec, path)
    if suffix == ".npy" and spec.dtype != "str":
        return _read(path, _npy)
    if spec.dtype == "str" and not value.startswith("["):
        return value
    for text in (value, f"[{value}]"):
        try:
            return json.loads(text, parse_constant=float)
        except (ValueError, RecursionError):
            continue
    if spec.dtype.startswith("float") and value.lower() in ("nan", "inf", "-inf"):
        return float(value)
    raise InputError(f"{spec.name}={value[:60]}: expected {spec.dtype}, such as 3.5 or [1, 2], or an .npy or image file")


def _image(spec: TensorSpec, path: Path) -> np.ndarray:
    """For an input of uint8 pixels, in its layout."""
    if spec.dtype != "uint8":
        raise InputError(
            f"{path.name}: the input {spec} takes no image as it is, and how pixels become its numbers is not known: export the model with "
            "--image HEIGHTxWIDTHxCHANNELS --scale 1/255, or give an .npy file"
        )
    image = decode_image(path)
    shape = spec.shape
    if len(shape) == 4 and shape[3] in (1, 3):
        return with_channels(image, int(shape[3]))[np.newaxis]
    if len(shape) == 4 and shape[1] in (1, 3):
        return with_channels(image, int(shape[1])).transpose(2, 0, 1)[np.newaxis]
    if len(shape) == 4:
        return image[np.newaxis]
    if len(shape) == 3:
        return image if shape[2] in (1, 3) else with_channels(image, 1)[np.newaxis, ..., 0]
    raise InputError(f"{path.name}: the input {spec} takes no image")


def _npy(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive of several arrays; call it .npz")
    return array


def _read(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}", path) from error
    except UNREADABLE as error:
        raise DataError(f"{path.name} cannot be read as {path.suffix}: {first_line(error)}") from error
