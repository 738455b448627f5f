"""A detector's objects in another order."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.export.optimize.objects import in_order_of

FOUND = {
    "boxes": np.array([[0, 0, 10, 10], [30, 0, 40, 10], [1, 1, 11, 11]], np.float32),
    "scores": np.array([0.9, 0.8999, 0.7], np.float32),
    "class_index": np.array([4, 7, 2]),
    "image_index": np.array([0, 0, 1]),
}


def rows(order: list[int], **other: object) -> dict[str, np.ndarray]:
    return {**{name: array[order] for name, array in FOUND.items()}, **{name: np.asarray(array) for name, array in other.items()}}


def test_objects_that_are_about_as_likely_may_change_places() -> None:
    found = in_order_of(FOUND, rows([1, 0, 2], boxes=FOUND["boxes"][[1, 0, 2]] + 0.4))
    assert found is not None
    assert found["class_index"].tolist() == [7, 4, 2]
    assert np.array_equal(found["boxes"], FOUND["boxes"][[1, 0, 2]])  # the original's own numbers
    assert in_order_of({**FOUND, "more": np.array([5])}, FOUND)["more"].tolist() == [5]  # type: ignore[index]


def test_none_found_is_the_same_as_none_found() -> None:
    none = rows([])
    found = in_order_of(none, none)
    assert found is not None
    assert found["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "other",
    [
        rows([0, 1]),  # one less
        rows([0, 1, 2], class_index=[4, 1, 2]),
        rows([0, 1, 2], image_index=[0, 1, 1]),
        rows([0, 1, 2], boxes=FOUND["boxes"] + 3),  # elsewhere
        rows([0, 1, 1]),  # one twice, another not at all
    ],
)
def test_other_objects_are_not_the_same(other: dict[str, np.ndarray]) -> None:
    assert in_order_of(FOUND, other) is None
