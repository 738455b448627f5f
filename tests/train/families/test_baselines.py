"""What simple models make of the data, and when a result is warned of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from onnxferry.train.data.images import ImageSet, ImageSplits, load_images
from onnxferry.train.data.text import TextSplits
from onnxferry.train.families.autoencoder import AutoencoderLearner, AutoencoderOptions
from onnxferry.train.families.baselines import _small_grey, few_a_class, letter_counts, logistic_regression, majority
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.families.rnn import RnnConfig, RnnLearner, RnnOptions


@pytest.fixture(scope="module")
def splits() -> ImageSplits:
    return load_images("digits-5k", limit=300, validation=20)


def test_the_most_frequent_class() -> None:
    assert majority(np.array([0, 1, 1, 2]), np.array([1, 1, 0, 1])) == 0.75


def test_logistic_regression_is_scikit_learn_s(splits: ImageSplits) -> None:
    x, y = (_small_grey(part.images).numpy() for part in (splits.train, splits.test))
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0, ddof=1), 1e-3)
    expected = LogisticRegression(max_iter=300).fit((x - mean) / std, splits.train.labels).score((y - mean) / std, splits.test.labels)
    assert logistic_regression(splits.train, splits.test, 10) == pytest.approx(expected, abs=0.005)
    assert expected > 0.7


def test_letters_are_counted() -> None:
    train, test = (np.frombuffer(text, np.uint8) for text in (b"ab" * 5000, b"ab" * 500))
    counted = letter_counts(train, test)
    assert counted["unigram_bits"] == pytest.approx(1.0, abs=0.05)
    assert counted["bigram_bits"] < 0.01


def test_a_recogniser_that_is_no_better_is_warned_of(splits: ImageSplits) -> None:
    learner = CnnLearner(splits, CnnOptions(epochs=3), framing="ink", width=4)
    baseline = {"majority": 0.1, "logistic_regression": 0.8}

    def warnings(accuracy: float, baseline: dict[str, float] = baseline) -> list[str]:
        return learner.warnings({"test": {"accuracy": accuracy}, "baseline": baseline})

    assert warnings(0.9) == []
    assert warnings(1.0, {"majority": 0.5, "logistic_regression": 1.0}) == []
    assert "no more than logistic regression" in warnings(0.8)[0]
    assert "--epochs 6" in warnings(0.8)[0]
    assert "nothing was learned" in warnings(0.1)[0]


def test_classes_of_few_images_are_named(splits: ImageSplits) -> None:
    few = splits.train.take(np.concatenate([np.flatnonzero(splits.train.labels == 3)[:4], np.flatnonzero(splits.train.labels != 3)]))
    assert few_a_class(splits) == []
    (warning,) = few_a_class(dataclasses.replace(splits, train=few))
    assert warning.startswith("classes with fewer than 10 images to train on (3 4) are learned poorly")


def test_an_autoencoder_worse_than_pca_is_warned_of(splits: ImageSplits) -> None:
    learner = AutoencoderLearner(splits, AutoencoderOptions(epochs=5), latent=4, width=4)
    assert learner.warnings({"test": {"of_pca": 0.9}}) == []
    assert "the error is 4.24 times that of PCA" in learner.warnings({"test": {"of_pca": 4.241}})[0]


def test_a_text_that_is_too_small_and_a_network_that_learned_nothing() -> None:
    text = np.frombuffer(b"some words and others\n" * 20, np.uint8)
    learner = RnnLearner(TextSplits("t", text, text[:20], text[20:90], "", ""), RnnConfig(width=4), RnnOptions(epochs=2))
    small, poor = learner.warnings({"test": {"bits_per_byte": 7.0}, "baseline": learner.baseline()})
    assert small.startswith("440 bytes are too few")
    assert poor.startswith("7.00 bits a byte on the test text, and counting pairs of letters gives")


def test_images_of_any_size_and_colour_have_a_baseline() -> None:
    images = np.zeros((4, 40, 40, 3), np.uint8)
    images[2:] = 255
    halves = ImageSet(images, np.array([0, 0, 1, 1]))
    assert logistic_regression(halves, halves, 2) == 1.0
