"""Value probes of a table: its rows are answered one by one, and each column has a range, a dtype and a meaning of its own.

A probe is one pattern: some rows that have it in every column, and some that have it in one column, beside a row of the example. Rows
that the model does not take are left out one by one, not with the whole probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxferry.export.parity.probes import SEED, Case
from onnxferry.export.parity.special.patterns import Fill, column_patterns
from onnxferry.export.source import Feeds, InputSpec, dynamic_axes

FULL_ROWS = 8
"""Rows with the pattern in every column."""

COLUMNS = 24
"""Columns that have it alone, one row each; of a wider table that many are drawn."""


BEYOND = 1e9
"""Times the largest number of a column in the example: farther away float64 has no digit left for what tells two fitted rows apart once
differences are squared, and which one is nearer is decided by rounding."""


SQUARED = 3e9
"""The largest whole number whose square int64 holds: beyond it, and beyond what the column has, estimators that square wrap around."""


def row_probes(inputs: Sequence[InputSpec], examples: Feeds) -> Iterator[Case]:
    """A case for each pattern, all inputs together; none for a table of text alone, whose values cannot be made up here."""
    patterns = {spec.name: column_patterns(spec, examples[spec.name]) for spec in inputs}
    places = [(spec.name, column) for spec in inputs if spec.by_column for column in range(spec.traced[1])]
    for number in range(max((len(each) for each in patterns.values()), default=0)):
        rng = np.random.default_rng((SEED, 5000 + number))
        picked = [places[i] for i in rng.permutation(len(places))[:COLUMNS] if patterns[places[i][0]]]
        known = rng.integers(0, inputs[0].traced[0], len(picked))
        feeds, names = {}, []
        for spec in inputs:
            own = patterns[spec.name]
            name, fill = own[number % len(own)] if own else ("", None)
            feeds[spec.name] = _rows(spec, examples[spec.name], fill, [c if of == spec.name else -1 for of, c in picked], known, rng)
            names.append(name)
        words = ", ".join(dict.fromkeys(name for name in names if name))
        rows = FULL_ROWS + len(picked)
        yield Case(f"values: {words}", feeds, dict.fromkeys(dynamic_axes(inputs), rows), generated=True)


def _rows(
    spec: InputSpec, example: np.ndarray, fill: Fill | None, columns: Sequence[int], known: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """``columns``: for each of the rows after the first ones the column that has the pattern, -1 for none in this input."""
    alone = np.array(example[known])
    full = np.array(example[rng.integers(0, len(example), FULL_ROWS)])
    if fill is not None:
        full, drawn = _filled(fill, example, full.shape, rng), _filled(fill, example, alone.shape, rng)
        for row, column in enumerate(columns):
            if column >= 0:
                alone[row, column] = drawn[row, column]
    return np.concatenate([full, alone])


def _filled(fill: Fill, example: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    with np.errstate(over="ignore"):
        made = np.array(np.broadcast_to(fill(shape, rng), shape)).astype(example.dtype)
    if example.dtype.kind not in "iuf":
        return made
    known = np.where(np.isfinite(example), np.abs(example.astype(np.float64)), 0.0).max(0)
    bound = BEYOND * np.where(known > 0, known, 1.0)
    if example.dtype.kind != "f":
        bound = np.minimum(bound, np.maximum(SQUARED, known))
    return np.clip(made.astype(np.float64), -bound, bound).astype(example.dtype) if (np.abs(made) > bound).any() else made


def some_rows(case: Case, rows: np.ndarray) -> Case:
    """The case with these rows alone."""
    return Case(case.name, {n: array[rows] for n, array in case.feeds.items()}, dict.fromkeys(case.sizes, len(rows)), generated=True)
