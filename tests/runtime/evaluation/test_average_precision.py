"""Mean average precision, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.evaluation.average_precision import average_precision, box_iou

NONE = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


def found(*rows: tuple[list[float], float, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores, classes = zip(*rows, strict=True)
    return np.array(boxes, np.float64), np.array(scores), np.array(classes)


def true(*rows: tuple[list[float], int]) -> tuple[np.ndarray, np.ndarray]:
    boxes, classes = zip(*rows, strict=True)
    return np.array(boxes, np.float64), np.array(classes)


A, B, FAR = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [50.0, 50, 60, 60]


def test_iou_of_boxes() -> None:
    iou = box_iou(np.array([A, [0, 0, 0, 0]]), np.array([A, [5, 0, 15, 10], B, [0, 0, 0, 0]]))
    assert iou[0] == pytest.approx([1, 50 / 150, 0, 0])
    assert iou[1].tolist() == [0, 0, 0, 0]  # without an area, not a division by zero


def test_all_found_is_1_and_none_found_is_0() -> None:
    assert average_precision([found((A, 0.9, 3), (B, 0.2, 4))], [true((A, 3), (B, 4))]).mean == 1
    missed = average_precision([NONE], [true((A, 3))])
    assert (missed.mean, missed.at_50, missed.classes) == (0, 0, {3: 0})


def test_one_of_two_with_a_false_one_before_it() -> None:
    """By score: false, right. Precision 0, 1/2 at recall 0, 1/2: made to fall it is 1/2 up to a recall of 1/2, and 0 beyond: 51 of the 101
    recalls, 0 to 0.50, have 1/2."""
    result = average_precision([found((FAR, 0.9, 0), (A, 0.8, 0))], [true((A, 0), (B, 0))])
    assert result.at_50 == pytest.approx(51 / 101 / 2)
    assert result.mean == pytest.approx(51 / 101 / 2)


def test_the_order_is_over_all_images() -> None:
    """Image 1: right at 0.9. Image 2: false at 0.95, right at 0.5. By score false, right, right: precision 0, 1/2, 2/3 at recall 0, 1/2, 1,
    made to fall: 2/3 everywhere."""
    result = average_precision([found((A, 0.9, 0)), found((FAR, 0.95, 0), (B, 0.5, 0))], [true((A, 0)), true((B, 0))])
    assert result.at_50 == pytest.approx(2 / 3)
    assert (result.images, result.boxes) == (2, 2)


def test_a_box_is_matched_once() -> None:
    """Two detections of one box: the second is false, but comes after all were found, which costs nothing; before, it does."""
    assert average_precision([found((A, 0.9, 0), (A, 0.8, 0))], [true((A, 0))]).at_50 == 1
    twice = average_precision([found((A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))], [true((A, 0), (B, 0))])
    # Right, false, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1; made to fall 1 for 51 recalls, 2/3 for 50.
    assert twice.at_50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_shifted_box_counts_below_its_iou() -> None:
    """8 of 10 columns shared: IoU 8/12 = 0.667, right at 0.50, 0.55, 0.60 and 0.65, which is 4 of 10 thresholds."""
    result = average_precision([found(([2, 0, 12, 10], 0.9, 0))], [true((A, 0))])
    assert (result.at_50, result.at_75) == (1, 0)
    assert result.mean == pytest.approx(0.4)


def test_an_iou_of_just_the_threshold_counts() -> None:
    result = average_precision([found(([0, 0, 10, 5], 0.9, 0))], [true((A, 0))])
    assert result.mean == pytest.approx(0.1)


def test_the_box_that_is_overlapped_most_is_taken() -> None:
    near, nearer = [0.0, 0, 10, 8], [0.0, 0, 10, 9]
    result = average_precision([found((A, 0.9, 0))], [true((near, 0), (nearer, 0))])
    assert result.mean == pytest.approx(9 / 10 * 51 / 101)  # at 0.50 to 0.90 one of two is found, with the IoU 0.9


def test_the_mean_is_over_classes_that_occur() -> None:
    result = average_precision([found((A, 0.9, 0), (FAR, 0.8, 7))], [true((A, 0), (B, 1))])
    assert result.classes == {0: 1.0, 1: 0.0}
    assert result.mean == 0.5  # class 7 does not occur, and does not count
    named = result.to_dict(("zero",))
    assert named["classes"] == {"zero": 1.0, "1": 0.0}


def test_no_box_at_all() -> None:
    empty = (np.zeros((0, 4)), np.zeros(0, np.int64))
    assert average_precision([found((A, 0.9, 0))], [empty]).mean == 0
    assert average_precision([], []).classes == {}


def test_as_many_images_on_both_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        average_precision([], [true((A, 0))])
