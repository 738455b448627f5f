"""The table of outputs of a parity report, as ``export`` and ``verify`` print it and as ``inspect`` finds it in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from onnxferry.runtime.cli.console import new_table, plain


@dataclass(frozen=True)
class OutputRow:
    """How one output compared."""

    name: str
    elements: int
    max_abs: float | None  # None where it is no number
    rtol: float
    atol: float
    decisions: int
    decisions_changed: int


def allowed_words(rtol: float, atol: float) -> str:
    """A tolerance for people: ``1e-05 + 0.0001 |x|``."""
    return "equal" if rtol == atol == 0 else f"{atol:.2g} + {rtol:.2g} |x|" if rtol else f"{atol:.2g}"


def parity_table(rows: Iterable[OutputRow]) -> Table:
    """A line an output, in 80 columns: names are cut, and the column of decisions is there where some were compared."""
    rows = list(rows)
    decided = any(row.decisions for row in rows)
    last = ("decisions\nchanged",) if decided else ()
    table = new_table("output", "elements", "largest\ndifference", "allowed", *last, right=("elements", "largest\ndifference"))
    for column in table.columns:
        column.no_wrap = column is not table.columns[0]
        column.overflow = "ellipsis"
    for row in rows:
        changed = f"{row.decisions_changed} of {row.decisions}" if row.decisions else "-"
        difference = "-" if row.max_abs is None else f"{row.max_abs:.3g}"
        cells = (plain(row.name), str(row.elements), difference, allowed_words(row.rtol, row.atol))
        table.add_row(*cells, *([changed] if decided else []))
    return table


def stored_rows(parity: Mapping[str, Any]) -> list[OutputRow] | None:
    """The rows of the summary that a file holds; None where it is not as the export writes it."""
    outputs = parity.get("outputs")
    if not isinstance(outputs, Mapping) or not outputs:
        return None
    rows = []
    for name, found in outputs.items():
        try:
            rows.append(
                OutputRow(
                    str(name),
                    int(found["elements"]),
                    float(found["max_abs"]),
                    float(found["rtol"]),
                    float(found["atol"]),
                    int(found["decisions"]),
                    int(found["decisions_changed"]),
                )
            )
        except (TypeError, KeyError, ValueError):
            return None
    return rows
