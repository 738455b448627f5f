from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime.errors import DataError
from onnxferry.runtime.evaluation.test_set import find_labelled_images
from onnxferry.runtime.images.folders import passed_over_words


def write_idx(path: Path, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_pair(folder: Path, part: str = "t10k", images: np.ndarray | None = None, labels: object = (0, 1), ending: str = "") -> None:
    folder.mkdir(exist_ok=True)
    write_idx(folder / f"{part}-images-idx3-ubyte{ending}", np.zeros((2, 3, 4)) if images is None else images)
    write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", np.array(labels))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_of_a_split(tmp_path: Path, ending: str) -> None:
    images = np.arange(24).reshape(2, 3, 4)
    write_pair(tmp_path, "t10k", images, (1, 0), ending)
    write_pair(tmp_path, "train", np.zeros((3, 3, 4)), (1, 1, 1), ending)
    test = find_labelled_images(tmp_path, "ab")
    assert list(test.indices) == [1, 0]
    np.testing.assert_array_equal(np.stack([image for _, _, image in test]), images)
    assert test.names[1] == f"t10k-images-idx3-ubyte{ending}[1]"
    assert len(find_labelled_images(tmp_path, "ab", "train")) == 3


def test_idx_files_with_a_dot(tmp_path: Path) -> None:
    write_idx(tmp_path / "t10k-images.idx3-ubyte", np.zeros((1, 2, 2)))
    write_idx(tmp_path / "t10k-labels.idx1-ubyte", np.zeros(1))
    assert len(find_labelled_images(tmp_path, "a")) == 1


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((2, 3, 4)), (0, 1, 1), "one uint8 label for each of 2 images"),
        (np.zeros((2, 3)), (0, 1), r"expected uint8 images \(n, height, width\)"),
        (np.zeros((2, 3, 4)), (0, 2), r"holds the label 2, and the model knows 2 \(0 to 1\)"),
        (np.zeros((0, 3, 4)), (), "holds no images"),
    ],
)
def test_idx_files_that_do_not_fit(tmp_path: Path, images: np.ndarray, labels: tuple[int, ...], says: str) -> None:
    write_pair(tmp_path, images=images, labels=labels)
    with pytest.raises(DataError, match=says):
        find_labelled_images(tmp_path, "ab")


def test_one_idx_file_without_the_other(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="holds t10k-images-idx3-ubyte and not t10k-labels-idx1-ubyte"):
        find_labelled_images(tmp_path, "ab")


def test_folders_named_by_label(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.png", "dog/2.png", "T-shirt_top/1.png")
    found = find_labelled_images(tmp_path, ["T-shirt/top", "cat", "dog"])
    assert [(Path(name).relative_to(tmp_path).as_posix(), index) for name, index, _ in found] == [
        ("T-shirt_top/1.png", 0),
        ("dog/1.png", 2),
        ("dog/2.png", 2),
    ]


def test_folders_in_a_folder_of_the_split(tmp_path: Path) -> None:
    touch(tmp_path, "test/cat/1.png", "train/cat/1.png", "train/cat/2.png")
    assert len(find_labelled_images(tmp_path, ["cat"])) == 1
    assert len(find_labelled_images(tmp_path, ["cat"], "train")) == 2


def test_a_label_may_be_called_test(tmp_path: Path) -> None:
    touch(tmp_path, "test/1.png", "other/1.png")
    assert len(find_labelled_images(tmp_path, ["other", "test"])) == 2


def test_labels_that_the_model_does_not_know(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.png", "horse/1.png")
    with pytest.raises(DataError, match=r"named by the model's labels, 'cat', 'dog'; it does not know 'horse'"):
        find_labelled_images(tmp_path, ["cat", "dog"])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_labelled_images(tmp_path / "absent", "ab")
    with pytest.raises(DataError, match="one sub-folder of images for each label"):
        find_labelled_images(tmp_path, "ab")
    with pytest.raises(DataError, match="expected test or train"):
        find_labelled_images(tmp_path, "ab", "validation")


def test_names_that_look_alike_are_the_same_label(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    touch(tmp_path, f"{decomposed}/a.png")
    assert find_labelled_images(tmp_path, ["x", composed]).indices == [1]
    assert find_labelled_images(tmp_path, [decomposed]).indices == [0]


def test_hidden_folders_are_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "test/.ipynb_checkpoints/a.png", "cat/a.png")
    touch(tmp_path, "test/x.png")
    assert find_labelled_images(tmp_path, ["cat", "test"]).indices == [0, 1]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "test/cat/a.jfif", "test/cat/b.HEIC", "test/cat/more/c.png", "test/cat/.DS_Store", "test/notes.txt", "dog/d.heic")
    found = find_labelled_images(tmp_path, ["cat"])
    assert len(found) == 1
    assert found.passed_over == {".heic": 2, ".png": 1, ".txt": 1}
    assert passed_over_words(found.passed_over) == "4 files were passed over (2 .heic, 1 .png, 1 .txt)"
    assert passed_over_words({}) == ""


def test_torchvision_s_folder(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    write_pair(tmp_path / "MNIST" / "raw")
    assert len(find_labelled_images(tmp_path, "ab")) == 2
