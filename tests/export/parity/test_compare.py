"""The judge, beside files that are wrong in one way each: every reason to refuse is found, and called by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onnxferry.export.parity.compare import compare
from onnxferry.export.parity.probes import given_case, probes
from onnxferry.export.parity.reference import run_source
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import DEFAULT_TOLERANCES, FloatTolerance, default_tolerance, resolved_tolerance
from onnxferry.export.source import Feeds, InputSpec
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.runtime.artifact.contract import Tolerance
from onnxferry.runtime.errors import InputError

Outputs = dict[str, np.ndarray]


class Scores(nn.Module):
    """Three numbers a row, twice what comes in, and which is the largest."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": x * 2, "best": x.argmax(-1)}


class File:
    """What runs the file: right, but for what is done to its answer."""

    def __init__(self, change: Callable[[Feeds, Outputs], Outputs | None] = lambda feeds, outputs: None) -> None:
        self.change = change

    def run(self, feeds: Feeds) -> Outputs:
        right = {"scores": feeds["x"] * 2, "best": feeds["x"].argmax(-1)}
        changed = self.change(feeds, right)
        return right if changed is None else changed


X = np.array([[0.5, -1, 0.25], [1, 0, -0.125]], np.float32)


def compared(
    file: Any, module: nn.Module | None = None, x: np.ndarray = X, axes: Any = None, generated: bool = True, **options: Any
) -> ParityReport:
    source = TorchSource(module or Scores(), torch.from_numpy(x), dynamic_shapes={"x": axes if axes is not None else {0: "batch"}})
    cases = [given_case("the example", source.examples, source.inputs)]
    runs, failures = run_source(source, [*cases, *(probes(source.inputs, source.examples) if generated else ())], 1)
    return ParityReport(failures=failures) if failures else compare(source, file, runs, **options)


def only(report: ParityReport) -> tuple[str, str]:
    """Kind and words of the first failure, of a report whose failures are of one kind."""
    assert not report.passed
    assert len({failure.kind for failure in report.failures}) == 1, report.failures
    return report.failures[0].kind, report.failures[0].message


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[Feeds, Outputs], None]:
    def change(_: Feeds, outputs: Outputs) -> None:
        outputs[name][place] = value

    return change


def test_a_right_file_passes() -> None:
    report = compared(File())
    assert report.passed
    assert report.outputs["scores"].max_abs == 0
    assert sum(not case.traced for case in report.compared) >= 4


def test_a_difference_is_told_with_place_values_and_ulps() -> None:
    report = compared(File(lambda feeds, outputs: put("scores", (1, 0), 2.5)(feeds, outputs) if len(feeds["x"]) > 1 else None))
    kind, words = only(report)
    assert kind == "difference"
    assert "[1, 0] of case 'the example': 2.0 in the model, 2.5 in the file" in words
    assert "2097152 ulp" in words
    worst = report.outputs["scores"].worst
    assert worst is not None
    assert worst.index == (1, 0) or worst.case != "the example"


def test_a_difference_at_sizes_never_traced_alone_is_found() -> None:
    kind, words = only(compared(File(lambda feeds, outputs: put("scores", (0, 0), 99)(feeds, outputs) if len(feeds["x"]) != 2 else None)))
    assert kind == "difference"
    assert "batch=1" in words


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_in_the_file_alone(value: float) -> None:
    kind, words = only(compared(File(put("scores", (0, 1), value))))
    assert kind == "not-finite"
    assert "[0, 1]" in words


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("dtype", lambda _, o: {**o, "scores": o["scores"].astype(np.float64)}, "float64 in the file and float32 in the model"),
        ("dtype", lambda _, o: {**o, "best": o["best"].astype(np.int32)}, "int32 in the file and int64 in the model"),
        ("outputs", lambda _, o: {"scores": o["scores"]}, "lacks the output 'best'"),
        ("outputs", lambda _, o: {**o, "more": o["best"]}, "an output 'more' that the model does not have"),
        ("difference", lambda _, o: {**o, "best": o["best"] + 1}, "they must be equal"),
    ],
)
def test_another_dtype_a_missing_and_an_extra_output(kind: str, change: Any, words: str) -> None:
    found, text = only(compared(File(change)))
    assert found == kind
    assert words in text


@pytest.mark.parametrize("asked", [FloatTolerance(1.0, 100.0), FloatTolerance(None, 100.0)])
def test_a_tolerance_that_was_asked_for_is_for_floats_and_whole_numbers_stay_equal(asked: FloatTolerance) -> None:
    tolerances = {"scores": asked, "best": asked}
    assert compared(File(put("scores", (0, 0), 9.0)), tolerances=tolerances).passed
    found, words = only(compared(File(lambda _, o: {**o, "best": o["best"] + 1}), tolerances=tolerances))
    assert (found, "they must be equal" in words) == ("difference", True)


