"""Random inputs made from what a file declares, and from examples."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.made_inputs import example_inputs, noise_inputs, random_array, random_like, varied
from onnxferry.runtime.onnx_file.values import TensorSpec


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [("float32", -6, 6), ("float16", -6, 6), ("float64", -6, 6), ("uint8", 0, 255), ("int64", 0, 1), ("uint16", 0, 1), ("bool", 0, 1)],
)
def test_values_are_of_the_dtype_and_its_range(dtype: str, least: int, most: int) -> None:
    made = random_array(dtype, (50, 20), rng())
    assert (made.dtype.name, made.shape) == (dtype, (50, 20))
    assert least <= made.min() < made.max() <= most
    assert np.array_equal(made, random_array(dtype, (50, 20), rng())), "the same seed gives the same values"


def test_a_range_holds_both_ends() -> None:
    assert set(random_array("int8", (200,), rng(), -1, 1).tolist()) == {-1, 0, 1}
    made = random_array("float32", (200,), rng(), 2, 3)
    assert 2 <= made.min() < made.max() <= 3


@pytest.mark.parametrize("dtype", ["str", "bfloat16", "seq(tensor(float))", "object", "complex64"])
def test_what_is_no_number_is_refused(dtype: str) -> None:
    with pytest.raises(InputError, match="none of the type"):
        random_array(dtype, (1,), rng())
    with pytest.raises(InputError, match=r"input x.*--samples"):
        example_inputs([TensorSpec("x", dtype, (1,))])


def test_a_huge_shape_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(InputError, match="more than 2 GiB"):
        example_inputs([TensorSpec("x", "float32", (2**40, 2**40))])


def test_open_axes_of_one_name_have_one_size_and_others_differ() -> None:
    specs = [
        TensorSpec("a", "float32", ("batch", "time", 3)),
        TensorSpec("b", "int64", ("batch", "time")),
        TensorSpec("c", "bool", (None, None)),
    ]
    made = example_inputs(specs)
    assert made["a"].shape[:2] == made["b"].shape
    assert len({made["a"].shape[0], made["a"].shape[1], made["c"].shape[1]}) == 3
    given = np.zeros((7, 1), bool)
    assert example_inputs(specs, {"c": given})["c"] is given


def test_values_like_an_example_stay_in_its_range() -> None:
    ids = np.array([[3, 9], [5, 4]])
    made = random_like(ids, (40, 3), rng())
    assert (made.dtype, made.min(), made.max()) == (ids.dtype, 3, 9)
    mask = np.array([0, -np.inf, 0, -np.inf], np.float32)
    assert set(random_like(mask, (50,), rng()).tolist()) == {0.0, -np.inf}
    assert random_like(np.zeros(4, np.float32), (50,), rng()).std() > 0.5, "zeros would hide what a state does"
    assert set(random_like(np.array(["a", "b"], object), (50,), rng()).tolist()) == {"a", "b"}
    table = np.array([[0.0, 100.0], [1.0, 200.0]])
    columns = random_like(table, (50, 2), rng(), by_column=True)
    assert columns[:, 0].max() <= 1 < 100 <= columns[:, 1].min()


def test_varied_is_near_and_different() -> None:
    values = np.linspace(-1, 1, 30, dtype=np.float32)
    made = varied(values, rng())
    assert made.dtype == np.float32
    assert 0 < np.abs(made - values).max() < 0.2
    pixels = np.array([[[0, 255]]], np.uint8)
    assert np.abs(varied(pixels, rng(), image=True).astype(int) - pixels).max() <= 8
    assert np.array_equal(varied(pixels, rng()), pixels)
    for same in (np.arange(3), np.zeros(3, np.float32), np.array(["a"])):
        assert np.array_equal(varied(same, rng()), same)


def test_varied_keeps_the_infinities_of_a_mask_and_changes_a_single_number() -> None:
    mask = np.array([-np.inf, 1.0, 2.0], np.float32)
    made = varied(mask, rng())
    assert np.isneginf(made[0])
    assert np.isfinite(made[1:]).all()
    assert varied(np.array([2.0]), rng())[0] != 2.0


def test_noise_has_every_class_in_turn() -> None:
    specs = [TensorSpec("noise", "float32", ("batch", 8)), TensorSpec("label", "int64", ("batch",))]
    made = noise_inputs(specs, 5, 3, rng(1))
    assert made["label"].tolist() == [0, 1, 2, 0, 1]
    # What the shipped generators' certificates were scored on.
    assert np.array_equal(made["noise"], rng(1).standard_normal((5, 8), dtype=np.float32))
