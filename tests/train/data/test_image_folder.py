from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onnxferry.runtime.errors import DataError, InputError
from onnxferry.train.data.images import load_images
from onnxferry.train.preprocessing import center_square_uint8

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def draw(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A noisy image of one colour, its size and format by ``seed``."""
    generator = np.random.default_rng(seed)
    size = (30 + seed % 7 * 5, 40 + seed % 3 * 20, 3)
    pixels = np.clip(np.array(colour) + generator.integers(-90, 90, size), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path.with_suffix((".png", ".jpg", ".bmp")[seed % 3]))


def make(folder: Path, each: int, first: int = 0) -> Path:
    for number, (name, colour) in enumerate(COLOURS.items()):
        for i in range(each):
            draw(folder / name / f"{i:03}", colour, first + 1000 * number + i)
    return folder


def test_one_sub_folder_a_class(tmp_path) -> None:
    splits = load_images(data=make(tmp_path / "photos", 20), size=32, color=True)
    assert splits.name == "photos"
    assert splits.classes == ("blue", "green", "red")
    assert splits.source == "a folder of 60 images"
    assert [part.images.shape for part in (splits.train, splits.validation, splits.test)] == [(n, 32, 32, 3) for n in (42, 6, 12)]
    for part in (splits.train, splits.validation, splits.test):
        brightest = part.images.mean(axis=(1, 2)).argmax(axis=1)  # channel red, green, blue is class 2, 1, 0
        np.testing.assert_array_equal(2 - brightest, part.labels)
        assert len(set(np.bincount(part.labels))) == 1
    parts = [image.tobytes() for part in (splits.train, splits.validation, splits.test) for image in part.images]
    assert len(set(parts)) == 60


def test_images_are_what_the_graph_makes_of_them(tmp_path) -> None:
    splits = load_images(data=make(tmp_path / "photos", 5), size=28)
    expected = set()
    for path in sorted((tmp_path / "photos").glob("*/*")):
        grey = np.asarray(Image.open(path).convert("L"))[..., None]
        expected.add(center_square_uint8(torch.from_numpy(grey.copy()), 28).numpy().tobytes())
    assert {image.tobytes() for part in (splits.train, splits.validation, splits.test) for image in part.images} == expected


def test_progress_counts_the_images_and_nothing_is_printed(tmp_path, capfd) -> None:
    calls = []
    load_images(data=make(tmp_path / "photos", 5), progress=lambda *call: calls.append(call))
    assert calls == [("reading images", done, 15, "images") for done in range(1, 16)]
    assert capfd.readouterr() == ("", "")


def test_the_hash_is_that_of_the_files(tmp_path) -> None:
    folder = make(tmp_path / "photos", 5)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in sorted(folder.glob("*/*"))]
    splits = load_images(data=folder)
    assert splits.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    moved = shutil.move(folder, tmp_path / "moved")
    assert load_images(data=moved, size=64, color=True, seed=3).sha256 == splits.sha256


def test_the_seed_decides_the_split(tmp_path) -> None:
    folder = make(tmp_path / "photos", 10)
    tests = [load_images(data=folder, seed=seed).test for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tests[0].images, tests[1].images)
    assert {i.tobytes() for i in tests[0].images} != {i.tobytes() for i in tests[2].images}


def test_folders_that_are_split_already(tmp_path) -> None:
    folder = tmp_path / "photos"
    make(folder / "train", 10)
    make(folder / "test", 3, first=100)
    make(folder / "val", 2, first=200)
    splits = load_images(data=folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 6, 9]
    everything = load_images(data=folder, validation=0)
    assert [len(part) for part in (everything.train, everything.validation, everything.test)] == [36, 0, 9]
    assert {i.tobytes() for i in splits.validation.images} < {i.tobytes() for i in everything.train.images}
    with pytest.raises(InputError, match="a part of its own"):
        load_images(data=folder, validation=5)
    shutil.rmtree(folder / "val")
    splits = load_images(data=folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [26, 4, 9]


def test_a_test_folder_without_classes_is_not_for_testing(tmp_path) -> None:
    folder = tmp_path / "photos"
    make(folder / "train", 10)
    draw(folder / "test" / "unknown", (0, 0, 0), 5)
    splits = load_images(data=folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [21, 3, 6]


def test_a_class_may_be_called_train(tmp_path) -> None:
    folder = make(tmp_path / "vehicles", 10)
    (folder / "red").rename(folder / "train")
    assert load_images(data=folder).classes == ("blue", "green", "train")


def test_copies_are_left_out_where_they_would_train(tmp_path) -> None:
    folder = tmp_path / "photos"
    make(folder / "train", 10)
    make(folder / "test", 3, first=100)
    shutil.copy(next((folder / "test" / "red").iterdir()), folder / "train" / "red" / "copy.png")
    shutil.copy(next((folder / "train" / "blue").iterdir()), folder / "train" / "blue" / "copy.png")
    splits = load_images(data=folder, validation=0)
    assert [len(splits.train), len(splits.test)] == [30, 9]
    assert splits.source == "a folder of 39 images (2 copies left out)"
    assert not {i.tobytes() for i in splits.train.images} & {i.tobytes() for i in splits.test.images}


def test_a_image_in_two_classes_is_named(tmp_path) -> None:
    folder = make(tmp_path / "photos", 5)
    original = next((folder / "red").iterdir())
    shutil.copy(original, folder / "blue" / "wrong.png")
    with pytest.raises(DataError) as caught:
        load_images(data=folder)
    assert str(original) in str(caught.value)
    assert "wrong.png" in str(caught.value)


def test_unreadable_images_are_named(tmp_path) -> None:
    folder = make(tmp_path / "photos", 5)
    (folder / "red" / "text.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        load_images(data=folder)
    assert str(folder / "red" / "text.png") in str(caught.value).splitlines()[0]
    whole = next((folder / "blue").glob("*.jpg")).read_bytes()
    (folder / "blue" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        load_images(data=folder)
    first, second = str(caught.value).splitlines()
    assert first.startswith("2 of 17 images cannot be read, the first of them: ")
    assert "cut.jpg" in first
    assert "text.png" in second


def test_too_few_to_split(tmp_path) -> None:
    folder = make(tmp_path / "photos", 6)
    for path in sorted((folder / "green").iterdir())[2:]:
        path.unlink()
    with pytest.raises(DataError, match="class 'green' of photos has too few images"):
        load_images(data=folder)
    draw(folder / "green" / "another", COLOURS["green"], 77)
    splits = load_images(data=folder)
    for part in (splits.train, splits.validation, splits.test):
        assert set(part.labels) == {0, 1, 2}


@pytest.mark.parametrize("parts", [(), ("train",)])
def test_classes_that_are_no_classes(tmp_path, parts) -> None:
    top = tmp_path / "photos"
    folder = make(top.joinpath(*parts), 5)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image"):
        load_images(data=top)
    for name in ("empty", "green", "blue"):
        shutil.rmtree(folder / name)
    with pytest.raises(DataError, match=r"at least two classes.*'red'"):
        load_images(data=top)
    shutil.rmtree(folder)
    with pytest.raises(DataError):
        load_images(data=top)


def test_parts_must_have_the_same_classes(tmp_path) -> None:
    folder = tmp_path / "photos"
    make(folder / "train", 5)
    make(folder / "test", 2, first=100)
    (folder / "test" / "red").rename(folder / "test" / "rot")
    with pytest.raises(DataError, match=r"same classes in train and test.*red, rot"):
        load_images(data=folder)


def test_a_folder_that_is_none(tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_images(data=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be read as a folder"):
        load_images(data=tmp_path / "file")


def test_names_that_differ_in_how_an_accent_is_stored_are_one_class(tmp_path) -> None:
    folder = make(tmp_path / "photos", 10)
    (folder / "red").rename(folder / "caf\u00e9")
    draw(folder / "cafe\u0301" / "another", COLOURS["red"], 77)
    splits = load_images(data=folder)
    assert splits.classes == ("blue", "caf\u00e9", "green")
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 31


@pytest.mark.parametrize("name", [b"a\xff", b"a\nb", b"a\x1bb"])
def test_names_that_no_label_can_have_are_refused_before_training(tmp_path, name: bytes) -> None:
    folder = make(tmp_path / "photos", 5)
    os.rename(os.fsencode(folder / "red"), os.path.join(os.fsencode(folder), name))  # noqa: PTH104, PTH118 (bytes)
    with pytest.raises(DataError, match="cannot name a class: expected one line of text"):
        load_images(data=folder)


@pytest.mark.parametrize(("part", "word"), [("val", "validation"), ("test", "test")])
def test_a_part_that_holds_all_training_images_is_named(tmp_path, part: str, word: str) -> None:
    folder = tmp_path / "photos"
    make(folder / "train", 5)
    shutil.copytree(folder / "train", folder / part)
    with pytest.raises(DataError, match=f"every training image of class 'blue' lies in the {word} part too"):
        load_images(data=folder)


def test_one_unreadable_image_of_many_is_left_out_with_a_note(tmp_path) -> None:
    folder = make(tmp_path / "photos", 10)
    (folder / "red" / "empty.png").write_bytes(b"")
    (note,) = load_images(data=folder, color=True).notes
    assert note.startswith("1 of 31 images cannot be read and is left out: ")
