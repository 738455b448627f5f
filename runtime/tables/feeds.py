"""What people have (tables, lists, single values, arrays of a neighbouring dtype) as the arrays that a graph takes.

    as_feeds({"age": [34, 51], "city": "Bonn"}, engine.inputs)
    as_feeds(frame, engine.inputs)                     # a pandas or polars DataFrame: a column for each input

A value is never changed without a word: a cast that would lose something is refused. The one exception are Python's own floats and the
columns of tables, which are float64 because nothing else was asked for: they are rounded to the graph's float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import kind, listed
from onnxferry.runtime.errors import InputError, first_line
from onnxferry.runtime.onnx_file.values import TensorSpec, shape_words
from onnxferry.runtime.tables.csv_file import Table

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""Cells of a column of numbers that stand for a missing one, in small letters."""


_SHOWN_NAMES = 12  # of inputs, in a line of code to paste


_FLAGS = {"true": 1, "false": 0, "yes": 1, "no": 0}


def as_feeds(feeds: object, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> Mapping[str, Any]:
    """Arrays by input name, from any of:

    a dict by input name of arrays, lists, Series, single values (repeated for all rows); a DataFrame or :class:`Table` with a column for
    each input; a list of dicts, one a row; for a model with one input, that input alone. A table goes into a model with one input of
    numbers (rows, features) as its columns side by side.

    Raises InputError, with the names that were found and wanted, for what does not fit. An array that fits is not copied. Names of a dict
    and sizes are left to the engine to check.
    """
    specs = {spec.name: spec for spec in (*inputs, *optional)}
    if type(feeds) is dict and FeedsThatFit(inputs, optional)(feeds):
        return feeds
    columns = _columns(feeds, inputs)
    if columns is None:
        if isinstance(feeds, Mapping):
            found: Mapping[str, Any] = feeds
        elif len(inputs) == 1 and feeds is not None:
            found = {inputs[0].name: feeds}
        else:
            names = listed(specs)
            raise InputError(
                f"feeds must be a dict of arrays by input name, or a table with such columns, got {kind(feeds)}; inputs: {names}"
            )
        return _together({name: _value(specs.get(name), name, value) for name, value in found.items()}, found, specs)
    return _of_table(columns, inputs, specs)


class FeedsThatFit:
    """Whether a dict holds nothing but arrays that an engine can be left to check.

    What that takes is looked up once: a small model's run takes a few microseconds.
    """

    __slots__ = ("_wanted",)

    def __init__(self, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> None:
        self._wanted = {spec.name: _wanted(spec) for spec in (*inputs, *optional)}

    def __call__(self, feeds: Mapping[str, object]) -> bool:
        wanted = self._wanted
        for name, value in feeds.items():  # noqa: SIM110 (half a microsecond more)
            if not _fits(wanted.get(name), value):
                return False
        return True


def _wanted(spec: TensorSpec) -> tuple[np.dtype[Any] | None, int] | None:
    """The dtype and the number of axes; None for what is no tensor. The dtype is None where numpy does not know it, such as bfloat16."""
    if "(" in spec.dtype:
        return None
    try:
        return np.dtype(spec.dtype), len(spec.shape)
    except TypeError:
        return None, len(spec.shape)


def _fits(wanted: tuple[np.dtype[Any] | None, int] | None, value: object) -> bool:
    """True where the engine can be left to check it: an array of the right dtype, an unknown name, no tensor."""
    if wanted is None:
        return True
    dtype, rank = wanted
    if dtype is None or type(value) is not np.ndarray or value.ndim != rank:
        return False
    found = value.dtype
    if found is dtype:  # as it is for most arrays, in their own byte order
        return True
    return found.kind in "UO" if dtype.kind == "U" else found == dtype


def _columns(feeds: object, inputs: Sequence[TensorSpec]) -> dict[str, Any] | None:
    """The columns of a table; None for what is none."""
    if isinstance(feeds, Table):
        return dict(feeds.columns)
    if isinstance(feeds, np.ndarray | Mapping):
        return None
    names = getattr(feeds, "column_names", None) or getattr(feeds, "columns", None)  # pyarrow and datasets; pandas and polars
    if names is not None and hasattr(feeds, "__getitem__"):
        words = [str(name) for name in names]
        if len(set(words)) < len(words):
            twice = Counter(words).most_common(1)[0][0]
            raise InputError(f"the table has the column {twice!r} twice; leave one of them out")
        return {word: feeds[name] for word, name in zip(words, names, strict=True)}
    rows: Any = feeds
    if _is_row(feeds) and len(inputs) > 1:
        rows = [feeds]
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes) and len(rows) and all(map(_is_row, rows)):
        dicts = [_row(row) for row in rows]
        found = dict.fromkeys(str(name) for row in dicts for name in row)
        return {name: [row.get(name) for row in dicts] for name in found}
    return None


def _is_row(row: object) -> bool:
    """A dict, a row of a DataFrame (a Series by column), or a named tuple."""
    return isinstance(row, Mapping) or hasattr(row, "_asdict") or (hasattr(row, "to_dict") and hasattr(row, "index"))


def _row(row: Any) -> Mapping[Any, Any]:
    if isinstance(row, Mapping):
        return row
    found: Mapping[Any, Any] = row._asdict() if hasattr(row, "_asdict") else row.to_dict()
    return found


def _of_table(columns: Mapping[str, Any], inputs: Sequence[TensorSpec], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    missing = [spec.name for spec in inputs if spec.name not in columns]
    only = inputs[0] if len(inputs) == 1 else None
    if missing and only is not None and only.dtype not in ("str", "bool") and len(only.shape) == 2:
        width = only.shape[1]
        if isinstance(width, int) and width != len(columns):
            names = listed(columns)
            raise InputError(f"the table has {len(columns)} columns ({names}), and the input {only.name!r} takes {width} features a row")
        cells = [_array(only, f"column {name}", values) for name, values in columns.items()]
        return {only.name: _cast(only, np.stack([c.ravel() for c in cells], axis=1), rounded=True)}
    if missing:
        wanted, have = listed(specs), listed(columns)
        raise InputError(f"the table has no column {missing[0]!r}; the model takes {wanted}, and the table has {have}")
    extra = [name for name in columns if name not in specs]
    if extra:
        wanted = "table[list(names)]" if len(specs) > _SHOWN_NAMES else f"table[[{', '.join(map(repr, specs))}]]"
        raise InputError(f"the table has columns that the model does not take: {listed(extra)}; leave them out: {wanted}")
    return {name: _value(specs[name], name, values) for name, values in columns.items()}


def batch_feeds(batch: Mapping[str, Any], inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> dict[str, Any]:
    """The columns of a batch that are inputs, as arrays: a table's columns, whose float64 is rounded, also where they are numpy's."""
    return {spec.name: _value(spec, spec.name, batch[spec.name], rounded=True) for spec in (*inputs, *optional) if spec.name in batch}


def check_text(table: Table, inputs: Sequence[TensorSpec]) -> None:
    """Raises InputError for an empty cell in a column of text: whether it means no text or a missing one, only training knows."""
    for spec in inputs:
        cells = table.columns.get(spec.name, ())
        if spec.dtype == "str" and "" in cells:
            raise InputError(
                f"{table.name}: row {list(cells).index('') + 1} of the column {spec.name!r} is empty, and the model takes text there; "
                "fill it in as for training, or leave the row out"
            )


def chosen_columns(table: Table, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> tuple[Table, tuple[str, ...]]:
    """The table without the columns that are no inputs, and their names, where every input has a column; else the table as it is."""
    names = {spec.name for spec in (*inputs, *optional)}
    if not {spec.name for spec in inputs} <= set(table.columns):
        return table, ()
    kept = {name: cells for name, cells in table.columns.items() if name in names}
    return Table(table.name, kept, table.separator), tuple(name for name in table.columns if name not in names)


def _together(made: dict[str, Any], given: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Single values are repeated for the rows that the other inputs have."""
    single = [name for name, value in given.items() if _is_single(value) and name in specs and specs[name].shape]
    rows = {len(made[name]) for name in made if name not in single and isinstance(made[name], np.ndarray) and made[name].ndim}
    if single and len(rows) == 1:
        count = rows.pop()
        for name in single:
            if not isinstance(specs[name].shape[0], int) and isinstance(made[name], np.ndarray):
                made[name] = np.repeat(made[name], count, axis=0)
    return made


def _is_single(value: object) -> bool:
    return isinstance(value, str | int | float | np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _value(spec: TensorSpec | None, name: str, value: object, rounded: bool = False) -> object:
    if spec is None or _fits(_wanted(spec), value):
        return value
    if hasattr(value, "__array__") and not isinstance(value, np.ndarray | np.generic) and not hasattr(value, "to_numpy"):
        value = _from_other_framework(name, value)
    exact = isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc"  # the dtype that the caller chose
    array = _ranked(spec, _array(spec, f"input {name!r}", value), exact)
    return array if spec.dtype == "str" else _cast(spec, array, rounded=rounded or not exact)


def _from_other_framework(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"input {name!r}: a {kind(value)} is no numpy array ({first_line(error)[:200]}); of a torch tensor give "
            f"{name}.detach().cpu().numpy(), of another dtype than numpy has {name}.float() first"
        ) from error


def _array(spec: TensorSpec, what: str, value: object) -> np.ndarray:
    """Numbers as numpy has them, or strings; missing numbers are NaN."""
    if hasattr(value, "to_numpy"):
        try:
            value = value.to_numpy()
        except (ValueError, TypeError):  # an Arrow array that would have to be copied
            value = value.to_pylist() if hasattr(value, "to_pylist") else value
    if isinstance(value, np.ndarray) and (mask := getattr(value, "mask", None)) is not None and np.any(mask):
        cells_of: np.ndarray = np.asarray(value).astype(object)  # of numpy.ma, which is not imported for it: masked is missing
        cells_of[np.broadcast_to(mask, cells_of.shape)] = None
        value = cells_of
    try:
        array = np.asarray(value, dtype=object) if spec.dtype == "str" and not hasattr(value, "dtype") else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} takes {spec.dtype}, and its rows are of different lengths") from error
    if array.dtype.kind in "biuf" and spec.dtype != "str":
        return array
    if array.dtype == object and array.size and all(isinstance(cell, list | tuple | np.ndarray) for cell in array.flat):
        return _stacked(spec, what, array)
    cells = np.empty(array.shape, object)
    cells.ravel()[:] = array.ravel().tolist() if array.dtype.kind != "O" else array.ravel()
    flat = cells.ravel()
    if spec.dtype == "str":
        for place, cell in enumerate(flat):
            if isinstance(cell, bytes):
                flat[place] = cell = _text(what, place, cell)
            if not isinstance(cell, str):
                words = "is missing" if _is_missing(cell) else f"is {cell!r} ({type(cell).__name__})"
                raise InputError(f"{what}: row {place + 1} {words}, and the model takes text there; fill it in as for training")
        return cells.astype(str) if cells.size else cells
    numbers = np.array([_number(spec, what, place, cell) for place, cell in enumerate(flat)])
    if numbers.dtype == object:  # a whole number that no dtype of numpy holds
        large = next(place for place, number in enumerate(numbers) if abs(number) >= 2**63)
        raise InputError(f"{what}: row {large + 1} is {str(numbers[large])[:40]}, which {spec.dtype} does not hold")
    return numbers.reshape(array.shape)


def _text(what: str, place: int, cell: bytes) -> str:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: row {place + 1} is bytes that are not UTF-8; decode them with their own encoding") from error


def _stacked(spec: TensorSpec, what: str, rows: np.ndarray) -> np.ndarray:
    """A column whose cells are arrays or lists of one shape, such as an embedding a row."""
    cells = [_array(spec, what, cell) for cell in rows.flat]
    if len({cell.shape for cell in cells}) > 1:
        raise InputError(f"{what} takes {spec.dtype}, and its rows are of different shapes: {cells[0].shape}, and others")
    return np.stack(cells).reshape(*rows.shape, *cells[0].shape)


def _number(spec: TensorSpec, what: str, place: int, cell: object) -> float | int | bool:
    if _is_missing(cell):
        if spec.dtype.startswith("float"):
            return float("nan")
        raise InputError(f"{what}: row {place + 1} is missing, and {spec.dtype} has no missing value; fill it in, or leave the row out")
    if isinstance(cell, bool | int | float | np.generic):
        return cell  # type: ignore[return-value]
    text = str(cell).strip()
    for read in (int, float) if "_" not in text else ():  # Python alone reads 3_4 as a number
        try:
            return read(text)
        except ValueError:
            continue
    if text.lower() in _FLAGS:
        return bool(_FLAGS[text.lower()])
    raise InputError(f"{what}: row {place + 1} is {text[:40]!r}, expected {spec.dtype}")


def _is_missing(cell: object) -> bool:
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    try:
        return bool(cell != cell)
    except TypeError:  # pandas' NA says neither yes nor no
        return True


def _ranked(spec: TensorSpec, array: np.ndarray, exact: bool) -> np.ndarray:
    """With the axes that were left out: of one row, or of one column. An array has them itself, but for a column of numbers."""
    rank = len(spec.shape)
    if not spec.ranked or array.ndim == rank or (exact and array.ndim > 1):
        return array
    if array.ndim == 0 and all(size == 1 for size in spec.shape if isinstance(size, int)):
        return array.reshape((1,) * rank)
    if array.ndim == rank - 1 and spec.shape[-1] == 1:
        return array[..., np.newaxis]
    if array.ndim == rank - 1 and not exact:
        fits = all(not isinstance(size, int) or size == have for size, have in zip(spec.shape[1:], array.shape, strict=True))
        if fits and (spec.shape[0] == 1 or not isinstance(spec.shape[0], int)):
            return array[np.newaxis]
    return array


def _cast(spec: TensorSpec, array: np.ndarray, rounded: bool) -> np.ndarray:
    """In the graph's dtype. Raises InputError where a value would change; ``rounded``: more than a float's last digits."""
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        return array  # a type that numpy does not know: the engine says what to do
    if array.dtype == wanted or array.dtype.kind not in "biuf" or wanted.kind not in "biuf":
        return array
    if array.dtype.kind == "f" and wanted.kind != "f" and np.isnan(array).any():
        place = int(np.argwhere(np.isnan(array.ravel()))[0][0])
        raise InputError(
            f"input {spec.name!r}: value {place + 1} is missing (NaN), which {spec.dtype} does not have; fill it in, or leave the row out"
        )
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
        back = cast.astype(array.dtype) if wanted.kind != "b" else cast
        if array.dtype.kind == "f" and wanted.kind == "f" and rounded:
            changed = np.isinf(cast) & ~np.isinf(array)
        else:
            changed = (back != array) & ~((array != array) & (wanted.kind == "f"))
            if array.dtype.kind == "u" and wanted.kind == "i":
                changed |= cast < 0
            if array.dtype.kind == "i" and wanted.kind == "u":
                changed |= array < 0
            if array.dtype.kind in "iu" and wanted.kind == "f":  # int64's largest rounds up, and back to itself
                changed |= np.abs(cast.astype(np.float64)) > 2.0 ** (np.finfo(wanted).nmant + 1)
    if changed.any():
        at = tuple(int(i) for i in np.argwhere(changed)[0])
        use = f"; use {spec.name}.astype({spec.dtype!r}) if the loss is meant" if not rounded else ""
        raise InputError(
            f"input {spec.name!r} must be {spec.dtype} {shape_words(spec.shape)}, got {array.dtype.name}: {array[at].item()!r} at "
            f"{list(at)} would change{use}"
        )
    return cast
