"""Every family, trained on CUDA and in mixed precision: what comes of it is what float32 on the CPU gives, within noise.

The noise is what another seed does to the same small run. CPU holds, by family, the mean and the standard deviation of the test's
figure over eight seeds, in float32 on the CPU; ``python tests/train/loop/test_precision.py`` measures them again. The mean over a few
seeds elsewhere may be off by four standard errors of the difference of the two means.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.runtime.tables.labelled_text import LabelledTexts
from onnxferry.train.data.augment import AugmentConfig
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.data.text import load_text
from onnxferry.train.data.text_sets import split_texts
from onnxferry.train.families.autoencoder import AutoencoderLearner, AutoencoderOptions
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.families.gan import GanLearner, GanOptions
from onnxferry.train.families.gan_quality import judge_from_model
from onnxferry.train.families.rnn import RnnConfig, RnnLearner, RnnOptions
from onnxferry.train.families.text_classifier import TextClassifierLearner, TextClassifierOptions
from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.loop import PRECISIONS, LoopConfig, fit

NO_CUDA = None if torch.cuda.is_available() else f"torch {torch.__version__} was built without CUDA, or finds no GPU"
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(NO_CUDA is not None, reason=f"no training on CUDA: {NO_CUDA}")]

STILL = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0)


def images(count: int) -> ImageSplits:
    whole = load_images("digits-5k", limit=count, validation=0)
    return dataclasses.replace(whole, test=whole.test.take(np.arange(0, 1000, 2)))


def recogniser(seed: int) -> CnnLearner:
    options = CnnOptions(epochs=6, batch=20, learning_rate=1e-2, average=0.9, augment=STILL)
    return CnnLearner(images(1500), options, framing="fit", width=6, seed=seed)


def text_generator(seed: int) -> RnnLearner:
    splits = load_text(validation=0.0)
    few = dataclasses.replace(splits, train=splits.train[:60_000], test=splits.test[:10_000])
    options = RnnOptions(epochs=2, batch=16, steps=32, learning_rate=1e-2, dropout=0.0, weight_dropout=0.0, average=0.9)
    return RnnLearner(few, RnnConfig(cell="lstm", depth=1, width=48), options, seed=seed)


def image_generator(seed: int) -> GanLearner:
    options = GanOptions(epochs=20, batch=20, average=0.95, discriminator_width=8, learning_rate=1e-3)
    return GanLearner(images(1000), options, judge_from_model("digits"), noise=8, width=8, seed=seed)


def autoencoder(seed: int) -> AutoencoderLearner:
    options = AutoencoderOptions(epochs=4, batch=20, average=0.9)
    return AutoencoderLearner(images(600), options, latent=8, width=4, variational=False, seed=seed)


def text_classifier(seed: int) -> TextClassifierLearner:
    generator = np.random.default_rng(0)
    words = ("not good", "very good")
    texts = [(f"{' '.join(f'w{n}' for n in generator.integers(0, 300, 9))} {words[i % 2 ^ (i % 10 == 0)]}", str(i % 2)) for i in range(300)]
    splits = split_texts("made", LabelledTexts([text for text, _ in texts], [label for _, label in texts], ""), "made")
    options = TextClassifierOptions(epochs=3, batch=30, average=0.9)
    return TextClassifierLearner(splits, options, width=8, embedding=4, buckets=512, linear_buckets=2048, seed=seed)


FAMILIES: dict[str, tuple[Callable[[int], Learner], str]] = {
    "cnn": (recogniser, "accuracy"),
    "rnn": (text_generator, "loss"),
    "gan": (image_generator, "agreement"),
    "ae": (autoencoder, "mse"),
    "text-classifier": (text_classifier, "loss"),
}
CPU = {  # mean, standard deviation
    "cnn": (0.9628, 0.0044),
    "rnn": (2.594, 0.0298),
    "gan": (0.6465, 0.1392),
    "ae": (0.0597, 0.00209),
    "text-classifier": (0.2904, 0.0602),
}
MEASURED = 8
"""Seeds behind CPU."""


def figure(family: str, seed: int, folder: Path, device: str, precision: str) -> float:
    make, name = FAMILIES[family]
    return float(fit(make(seed), LoopConfig(out=folder / str(seed), device=device, precision=precision))["test"][name])


HERE = [pytest.param(family, "cpu", "bf16-mixed", 1) for family in FAMILIES if family != "gan"]  # which takes minutes so
THERE = [pytest.param(family, "cuda", precision, 4, marks=on_gpu) for family in FAMILIES for precision in PRECISIONS]


@pytest.mark.parametrize(("family", "device", "precision", "seeds"), [*HERE, *THERE])
def test_what_is_learnt_is_what_float32_on_the_cpu_learns(family: str, device: str, precision: str, seeds: int, tmp_path: Path) -> None:
    mean, deviation = CPU[family]
    found = statistics.fmean(figure(family, seed, tmp_path, device, precision) for seed in range(seeds))
    assert abs(found - mean) < 4 * deviation * math.sqrt(1 / seeds + 1 / MEASURED)


if __name__ == "__main__":
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            figures = [figure(family, seed, Path(folder), "cpu", "32-true") for seed in range(MEASURED)]
        print(f"{family}: {statistics.fmean(figures):.4g}, {statistics.stdev(figures):.3g}")
