"""Composed scenes: boxes fit the ink, parts do not share digits, the same seed gives the same scene."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.train.data import detection
from onnxferry.train.data.detection import load_scenes
from onnxferry.train.data.images import ImageSet, load_images
from onnxferry.train.data.scenes import DIGIT_SIDES, MAX_COVERED, Scene, _Page, compose_number, compose_scene


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("digits-5k", limit=300).train


def test_boxes_are_in_the_image_and_as_large_as_promised(digits: ImageSet) -> None:
    rng = np.random.default_rng(0)
    sides, counts = [], []
    for _ in range(60):
        scene = compose_scene(rng, digits, 140, 190)
        assert scene.image.shape == (140, 190, 1)
        assert scene.image.dtype == np.uint8
        assert ((scene.boxes >= 0) & (scene.boxes <= [190, 140, 190, 140])).all()
        assert len(scene.boxes) == len(scene.labels)
        sides += (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(axis=1).tolist()
        counts.append(len(scene.labels))
    assert min(sides) < 20
    assert max(sides) > 60
    assert max(sides) <= 1.5 * DIGIT_SIDES[1]  # slanted and stretched
    assert max(counts) >= 8


def test_a_box_is_tight_around_the_ink(digits: ImageSet) -> None:
    page = _Page(np.random.default_rng(1), digits, 120, 120)
    page.scatter()
    ((left, top, right, bottom),) = page.boxes
    rows, columns = np.flatnonzero(page.ink.max(axis=1) >= 0.4), np.flatnonzero(page.ink.max(axis=0) >= 0.4)
    assert (top, bottom, left, right) == (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)


def test_digits_overlap_little(digits: ImageSet) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        boxes = compose_scene(rng, digits, 100, 100).boxes
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
                assert shared <= MAX_COVERED * min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()) + 1e-6


def test_a_number_is_what_it_says(digits: ImageSet) -> None:
    scene, text = compose_number(np.random.default_rng(3), digits, 5)
    assert len(text) == 5
    order = np.argsort(scene.boxes[:, [0, 2]].sum(axis=1))
    assert "".join(map(str, scene.labels[order])) == text


def test_both_polarities_occur(digits: ImageSet) -> None:
    rng = np.random.default_rng(4)
    grounds = [np.median(compose_scene(rng, digits, 100, 100).image) for _ in range(12)]
    assert min(grounds) < 100 < 155 < max(grounds)


def test_parts_are_of_the_digits_of_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    splits = load_images("digits-5k", limit=100)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    names = {part.images.tobytes(): name for name, part in parts.items()}

    def noted(rng: np.random.Generator, digits: ImageSet, height: int, width: int) -> Scene:
        seen.append(names[digits.images.tobytes()])
        return compose_scene(rng, digits, height, width)

    monkeypatch.setattr(detection, "SCENES", (3, 2))
    monkeypatch.setattr(detection, "compose_scene", noted)
    made = load_scenes("digits-5k", limit=100)
    made.train.scene(np.random.default_rng(0), 0, 96, 96)
    assert (len(made.test), len(made.validation)) == (3, 2)
    assert sorted(seen) == ["test"] * 3 + ["train"] + ["validation"] * 2


def test_test_scenes_do_not_depend_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "SCENES", (2, 1))
    first, again = (load_scenes("digits-5k", limit=50).test for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert (a.image == b.image).all()
        assert (a.boxes == b.boxes).all()


def test_only_digits_make_scenes() -> None:
    with pytest.raises(InputError, match="unknown data set"):
        load_scenes("letters")
