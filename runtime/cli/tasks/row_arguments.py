"""Rows of a table for ``predict`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import listed
from onnxferry.runtime.cli.tasks.feed_arguments import rows_from_csv
from onnxferry.runtime.cli.tasks.text_arguments import texts_of
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError, first_line
from onnxferry.runtime.evaluation.scores import Scores
from onnxferry.runtime.files import UNREADABLE, read_npz
from onnxferry.runtime.tables.csv_file import CSV_SUFFIXES, read_table
from onnxferry.runtime.tables.feeds import as_feeds, check_text, chosen_columns
from onnxferry.runtime.tasks.classifier import Prediction
from onnxferry.runtime.tasks.row_classifier import RowClassifier


def predicted_rows(model: RowClassifier, files: Sequence[str]) -> tuple[list[tuple[str, Prediction]], list[str]]:
    """``FILE, row N`` and the prediction, for every row of .csv and .npz files; and notes on columns that were not used."""
    found: list[tuple[str, Prediction]] = []
    notes: list[str] = []
    for file in files:
        path = Path(file)
        if path.suffix.lower() in CSV_SUFFIXES:
            rows: Any = rows_from_csv(path, model.engine.inputs, model.engine.optional_inputs, notes)
        elif path.suffix.lower() == ".npz":
            rows = _arrays(path)
        else:
            raise InputError(f"{file}: this model classifies rows; give a .csv with a column for each input, or an .npz: {_wanted(model)}")
        found += [(f"{path.name}, row {number + 1}", prediction) for number, prediction in enumerate(model.predict(rows))]
    return found, notes


def takes_texts(model: RowClassifier, arguments: Sequence[str]) -> bool:
    """True where the one input of the model is a text, and the arguments are no tables."""
    specs = model.engine.inputs
    if len(specs) != 1 or specs[0].dtype != "str" or len(specs[0].shape) > 2 or list(specs[0].shape[1:]) not in ([], [1]):
        return False
    return not any(Path(each).suffix.lower() in (*CSV_SUFFIXES, ".npz") for each in arguments)


def predicted_text_rows(model: RowClassifier, arguments: Sequence[str]) -> list[tuple[str, Prediction]]:
    """Each text and its prediction, of a model that :func:`takes_texts`."""
    texts = texts_of(arguments)
    (spec,) = model.engine.inputs
    predictions = model.predict({spec.name: np.array(texts, dtype=str).reshape(-1, *spec.shape[1:])})
    return list(zip(texts, predictions, strict=True))


def scored_rows(model: RowClassifier, data: Path, target: str | None) -> tuple[Scores, str, list[str]]:
    """The model's answers beside the column ``target``: scores, what was read, and notes. Raises DataError where there are no labels."""
    inputs, notes = model.engine.inputs, list[str]()
    if data.suffix.lower() in CSV_SUFFIXES:
        table = read_table(data)
        name = _target(target, tuple(table.columns), model)
        truths: Sequence[Any] = table.columns[name] if name in table.columns else table.without(name).columns[name]
        chosen, left = chosen_columns(table.without(name), inputs, model.engine.optional_inputs)
        notes += [f"not used: {', '.join(left)}"] if left else []
        check_text(chosen, inputs)
        rows: Any = chosen
    else:
        arrays = _arrays(data)
        name = _target(target, tuple(arrays), model)
        if name not in arrays:
            raise DataError(f"{data.name} has no array {name!r}; it has {listed(arrays)}")
        truths = arrays.pop(name).ravel().tolist()
        rows = arrays
    try:
        predictions = model.predict(as_feeds(rows, inputs, model.engine.optional_inputs))
    except InputError as error:
        raise InputError(f"{data.name}: {error}") from error
    if len(truths) != len(predictions):
        raise DataError(f"{data.name} has {len(truths)} labels and {len(predictions)} rows")
    scores = Scores(model.labels)
    known = {label: index for index, label in enumerate(model.labels)}
    for number, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        index = _index(truth, known)
        if index is None:
            raise DataError(
                f"{data.name}: row {number + 1} has the label {str(truth)!r}, and the model knows {', '.join(model.labels[:12])}"
            )
        scores.add(index, prediction.index, prediction.probability)
    return scores, f"{data.name}, {len(predictions)} rows, labels in {name!r}", notes


def _index(truth: Any, known: dict[str, int]) -> int | None:
    text = str(truth)
    if text in known:
        return known[text]
    try:  # 1.0 for the label 1, as tables have it where a cell is missing
        return known.get(str(int(float(text)))) if float(text) == int(float(text)) else None
    except (ValueError, OverflowError):
        return None


def _target(target: str | None, columns: Sequence[str], model: RowClassifier) -> str:
    if target is not None:
        if target not in columns:
            raise DataError(f"there is no column {target!r}; there are {listed(columns)}")
        return target
    inputs = {spec.name for spec in (*model.engine.inputs, *model.engine.optional_inputs)}
    left = [name for name in columns if name not in inputs]
    raise InputError(f"which column holds the label? Give --target NAME; beside the model's inputs there are {', '.join(left) or 'none'}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}", path) from error
    except UNREADABLE as error:
        raise DataError(f"{path.name} is no .npz of plain arrays: {first_line(error)}; rows come as .csv or .npz") from error


def _wanted(model: RowClassifier) -> str:
    return "; ".join(map(str, model.engine.inputs[:12]))