def test_the_half_of_a_tolerance_that_was_not_asked_for_is_the_dtype_s() -> None:
    float32 = np.dtype(np.float32)
    default, _ = default_tolerance(float32, 2.0)
    assert resolved_tolerance(FloatTolerance(rtol=0.5), float32, 2.0) == (Tolerance(0.5, default.atol), "given")
    assert resolved_tolerance(FloatTolerance(atol=0.5), float32, 2.0) == (Tolerance(default.rtol, 0.5), "given")
    assert resolved_tolerance(FloatTolerance(0.0, 0.0), float32, 2.0) == (Tolerance(0.0, 0.0), "given")


def test_another_shape() -> None:
    kind, words = only(compared(File(lambda _, o: {**o, "scores": o["scores"][:, :2]}), axes={}))
    assert kind == "shape"
    assert "(2, 2) in the file and (2, 3) in the model" in words


def test_a_frozen_axis_by_its_shape_or_because_the_file_cannot_run() -> None:
    report = compared(File(lambda _, o: {**o, "scores": np.resize(o["scores"], (2, 3))}))
    frozen = [failure.message for failure in report.failures if failure.kind == "frozen-axis"]
    assert any("froze something at the traced size of batch" in words for words in frozen)

    def fixed(feeds: Feeds, _: Outputs) -> None:
        if len(feeds["x"]) != 2:
            raise InputError("input 'x' must have size 2 on axis 0")

    kind, words = only(compared(File(fixed)))
    assert kind == "frozen-axis"
    assert "batch from 2 to 1" in words


def test_a_file_that_draws_random_numbers() -> None:
    rng = np.random.default_rng(0)
    noisy = File(lambda _, o: {**o, "scores": o["scores"] + rng.normal(0, 1e-4, o["scores"].shape).astype(np.float32)})
    kind, words = only(compared(noisy, tolerances={"scores": Tolerance(0, 1e-3)}))
    assert kind == "random"
    assert "changes from run to run" in words


def test_a_source_that_is_all_nan_proves_nothing() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": x * float("nan"), "best": x.argmax(-1)}

    kind, words = only(compared(File(lambda feeds, o: {**o, "scores": feeds["x"] * np.float32(np.nan)}), Nothing()))
    assert kind == "all-nan"
    assert "nothing is verified" in words


def test_nothing_compared() -> None:
    class Empty(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": x[:, :0]}

    kind, words = only(compared(File(lambda feeds, _: {"scores": feeds["x"][:, :0]}), Empty()))
    assert kind == "nothing-compared"
    assert "no element" in words


class Picky(Scores):
    """Takes as many rows as it is made for, and no others."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if len(x) not in self.sizes:
            raise ValueError("another number of rows, please")
        return super().forward(x)


def test_probes_that_the_source_cannot_take_are_dropped_and_counted() -> None:
    report = compared(File(), Picky(2, 3, 4))
    assert report.passed
    assert any("another number of rows" in case.why_dropped for case in report.dropped)
    assert {case.shapes["x"][0] for case in report.compared} == {2, 3, 4}


def test_an_axis_of_which_no_other_size_was_compared_is_refused() -> None:
    kind, words = only(compared(File(), Picky(2)))
    assert kind == "axis-untested"
    assert "the axis 'batch' was named dynamic, and no other size than the traced 2" in words
    assert only(compared(File(), generated=False))[0] == "axis-untested"


def test_probes_on_which_the_source_is_not_finite_are_dropped_and_counted() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": torch.sqrt(x)}

    file = File(lambda feeds, _: {"scores": np.sqrt(np.abs(feeds["x"]))})  # wrong for what is negative, which is outside of its domain
    report = compared(file, Root(), np.abs(X))
    assert report.passed
    assert [case.name for case in report.dropped] == ["values negated"]
    assert "not finite" in report.dropped[0].why_dropped


# Tolerances


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_each_dtype_has_its_tolerance_with_a_reason(dtype: str) -> None:
    tolerance, reason = DEFAULT_TOLERANCES[dtype]
    assert reason.startswith(dtype)
    x = X.astype(dtype)
    for off, passed in ((tolerance.atol, True), (5 * (tolerance.atol + tolerance.rtol), False)):  # the largest value is 2
        report = compared(File(lambda _, o, off=off: {**o, "scores": (o["scores"] + off).astype(dtype)}), x=x, axes={}, generated=False)  # type: ignore[misc]
        assert report.passed is passed
        assert report.outputs["scores"].reason == reason


class Cancels(nn.Module):
    """Loses nearly all digits in float32: (x + 1e4) - 1e4."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": (x + 1e4) - 1e4}


