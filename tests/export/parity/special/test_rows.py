"""Value probes of a table: what they hold, what they find in a wrong file, and which rows they leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install 'onnxferry[sklearn]'")

from onnx import helper
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from onnxferry.export.parity.probes import given_case
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.special.check import check_values
from onnxferry.export.parity.special.rows import BEYOND, row_probes
from onnxferry.export.source import Feeds, InputSpec
from onnxferry.export.sources.sklearn.estimator import SklearnSource

EMPTY = helper.make_model(helper.make_graph([], "empty", [], []))
ROWS, CLASSES = make_classification(80, 4, n_redundant=0, random_state=2)


def checked(source: SklearnSource, file: Callable[[Feeds], dict[str, np.ndarray]]) -> ParityReport:
    class File:
        def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
            with np.errstate(all="ignore"):
                return file(feeds)

    report = ParityReport()
    check_values(source, File(), EMPTY, report, [SourceRun(given_case("the example", source.examples, source.inputs), None)])
    return report


def in_float32(source: SklearnSource) -> Callable[[Feeds], dict[str, np.ndarray]]:
    return lambda feeds: source.run({name: array.astype(np.float32).astype(np.float64) for name, array in feeds.items()})


WRONG: dict[str, tuple[Any, Callable[[SklearnSource], Callable[[Feeds], dict[str, np.ndarray]]]]] = {
    "a numeral in float32": (FunctionTransformer(lambda x: x - np.round(x)).fit(ROWS), in_float32),
    "small numbers lost": (
        FunctionTransformer(np.log1p).fit(np.abs(ROWS)),
        lambda source: lambda feeds: {"transformed": np.log(np.float32(1) + feeds["X"].astype(np.float32))},
    ),
    "negative numbers cut": (
        make_pipeline(StandardScaler(), Ridge()).fit(ROWS, CLASSES),
        lambda source: lambda feeds: source.run({"X": np.maximum(feeds["X"], ROWS.min())}),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_rows_of_the_example_hide_it(name: str) -> None:
    model, file = WRONG[name]
    source = SklearnSource(model, np.abs(ROWS[:20]) if "small" in name else ROWS[:20])
    report = checked(source, file(source))
    assert not report.passed
    message = report.failures[0].message
    assert "in the file and" in message, message
    assert "for X = [[" in message, message  # shrunk to one row, which is printed


@pytest.mark.parametrize("model", [LogisticRegression(), GaussianNB(), make_pipeline(StandardScaler(), Ridge())], ids=str)
def test_a_file_that_rounds_otherwise_is_right(model: Any) -> None:
    source = SklearnSource(model.fit(ROWS, CLASSES), ROWS[:20])

    def otherwise(feeds: Feeds) -> dict[str, np.ndarray]:
        moved = source.run_moved(feeds, 99, 2.0)
        return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in moved.items()}

    report = checked(source, otherwise)
    assert report.passed, report.failures
    wanted = {"values: zeros", "values: tiny", "values: large", "values: halves", "values: large whole numbers", "values: equal rows"}
    assert wanted <= {case.name for case in report.compared}


def test_rows_that_the_model_does_not_take_are_left_out_alone() -> None:
    source = SklearnSource(make_pipeline(FunctionTransformer(np.log), Ridge()).fit(np.abs(ROWS), CLASSES), np.abs(ROWS[:20]))
    report = checked(source, source.run)
    sizes = {case.name: case.shapes["X"][0] for case in report.compared}
    assert 0 < sizes["values: halves"] < sizes["values: ones"]  # some of its rows hold a negative number
    assert "values: negative ones" not in sizes


def test_numbers_keep_a_digit_beside_those_of_their_column() -> None:
    spec = InputSpec("X", "float64", ("batch", 2), (3, 2), by_column=True)
    example = np.array([[1e-3, 50.0], [2e-3, 60.0], [3e-3, 70.0]])
    largest = np.max([np.abs(case.feeds["X"]).max(0) for case in row_probes([spec], {"X": example})], axis=0)
    np.testing.assert_array_equal(largest <= BEYOND * example.max(0), True)
    assert largest[1] > 2**31
    text = InputSpec("t", "str", ("batch", 1), (3, 1), by_column=True)
    assert not list(row_probes([text], {"t": np.array([["a"], ["b"], ["c"]])}))
