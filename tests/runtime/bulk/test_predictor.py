"""One class for batch engines."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime import load
from onnxferry.runtime.bulk.predictor import Predictor
from onnxferry.runtime.errors import ArtifactError, InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    with load("digits", device="cpu", threads=1) as model:
        return [prediction.label for prediction in model.predict(IMAGES)]


def test_columns_in_columns_out(expected: list[str]) -> None:
    predictor = Predictor("digits", keep=("id",), threads=1)
    out = predictor({"image": IMAGES, "id": np.arange(5), "other": [None] * 5})
    assert list(out) == ["id", "label", "class_index", "probability", "probabilities", "unknown"]
    assert out["label"].tolist() == expected
    assert out["probabilities"].shape == (5, 10)
    lists = {"arrays": list(IMAGES), "pil": [Image.fromarray(image) for image in IMAGES], "channels": IMAGES[..., None]}
    for name, images in lists.items():
        assert predictor({"image": images, "id": range(5)})["label"].tolist() == expected, name
    mixed = np.empty(2, object)
    mixed[:] = [IMAGES[0], np.zeros((40, 30), np.uint8)]
    assert predictor({"image": mixed, "id": [0, 1]})["label"][0] == expected[0]
    empty = predictor({"image": IMAGES[:0], "id": []})
    assert empty["probabilities"].shape == (0, 10)
    assert Predictor("digits", ["class_index"], threads=1)({"image": IMAGES})["class_index"].dtype == np.int64


def test_it_travels_to_other_processes(expected: list[str]) -> None:
    predictor = Predictor("digits", ["label"], threads=1)
    assert predictor({"image": IMAGES})["label"].tolist() == expected
    for other in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):  # noqa: S301
        assert other({"image": IMAGES})["label"].tolist() == expected
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert pool.submit(predictor, {"image": IMAGES}).result(120)["label"].tolist() == expected
    predictor.close()
    assert predictor({"image": IMAGES})["label"].tolist() == expected


def test_any_model(tmp_path: Path, scale_model: bytes) -> None:
    path = tmp_path / "scale.onnx"
    path.write_bytes(scale_model)
    predictor = Predictor(path)
    np.testing.assert_array_equal(predictor({"x": [[1, 2, 3]]})["y"], np.float32([[2, 4, 6]]))
    column = np.empty(2, object)
    column[:] = [np.float32([1, 2, 3]), np.float32([4, 5, 6])]
    assert predictor({"x": column, "name": ["a", "b"]})["y"].shape == (2, 3)
    with pytest.raises(InputError, match="row 1 is 'a', expected float32"):
        predictor({"x": [["a", "b", "c"]]})
    with pytest.raises(InputError, match=r"16777217 at .0, 0. would change"):
        predictor({"x": [[2**24 + 1, 0, 0]]})


@pytest.mark.parametrize(
    ("batch", "words"), [([1], "dict of columns"), ({"x": IMAGES}, "column 'image'"), ({"image": IMAGES}, "no column 'id' to keep")]
)
def test_what_does_not_fit(batch: object, words: str) -> None:
    keep = ("id",) if "keep" in words else ()
    with pytest.raises(InputError, match=words):
        Predictor("digits", keep=keep, threads=1)(batch)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no output 'z'"):
        Predictor("digits", ["z"], threads=1)({"image": IMAGES})
    with pytest.raises(ArtifactError, match="nothing"):
        Predictor("nothing")
