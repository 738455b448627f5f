"""Shipped models and their examples, as the pages get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.shipped import models
from onnxferry.runtime import Autoencoder, Classifier, ImageGenerator
from onnxferry.runtime.errors import ArtifactError


def test_a_model_is_opened_once(tiny_zoo: Path, show_zoo: Callable[[Path], None]) -> None:
    show_zoo(tiny_zoo)
    assert models.opened("digits", Classifier) is models.opened("digits", Classifier)
    assert models.opened("digits-gan", ImageGenerator).labels == tuple("0123456789")
    assert models.opened("digits-ae", Autoencoder).decoder is not None


def test_another_kind_than_expected_is_refused(tiny_zoo: Path, show_zoo: Callable[[Path], None]) -> None:
    show_zoo(tiny_zoo)
    with pytest.raises(ArtifactError, match="is a Classifier, expected a ImageGenerator"):
        models.opened("digits", ImageGenerator)


def test_shipped_keeps_the_order_asked_for(tiny_zoo: Path, show_zoo: Callable[[Path], None], tmp_path: Path) -> None:
    show_zoo(tiny_zoo)
    assert models.shipped(["fashion-gan", "digits-gan", "digits"]) == ["digits-gan", "digits"]
    show_zoo(tmp_path)
    assert models.shipped(["digits"]) == []
    assert "digits" in models.not_shipped("digits")


def test_examples_and_mistakes(tiny_zoo: Path, show_zoo: Callable[[Path], None]) -> None:
    show_zoo(tiny_zoo)
    digits = models.examples("digits")
    assert len(digits.right) + len(digits.mistakes) == len(digits.images)
    assert (digits.predicted[digits.mistakes] != digits.labels[digits.mistakes]).all()
    assert digits.images.shape[1:] == (28, 28, 1)
    assert len(models.examples("digits-ae").strange) == 4
    nothing = models.examples("shakespeare")
    assert (len(nothing.images), len(nothing.mistakes), len(nothing.right)) == (0, 0, 0)


@pytest.mark.parametrize("content", [b"not an archive", b"", b"PK\x03\x04 cut"])
def test_damaged_examples_are_an_error_in_words(tiny_zoo: Path, show_zoo: Callable[[Path], None], tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("digits.onnx", "card.json"):
        (folder / name).write_bytes((tiny_zoo / "digits" / name).read_bytes())
    (folder / "examples.npz").write_bytes(content)
    show_zoo(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        models.examples("digits")


def test_images_without_an_axis_for_channels_get_one() -> None:
    assert models._four_axes(np.zeros((2, 5, 6), np.uint8)).shape == (2, 5, 6, 1)
