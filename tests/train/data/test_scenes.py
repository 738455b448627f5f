"""Composed scenes: boxes fit the ink, parts do not share digits, the same seed gives the same scene."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.train.data import detection
from onnxferry.train.data.detection import load_scenes
from onnxferry.train.data.images import ImageSet, load_images
from onnxferry.train.data.scenes import BEND, DIGIT_SIDES, MAX_COVERED, Scene, _Page, compose_number, compose_scene


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

    def noted(rng: np.random.Generator, digits: ImageSet, height: int, width: int, bend: float = 0.0) -> Scene:
        seen.append(names[digits.images.tobytes()])
        assert (bend > 0) == (seen[-1] == "train")  # only training digits are bent
        return compose_scene(rng, digits, height, width, bend=bend)

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


def test_bent_digits_are_other_drawings_in_their_boxes() -> None:
    digits = load_images("digits-5k", limit=100).train
    plain = compose_scene(np.random.default_rng(6), digits, 96, 128)
    bent = compose_scene(np.random.default_rng(6), digits, 96, 128, bend=BEND)
    assert np.array_equal(bent.image, compose_scene(np.random.default_rng(6), digits, 96, 128, bend=BEND).image)
    assert not np.array_equal(bent.image, plain.image)
    assert len(bent.labels)
    left, top, right, bottom = bent.boxes.T
    assert min(left.min(), top.min(), 128 - right.max(), 96 - bottom.max()) >= 0


def test_pieces_that_are_not_bent_draw_as_the_affine_map_does() -> None:
    digits = load_images("digits-5k", limit=100).train
    for seed in range(20):
        drawn, label = _Page(np.random.default_rng(seed), digits, 96, 96)._digit(50)
        pieces, same = _Page(np.random.default_rng(seed), digits, 96, 96, 1e-9)._digit(50)
        height, width = min(drawn.shape[0], pieces.shape[0]), min(drawn.shape[1], pieces.shape[1])
        assert label == same
        assert abs(drawn.shape[0] - pieces.shape[0]) <= 1
        inked = (drawn[:height, :width] > 0.3) != (pieces[:height, :width] > 0.3)  # how strong the ink is was drawn anew
        assert inked.mean() < 0.1  # the box may begin one pixel elsewhere; another digit differs in a quarter of the pixels
