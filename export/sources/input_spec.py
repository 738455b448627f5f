"""Inputs described on a command line: ``image:float32[batch,3,224,224]``, and files of samples."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.export.source import as_array
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError, MissingExtraError, first_line
from onnxferry.runtime.files import UNREADABLE
from onnxferry.runtime.onnx_file.made_inputs import SEED, open_axis, random_array
from onnxferry.runtime.tables.csv_file import CSV_SUFFIXES, read_table

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")


FORM = "name:dtype[axis,axis,…], as image:float32[batch,3,224,224] or ids:int64[batch,time=16]=0..30521"


@dataclass(frozen=True)
class InputDescription:
    """One input: what to trace it with, and which axes are dynamic."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # traced
    axes: dict[int, str]  # place -> name of the dynamic axes
    low: float | None = None  # smallest and largest value to draw
    high: float | None = None

    def example(self, number: int = 0) -> np.ndarray:
        """Values to trace with: normal for floats, else even over the range."""
        return random_array(self.dtype, self.shape, np.random.default_rng((SEED, number)), self.low, self.high)


def parsed_inputs(texts: Sequence[str]) -> list[InputDescription]:
    """The descriptions of all ``--input`` options, in their order. The same axis name has one size in all of them."""
    sizes: dict[str, int] = {}
    found = [_parsed(text, sizes) for text in texts]
    names = [description.name for description in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--input names {name!r} twice")
    return found


def _parsed(text: str, sizes: dict[str, int]) -> InputDescription:
    match = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*:\s*(\w+)\s*(?:\[([^\]]*)\])?\s*(?:=\s*(-?[\d.]+?)\.\.(-?[\d.]+))?\s*", text)
    if match is None:
        raise InputError(f"--input {text!r} is not of the form {FORM}")
    name, dtype, dims, low, high = match.groups()
    if dtype not in DTYPES:
        raise InputError(f"--input {text!r} has the unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    shape: list[int] = []
    axes: dict[int, str] = {}
    for place, dim in enumerate(d.strip() for d in (dims or "").split(",") if (dims or "").strip()):
        if dim.isdecimal() and int(dim) > 0:
            shape.append(int(dim))
            continue
        named = re.fullmatch(r"([A-Za-z_]\w*)\s*(?:=\s*([1-9]\d*))?", dim)
        if named is None:
            raise InputError(f"--input {text!r}: the axis {dim!r} is neither a size nor a name; expected {FORM}")
        label, size = named.group(1), named.group(2)
        if size is not None and sizes.get(label, int(size)) != int(size):
            raise InputError(f"--input gives the axis {label!r} two sizes, {sizes[label]} and {size}")
        if size is not None:
            sizes[label] = int(size)
        shape.append(open_axis(label, place, sizes))
        axes[place] = label
    bounds = (float(low), float(high)) if low is not None else (None, None)
    if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
        raise InputError(f"--input {text!r}: the range runs from {low} down to {high}")
    return InputDescription(name, dtype, tuple(shape), axes, *bounds)


def samples_from_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """One sample, input name to array, from an .npz file, or column name to values from a .csv file. Raises DataError where it is none."""
    if not Path(path).is_file():
        raise DataNotFoundError(f"there is no file {path}; --samples takes .npz files with one array for every input", path)
    if Path(path).suffix.lower() in CSV_SUFFIXES:
        return _columns_from_csv(Path(path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array; --samples takes .npz files with one array for every input, by name")
            return {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise DataError(f"{path} is no .npz file of plain arrays: {first_line(error)}") from error


def _columns_from_csv(path: Path) -> dict[str, np.ndarray]:
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise MissingExtraError("pandas", "sklearn", "reading .csv files") from error
    separator = read_table(path).separator  # and all its errors, by line
    try:
        table = pd.read_csv(path, sep=separator, decimal="," if separator == ";" else ".", encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError) as error:  # of pandas, of text that is not UTF-8
        raise DataError(f"{path} is no .csv file with a line of names: {first_line(error)}") from error
    return {str(name).strip(): as_array(table[name].to_numpy()) for name in table.columns}
