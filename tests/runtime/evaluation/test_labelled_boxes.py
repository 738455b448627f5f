"""Boxes as COCO and as YOLO have them, and what is wrong with them in one line each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.errors import DataError, DataNotFoundError
from onnxferry.runtime.evaluation.labelled_boxes import find_labelled_boxes


def picture(path: Path, size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 4, 10, 8]},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40.5, 20]},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 1},
        ],
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        picture(tmp_path / "set" / "images" / f"{name}.png")
    (tmp_path / "set" / "boxes.json").write_text(json.dumps(coco()))
    return tmp_path / "set"


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    picture(root / "images" / "a.png")
    picture(root / "images" / "b.png")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n\n0 0.1 0.1 0.2 0.2\n")
    (root / "data.yaml").write_text("path: .\nnames: [cat, 'big dog']  # two\nnc: 2\n")
    return root


def test_coco(folder: Path) -> None:
    for place in (folder, folder / "boxes.json"):
        found = find_labelled_boxes(place)["all"]
        assert found.classes == ("cat", "dog")  # by the number of the category
        (first, _, boxes, labels), (_, image, none, no_labels) = found.decoded(1)
        assert first.name == "a.png"
        assert boxes.tolist() == [[2, 4, 12, 12], [0, 0, 40, 20]]  # half a pixel outside is cut
        assert labels.tolist() == [1, 0]  # without the crowd
        assert image.shape == (20, 40, 1)
        assert none.shape == (0, 4)  # an image without a box is fine
        assert no_labels.shape == (0,)


def test_coco_in_parts(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("a", "b"):
            picture(tmp_path / part / f"{name}.png")
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(coco()))
    assert set(find_labelled_boxes(tmp_path)) == {"train", "validation", "test"}
    (tmp_path / "annotations").mkdir()
    shutil.move(tmp_path / "train" / "_annotations.coco.json", tmp_path / "annotations" / "instances_train2017.json")
    assert set(find_labelled_boxes(tmp_path)) == {"train"}


def test_yolo(yolo: Path) -> None:
    found = find_labelled_boxes(yolo)["all"]
    assert found.classes == ("cat", "big dog")
    (_, _, boxes, labels), (_, _, none, _) = found.decoded(3)
    np.testing.assert_allclose(boxes, [[10, 5, 30, 15], [0, 0, 8, 4]], atol=1e-4)  # float32 of shares
    assert labels.tolist() == [1, 0]
    assert none.shape == (0, 4)


@pytest.mark.parametrize(
    "names", ["names:\n  0: cat\n  1: big dog\n", 'nc: 2\nnames:\n- cat\n- "big dog"\n', "names: {0: cat, 1: big dog}"]
)
def test_names_in_yaml(yolo: Path, names: str) -> None:
    (yolo / "data.yaml").write_text(names)
    assert find_labelled_boxes(yolo)["all"].classes == ("cat", "big dog")


def test_yolo_in_parts(yolo: Path) -> None:
    for name in ("images", "labels"):
        (yolo / name / "train").mkdir()
        for file in [each for each in (yolo / name).iterdir() if each.is_file()]:
            file.rename(yolo / name / "train" / file.name)
    assert list(find_labelled_boxes(yolo)) == ["train"]
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("cat\nbig dog\n")
    assert find_labelled_boxes(yolo)["train"].classes == ("cat", "big dog")


def annotation(**changes: Any) -> dict[str, Any]:
    return coco(annotations=[{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5], **changes}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (coco(images=[{"id": 1, "file_name": "gone.png"}], annotations=[]), "names the image gone.png, which is missing"),
        (coco(images=[{"id": 1}], annotations=[]), "an image has no file_name"),
        (annotation(category_id=8), "annotation 5 has the unknown category 8; the file's categories are 1, 3"),
        (annotation(image_id=8), "belongs to the image 8, which the file does not have"),
        (annotation(bbox=[1, 1, 0, 5]), "a box without an area, 0 x 5 pixels"),
        (annotation(bbox=[1, 1, 5]), "expected 4 finite numbers as bbox"),
        (annotation(bbox=[1, 1, float("nan"), 4]), "expected 4 finite numbers as bbox"),
        (annotation(bbox="none"), "expected 4 finite numbers as bbox"),
        (coco(images=[], annotations=[]), "the set is empty"),
        (coco(annotations=[]), "no image has a box"),
        ({"boxes": []}, "is not a COCO file of boxes"),
        (coco(categories=[{"name": "x"}]), "each with a whole number as id"),
    ],
)
def test_bad_coco_is_one_line(folder: Path, content: dict[str, Any], words: str) -> None:
    (folder / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words) as caught:
        find_labelled_boxes(folder)
    assert "\n" not in str(caught.value)


def test_a_box_outside_its_image(folder: Path) -> None:
    (folder / "boxes.json").write_text(json.dumps(annotation(bbox=[30, 1, 20, 5])))
    with pytest.raises(DataError, match=r"a\.png: a box reaches outside the image of 40 x 20 pixels: .* are 30, 1, 50, 6"):
        list(find_labelled_boxes(folder)["all"].decoded(1))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "labels" / "a.txt").write_text("2 0.5 0.5 0.1 0.1"), "line 1 has the unknown category 2"),
        (lambda root: (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.1"), "expected 5 finite numbers"),
        (lambda root: (root / "labels" / "a.txt").write_text("0 0.5 x 0.1 0.1"), "expected numbers, class x y width height"),
        (lambda root: (root / "labels" / "a.txt").write_text("0 0.5 0.5 0 0.1"), "without an area"),
        (lambda root: (root / "labels" / "c.txt").write_text("0 0.5 0.5 0.1 0.1"), "its image is missing"),
        (lambda root: (root / "data.yaml").unlink(), "the classes have no names"),
        (lambda root: shutil.rmtree(root / "labels"), "no boxes were found"),
    ],
)
def test_bad_yolo_is_one_line(yolo: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(yolo)
    with pytest.raises(DataError, match=words) as caught:
        find_labelled_boxes(yolo)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no such file or folder"):
        find_labelled_boxes(tmp_path / "gone")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        find_labelled_boxes(tmp_path)