def test_float64_shows_what_is_float32s_own() -> None:
    # The file computes it without the loss: 4e-4 from the model, and nearer to the truth.
    report = compared(File(lambda feeds, _: {"scores": feeds["x"].copy()}), Cancels(), X * 1.01)
    assert report.passed, report.failures
    entry = report.outputs["scores"]
    assert entry.float64_source is not None
    assert entry.float64_file is not None
    assert entry.float64_file < 1e-6 < entry.float64_source
    assert any("due to float32" in note for note in report.notes)
    assert "against float64" in report.explain()
    # What the user gives as a tolerance holds as it stands.
    strict = compared(File(lambda feeds, _: {"scores": feeds["x"].copy()}), Cancels(), X * 1.01, tolerances={"scores": Tolerance(0, 1e-5)})
    assert only(strict)[0] == "difference"


# Decisions


def test_decisions_that_change_are_counted() -> None:
    def swapped(feeds: Feeds, outputs: Outputs) -> None:
        outputs["scores"] = outputs["scores"][:, [1, 0, 2]]

    report = compared(File(swapped), axes={}, generated=False, decisions=["scores"])
    words = [failure.message for failure in report.failures if failure.kind == "decision"]
    assert words == ["2 of 2 decisions change in 'scores': at [0] of case 'the example' the model says 0 and the file 1"]
    assert (report.outputs["scores"].decisions, report.outputs["scores"].decisions_changed) == (2, 2)


def test_a_tie_is_no_decision() -> None:
    x = np.array([[1, 1, 0], [0, 2, 1], [3, 0, 1], [0, 1, 5]], np.float32)
    report = compared(
        File(lambda feeds, o: {**o, "best": np.where(feeds["x"][:, 0] == feeds["x"][:, 1], 1, o["best"])}), x=x, axes={}, generated=False
    )
    assert report.passed
    assert report.outputs["best"].ties == 1


# Probes


def drawn(shape: tuple[Any, ...], example: np.ndarray) -> list[Mapping[str, np.ndarray]]:
    spec = InputSpec("x", str(example.dtype), shape, example.shape)
    return [case.feeds for case in probes([spec], {"x": example})]


def test_probes_take_other_sizes_of_every_axis_alone_and_together() -> None:
    shapes = {feeds["x"].shape for feeds in drawn(("batch", 3, "time"), np.ones((4, 3, 6), np.float32))}
    for axis, traced in ((0, 4), (2, 6)):
        sizes = {shape[axis] for shape in shapes}
        assert {1, 2} <= sizes
        assert max(sizes) > traced
        assert any(size % 2 and size > 1 for size in sizes)
        assert any(shape[axis] != traced and shape[2 - axis] == (4, 3, 6)[2 - axis] for shape in shapes)
    assert all(shape[1] == 3 for shape in shapes)


def test_probes_have_zeros_larger_and_negative_values() -> None:
    values = [feeds["x"] for feeds in drawn(("batch", 3), np.linspace(0.1, 1, 6, dtype=np.float32).reshape(2, 3))]
    assert any((value == 0).all() for value in values)
    assert any(value.max() > 2 for value in values)
    assert any((value < 0).all() for value in values)


def test_whole_numbers_and_flags_stay_in_the_range_of_the_examples() -> None:
    numbers = drawn(("batch", 2), np.array([[3, 7], [5, 4]], np.int64))
    assert numbers
    assert all(feeds["x"].min() >= 3 and feeds["x"].max() <= 7 and feeds["x"].dtype == np.int64 for feeds in numbers)
    assert all(feeds["x"].all() and feeds["x"].dtype == bool for feeds in drawn(("batch", 2), np.ones((2, 2), bool)))


def test_masks_of_minus_infinity_stay_masks() -> None:
    masks = drawn(("batch", 2), np.array([[0, -np.inf], [0, -np.inf]], np.float32))
    untraced = [feeds["x"] for feeds in masks if feeds["x"].shape != (2, 2)]
    assert any(np.isneginf(mask).any() for mask in untraced)
    assert all(((mask == 0) | np.isneginf(mask)).all() for mask in untraced)
    assert not any(np.isnan(feeds["x"]).any() or np.isposinf(feeds["x"]).any() for feeds in masks)
