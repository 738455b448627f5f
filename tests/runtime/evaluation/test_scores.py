from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.evaluation import confusion_plot
from onnxferry.runtime.evaluation.confusion_plot import draw_confusion, numbered_labels, write_confusion_plot
from onnxferry.runtime.evaluation.scores import BINS, ClassScore, Confusion, Scores, wilson_interval


def scored(answers: list[tuple[int, int, float]], labels: str = "abc") -> Scores:
    scores = Scores(labels)
    for answer in answers:
        scores.add(*answer)
    return scores


def test_counts_and_shares() -> None:
    scores = scored([(0, 0, 0.9), (0, 1, 0.6), (0, 1, 0.6), (1, 1, 0.8), (1, 0, 0.5)])
    np.testing.assert_array_equal(scores.confusion, [[1, 2, 0], [1, 1, 0], [0, 0, 0]])
    assert (scores.count, scores.correct, scores.accuracy) == (5, 2, 0.4)
    assert scores.mean_probability == pytest.approx(3.4 / 5)
    assert scores.classes == (
        ClassScore("a", 3, 1, pytest.approx(1 / 3), 0.5, 0.4),
        ClassScore("b", 2, 1, 0.5, pytest.approx(1 / 3), 0.4),
        ClassScore("c", 0, 0, None, None, None),
    )
    assert scores.confusions(9) == (Confusion("a", "b", 2), Confusion("b", "a", 1))
    assert scores.confusions(1) == (Confusion("a", "b", 2),)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson_interval(trials - successes, trials) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_nothing_counted() -> None:
    scores = Scores("ab")
    assert math.isnan(scores.accuracy)
    assert math.isnan(scores.calibration_error)
    assert scores.interval == (0.0, 1.0)


def test_calibration_error_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    probabilities = np.concatenate([rng.uniform(0.1, 1, 500), np.arange(1, 16) / 15, [0.0, 1.0]])
    right = rng.random(len(probabilities)) < probabilities**2
    expected = 0.0
    for m in range(1, BINS + 1):  # equation 3 of the paper, bins ((m - 1) / M, m / M]
        inside = (probabilities > (m - 1) / BINS) & (probabilities <= m / BINS)
        if m == 1:
            inside |= probabilities == 0
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - probabilities[inside].mean())
    scores = scored([(0, 0 if hit else 1, float(p)) for hit, p in zip(right, probabilities, strict=True)])
    # The bins' edges, k / 15 in binary, may fall on either side.
    assert scores.calibration_error == pytest.approx(expected, abs=2e-3)
    assert scores.bin_counts.sum() == len(probabilities)


def test_perfect_and_worst_calibration() -> None:
    assert scored([(0, 0, 1.0)] * 10).calibration_error == 0
    assert scored([(0, 1, 1.0)] * 10).calibration_error == 1
    half = [(0, 0, 0.5), (0, 1, 0.5)] * 5
    assert scored(half).calibration_error == pytest.approx(0)


class TestImage:
    def test_diagonal_is_green_mistakes_are_red_and_the_rest_is_paper(self) -> None:
        image = np.asarray(draw_confusion(scored([(0, 0, 1), (1, 1, 1), (2, 2, 1), (2, 0, 1)], "abc"))).astype(int)
        red, green, blue = image[..., 0], image[..., 1], image[..., 2]
        assert ((green > red + 30) & (green > blue + 20)).sum() > 3 * 1500  # three cells of 56 x 56, less their numbers
        assert 1500 < ((red > green + 30) & (red > blue + 30)).sum() < 56 * 56 + 1

    @pytest.mark.parametrize("classes", [2, 12, 40, 400])
    def test_any_number_of_classes(self, classes: int) -> None:
        scores = Scores([f"class {i}" for i in range(classes)])
        scores.add(0, 1, 0.5)
        width, height = draw_confusion(scores).size
        assert max(width, height) < 8500

    def test_long_and_foreign_labels(self) -> None:
        scores = scored([(0, 1, 0.5)], ["Käse " * 30, "very long " * 30, ""])  # type: ignore[arg-type]
        assert draw_confusion(scores).width < 700

    def test_labels_without_letters_in_any_font_have_their_number_and_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(confusion_plot, "_SYSTEM_FONTS", ("no font of this name.ttf",))
        foreign = scored([(0, 1, 0.5)], ["球鞋", "shoe", "Käse 球"])  # type: ignore[arg-type]
        assert numbered_labels(foreign) == {0: "球鞋", 2: "Käse 球"}
        assert numbered_labels(scored([(0, 1, 0.5)])) == {}
        assert draw_confusion(foreign).height == draw_confusion(scored([(0, 1, 0.5)], ["00", "shoe", "22"])).height + 24  # type: ignore[arg-type]

    def test_written_whole_or_not_at_all(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "matrix.jpg"  # PNG whatever the suffix
        write_confusion_plot(scored([(0, 0, 1)]), path)
        with Image.open(path) as image:
            assert image.format == "PNG"
        before = path.read_bytes()

        def full(self, stream, *args: object, **options: object) -> None:
            stream.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match="No space left"):
            write_confusion_plot(scored([(1, 1, 1)]), path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["matrix.jpg"]
