"""On a GPU: every family learns there what it learns on the CPU, in float32 and in mixed precision, and goes on where it was cut off.

Tolerances. The text generator draws nothing here (no dropout), starts from the same weights and reads the same bytes, so that a GPU
differs by the rounding of its sums, in cuDNN's TF32 (10 bits of mantissa), and in mixed precision by that of half precision, which
three dozen updates carry on: 1 % and 5 % of the loss. The others draw augmentation and noise with the device's own generator, so that
it is another run of the same quality; ``apart`` is the share that two such runs may differ by, as in test_devices.py, which says what
was seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxferry.train.autoencoder import AutoencoderLearner, AutoencoderOptions
from onnxferry.train.checkpoint import load_checkpoint
from onnxferry.train.cnn import CnnLearner, CnnOptions
from onnxferry.train.data import load_images
from onnxferry.train.gan import GanLearner, GanOptions
from onnxferry.train.gan_quality import judge_from_model
from onnxferry.train.loop import InterruptedTrainingError, Learner, LoopConfig, fit
from onnxferry.train.rnn import RnnConfig, RnnLearner, RnnOptions
from onnxferry.train.text import TextSplits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch here has no CUDA, or finds no GPU")]

DEVICE = "cuda"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def recogniser() -> Learner:
    options = CnnOptions(epochs=3, batch=20, average=0.9)
    return CnnLearner(load_images("digits-5k", limit=1000, validation=300), options, framing="ink", width=8)


def autoencoder() -> Learner:
    options = AutoencoderOptions(epochs=3, batch=20, average=0.9)
    return AutoencoderLearner(load_images("digits-5k", limit=1000, validation=300), options, latent=16, width=8)


def generator() -> Learner:
    options = GanOptions(epochs=3, batch=20, average=0.9, discriminator_width=8)
    return GanLearner(load_images("digits-5k", limit=1000, validation=300), options, judge_from_model("digits"), noise=16, width=8)


def text_generator() -> Learner:
    text = np.frombuffer(b"the cat sat on the mat and the dog ate the hat. " * 200, np.uint8)
    options = RnnOptions(epochs=2, batch=8, steps=16, dropout=0, weight_dropout=0, reset=0, average=0.9)
    return RnnLearner(TextSplits("made", text[:8000], text[8000:8800], text[8800:], "", ""), RnnConfig(depth=2, width=16), options)


@functools.cache
def on_the_cpu(make: Callable[[], Learner], folder: Path) -> dict[str, Any]:
    return fit(make(), LoopConfig(out=folder / make.__name__, device="cpu"))["test"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cpu")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("make", "metric", "apart"), [(recogniser, "accuracy", 0.15), (autoencoder, "mse", 0.15), (generator, "frechet", 0.4)]
)
def test_pictures(tmp_path: Path, folder: Path, make: Callable[[], Learner], metric: str, apart: float, precision: str) -> None:
    there = fit(make(), LoopConfig(out=tmp_path, device=DEVICE, precision=precision))["test"]
    assert there[metric] == pytest.approx(on_the_cpu(make, folder)[metric], rel=apart)
    weights = load_checkpoint(tmp_path).weights.values()
    assert all(weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.int64) for weight in weights)


@pytest.mark.parametrize(("precision", "apart"), [("32-true", 0.01), ("bf16-mixed", 0.05), ("16-mixed", 0.05)])
def test_text(tmp_path: Path, folder: Path, precision: str, apart: float) -> None:
    there = fit(text_generator(), LoopConfig(out=tmp_path, device=DEVICE, precision=precision))["test"]
    assert there["loss"] == pytest.approx(on_the_cpu(text_generator, folder)["loss"], rel=apart)


def test_a_run_that_was_cut_off_goes_on_with_its_scale_of_gradients(tmp_path: Path) -> None:
    import os
    import signal

    learner = recogniser()
    validate = learner.validate

    def interrupted() -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)  # during the first epoch's validation: acted on within the second
        return validate()

    learner.validate = interrupted  # type: ignore[method-assign]
    config = LoopConfig(out=tmp_path, device=DEVICE, precision="16-mixed")
    with pytest.raises(InterruptedTrainingError):
        fit(learner, config)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert saved["precision"]["scale"] > 0
    assert saved["precision"]["_growth_tracker"] > 0
    result = fit(recogniser(), LoopConfig(out=tmp_path, device=DEVICE, precision="16-mixed", resume=True))
    assert result["test"]["accuracy"] > 0.5
