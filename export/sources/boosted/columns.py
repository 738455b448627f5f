"""The columns of a table as boosted trees see them: numbers, codes of categories, flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxferry.export.sources.boosted.catboost_json import CatboostModel
from onnxferry.export.sources.sklearn.converters.registry import Columns, Input, matrix
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole
from onnxferry.runtime.errors import ExportError


def as_codes(graph: GraphBuilder, part: Tensor, categories: Sequence[Any], *, next_above: bool = False) -> Tensor:
    """float64 (rows, 1): the value's place among the categories, NaN for any other.

    ``next_above``: a number that is none of them is the next larger one, as XGBoost's search finds it.
    """
    if part.dtype == "str":
        known = [str(each) for each in categories]
        code = part.label(known, range(len(known)))
        return graph.where(code < Whole(0), graph.constant(np.nan), code.real())
    if any(isinstance(each, str) for each in categories):
        raise ExportError(f"a column holds numbers, and the model was fitted on the categories {', '.join(map(str, categories[:5]))}")
    if next_above:
        values = np.asarray(categories, np.float64)
        order = np.argsort(values, kind="stable")
        passed = (graph.constant(values[order][None, :]) < part.real()).cast("int64").sum(1, keep=True)
        return graph.where(part.real().isnan(), graph.constant(np.nan), graph.constant(np.append(order.astype(float), np.nan)).take(passed))
    hit = part.real().equal(graph.constant(np.asarray(categories, np.float64)[None, :])).cast("int64")
    code = hit.argmax(1).as_column().real()
    return graph.where(hit.max(1, keep=True) > Whole(0), code, graph.constant(np.nan))


def numbers(graph: GraphBuilder, x: Input, categorical: Sequence[int]) -> Tensor:
    """The numbers of a table as float64; 0 for categories, which are looked at by themselves."""
    if not categorical or not isinstance(x, Columns):
        return matrix(graph, x)
    parts = [part.label([""], [0], default=0) if part.dtype == "str" else part for part in x.parts]
    return graph.concat([part.real() for part in parts])


def flags_of(graph: GraphBuilder, x: Input, known: CatboostModel) -> list[Tensor]:
    """For each flag of the model (rows, 1), in their order."""
    lacking = sorted({known.names[flag.feature] for flag in known.flags if flag.value not in known.hashes})
    if lacking:
        raise ExportError(
            f"the model has categories of {', '.join(lacking)} that none of the given rows has, and it keeps their hashes alone: "
            "give rows that have every category, best the training data"
        )
    made = []
    for flag in known.flags:
        value = known.hashes[flag.value]
        part = x.parts[flag.feature] if isinstance(x, Columns) else x.columns([flag.feature])
        if part.dtype == "str":
            made.append(part.label([value], [1], default=0))
        elif part.dtype == "int64" and value.lstrip("-").isdecimal():
            made.append(part.equal(Whole(int(value))))
        elif part.dtype == "int64":
            raise ExportError(f"{known.names[flag.feature]} holds whole numbers, and the model knows the category {value!r}")
        else:
            raise ExportError(f"the categories of {known.names[flag.feature]} are float numbers: give them as text or whole numbers")
    return made
