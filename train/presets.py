"""What each family trains by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from onnxferry.runtime.errors import InputError
from onnxferry.train.data.augment import AugmentConfig
from onnxferry.train.data.images import ImageSplits
from onnxferry.train.data.text import TextSplits
from onnxferry.train.families.autoencoder import AutoencoderLearner, AutoencoderOptions
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.families.gan import GanLearner, GanOptions
from onnxferry.train.families.gan_quality import Judge
from onnxferry.train.families.rnn import RnnConfig, RnnLearner, RnnOptions
from onnxferry.train.loop.checkpoint import Checkpoint


def gan_learner(
    splits: ImageSplits,
    preset: str,
    judge: Judge,
    *,
    noise: int | None = None,
    width: int | None = None,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> GanLearner:
    """The learner for a preset (``quick``: readable in minutes on two cores, ``full``: the best), with what the user set instead.

    ``options`` holds fields of GanOptions; None leaves the preset's.
    """
    if preset not in ("quick", "full"):
        raise InputError(f"unknown preset {preset!r}; expected quick or full")
    how = GanOptions(epochs=40, batch=50, average=0.99, discriminator_width=24) if preset == "quick" else GanOptions()
    how = dataclasses.replace(how, **{k: v for k, v in (options or {}).items() if v is not None})  # type: ignore[arg-type]
    return GanLearner(splits, how, judge, noise=64 if noise is None else noise, width=width or 32, seed=seed)


FIGURES = ("digits-5k", "mnist")  # sets of single figures on a plain ground: framed by their ink


PHOTO_AUGMENT = AugmentConfig(rotation=8, scale=0.15, shear=0.05, shift=0.06, elastic=0.0, blur=0.2, erase=0.25, mirror=True)


FASHION_AUGMENT = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0, erase=0.5, mirror=True, crop=2)


def cnn_learner(
    splits: ImageSplits,
    preset: str,
    *,
    figures: bool,
    epochs: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    width: int | None = None,
    augment: bool = True,
    seed: int = 0,
    init: Checkpoint | None = None,
) -> CnnLearner:
    """The learner for a preset (``quick``: minutes on two cores, ``full``: the best), with what the user set instead."""
    if preset not in ("quick", "full"):
        raise InputError(f"unknown preset {preset!r}; expected quick or full")
    options = CnnOptions(epochs=18, batch=50, learning_rate=6e-3, average=0.99) if preset == "quick" else CnnOptions()
    if not augment:
        augmentation = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0)
    elif figures:
        augmentation = options.augment
    else:
        augmentation = FASHION_AUGMENT if splits.name == "fashion-mnist" else PHOTO_AUGMENT
    options = dataclasses.replace(
        options,
        augment=augmentation,
        epochs=epochs or options.epochs,
        batch=batch or options.batch,
        learning_rate=learning_rate or options.learning_rate,
    )
    wide = width or (16 if preset == "quick" else 24)
    return CnnLearner(splits, options, framing="ink" if figures else "fit", width=wide, seed=seed, init=init)


def ae_learner(
    splits: ImageSplits,
    preset: str,
    *,
    latent: int | None = None,
    width: int | None = None,
    variational: bool = False,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> AutoencoderLearner:
    """The learner for a preset (``quick``: a minute or two on two cores, ``full``: the best), with what the user set instead.

    ``options`` holds fields of AutoencoderOptions; None leaves the preset's.
    """
    if preset not in ("quick", "full"):
        raise InputError(f"unknown preset {preset!r}; expected quick or full")
    how = AutoencoderOptions(epochs=15, batch=50, average=0.99) if preset == "quick" else AutoencoderOptions()
    how = dataclasses.replace(how, **{k: v for k, v in (options or {}).items() if v is not None})  # type: ignore[arg-type]
    latents = 32 if latent is None else latent
    return AutoencoderLearner(splits, how, latent=latents, width=width or 16, variational=variational, seed=seed)


def rnn_learner(
    splits: TextSplits,
    preset: str,
    *,
    config: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> RnnLearner:
    """The learner for a preset (``quick``: words in minutes on two cores, ``full``: the best), with what the user set instead.

    ``config`` and ``options`` hold fields of RnnConfig and RnnOptions; None leaves the preset's.
    """
    if preset == "quick":
        network = RnnConfig(depth=1, width=256)
        how = RnnOptions(epochs=3, learning_rate=6e-3, dropout=0.05, weight_dropout=0.0, average=0.99)
    elif preset == "full":
        network, how = RnnConfig(), RnnOptions()
    else:
        raise InputError(f"unknown preset {preset!r}; expected quick or full")
    network = dataclasses.replace(network, **{k: v for k, v in (config or {}).items() if v is not None})  # type: ignore[arg-type]
    how = dataclasses.replace(how, **{k: v for k, v in (options or {}).items() if v is not None})  # type: ignore[arg-type]
    return RnnLearner(splits, network, how, seed=seed)
