"""Every family, trained on other devices and in mixed precision: what comes of it is what float32 on the CPU gives, within noise.

The noise is what another seed does to the same small run: NOISE holds, by family, the standard deviation of the test's figure over
eight seeds, in float32 on the CPU (``measure_noise``). Two runs may differ by four times that of a difference, sqrt(2) as much.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.train.augment import AugmentConfig
from onnxferry.train.autoencoder import AutoencoderLearner, AutoencoderOptions
from onnxferry.train.cnn import CnnLearner, CnnOptions
from onnxferry.train.data import ImageSplits, load_images
from onnxferry.train.gan import GanLearner, GanOptions
from onnxferry.train.gan_quality import judge_from_model
from onnxferry.train.loop import Learner, LoopConfig, fit
from onnxferry.train.rnn import RnnConfig, RnnLearner, RnnOptions
from onnxferry.train.text import load_text

NO_CUDA = None if torch.cuda.is_available() else f"torch {torch.__version__} was built without CUDA, or finds no GPU"
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(NO_CUDA is not None, reason=f"no training on CUDA: {NO_CUDA}")]

STILL = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0)


def pictures(count: int) -> ImageSplits:
    whole = load_images("digits-5k", limit=count, validation=0)
    return dataclasses.replace(whole, test=whole.test.take(np.arange(0, 1000, 2)))


def recogniser(seed: int) -> CnnLearner:
    options = CnnOptions(epochs=4, batch=20, learning_rate=1e-2, average=0.9, augment=STILL)
    return CnnLearner(pictures(600), options, framing="fit", width=4, seed=seed)


def text_generator(seed: int) -> RnnLearner:
    splits = load_text(validation=0.0)
    few = dataclasses.replace(splits, train=splits.train[:60_000], test=splits.test[:10_000])
    options = RnnOptions(epochs=2, batch=16, steps=32, learning_rate=1e-2, dropout=0.0, weight_dropout=0.0, average=0.9)
    return RnnLearner(few, RnnConfig(cell="lstm", depth=1, width=48), options, seed=seed)


def image_generator(seed: int) -> GanLearner:
    options = GanOptions(epochs=20, batch=20, average=0.95, discriminator_width=8, learning_rate=1e-3)
    return GanLearner(pictures(1000), options, judge_from_model("digits"), noise=8, width=8, seed=seed)


def autoencoder(seed: int) -> AutoencoderLearner:
    options = AutoencoderOptions(epochs=4, batch=20, average=0.9)
    return AutoencoderLearner(pictures(600), options, latent=8, width=4, variational=False, seed=seed)


FAMILIES: dict[str, tuple[Callable[[int], Learner], str]] = {
    "cnn": (recogniser, "accuracy"),
    "rnn": (text_generator, "loss"),
    "gan": (image_generator, "agreement"),
    "ae": (autoencoder, "mse"),
}
NOISE = {"cnn": 1.0, "rnn": 1.0, "gan": 1.0, "ae": 1.0}


def figure(family: str, out: Path, device: str, precision: str, seed: int = 0) -> float:
    make, name = FAMILIES[family]
    return float(fit(make(seed), LoopConfig(out=out, device=device, precision=precision))["test"][name])


def measure_noise(folder: Path) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each family's figure over eight seeds."""
    found = {}
    for family in FAMILIES:
        figures = [figure(family, folder / f"{family}-{seed}", "cpu", "32-true", seed) for seed in range(8)]
        found[family] = statistics.mean(figures), statistics.stdev(figures)
    return found
