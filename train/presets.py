"""What each family trains by default: the preset ``full`` is its dataclasses' defaults, ``quick`` is what stands here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import AUTOENCODER, CNN, DETECTOR_FAMILY, GAN, RNN, SEQ2SEQ, TEXT_FAMILY
from onnxferry.train.data.augment import AugmentConfig
from onnxferry.train.data.detection import DetectionSplits
from onnxferry.train.data.images import ImageSplits
from onnxferry.train.data.pairs.tsv import PairSplits
from onnxferry.train.data.text import TextSplits
from onnxferry.train.data.text_sets import TextClassSplits
from onnxferry.train.families.autoencoder import AutoencoderConfig, AutoencoderLearner, AutoencoderOptions
from onnxferry.train.families.cnn import CnnConfig, CnnLearner, CnnOptions
from onnxferry.train.families.detector import DetectorConfig, DetectorLearner, DetectorOptions
from onnxferry.train.families.gan import GanConfig, GanLearner, GanOptions
from onnxferry.train.families.gan_quality import Judge
from onnxferry.train.families.rnn import RnnConfig, RnnLearner, RnnOptions
from onnxferry.train.families.seq2seq import Seq2SeqConfig, Seq2SeqLearner, Seq2SeqOptions
from onnxferry.train.families.start import Start
from onnxferry.train.families.text_classifier import TextClassifierConfig, TextClassifierLearner, TextClassifierOptions
from onnxferry.train.loop.checkpoint import Checkpoint
from onnxferry.train.loop.schedule import pace
from onnxferry.train.options import options_of

C = TypeVar("C")


PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    CNN.name: {"quick": {"epochs": 18, "batch": 50, "learning_rate": 6e-3, "average": 0.99, "width": 16}, "full": {}},
    RNN.name: {
        "quick": {
            "depth": 1,
            "width": 256,
            "epochs": 3,
            "learning_rate": 6e-3,
            "dropout": 0.05,
            "weight_dropout": 0.0,
            "average": 0.99,
        },
        "full": {},
    },
    AUTOENCODER.name: {"quick": {"epochs": 15, "batch": 50, "average": 0.99}, "full": {}},
    GAN.name: {"quick": {"batch": 50, "average": 0.99, "discriminator_width": 24}, "full": {}},
    SEQ2SEQ.name: {"quick": {"epochs": 8, "encoder": 96, "decoder": 128, "learning_rate": 6e-3, "average": 0.99}, "full": {}},
    DETECTOR_FAMILY.name: {"quick": {"epochs": 12, "side": 128, "average": 0.99}, "full": {}},
    TEXT_FAMILY.name: {"quick": {"epochs": 2, "width": 24, "embedding": 16, "most_tokens": 64}, "full": {}},
}
"""Family → preset → the fields of its configuration and its training options that differ from their defaults.

``quick`` takes minutes on two cores, ``full`` gives the best result.
"""


LEAST_UPDATES: Mapping[str, int] = {
    CNN.name: 1200,
    RNN.name: 300,
    AUTOENCODER.name: 600,
    GAN.name: 2000,
    SEQ2SEQ.name: 600,
    DETECTOR_FAMILY.name: 600,
    TEXT_FAMILY.name: 200,
}
"""Family → updates that a run makes at least, where the user sets no epochs: small sets get smaller batches and more epochs."""


PAIRS: Mapping[str, int] = {"quick": 30_000, "full": 250_000}
"""Preset → dates that a translator is trained on where the user has no pairs."""


FIGURES = ("digits-5k", "mnist")
"""Sets of single figures on a plain background, whose foreground is found before anything else."""


PHOTO_AUGMENT = AugmentConfig(rotation=8, scale=0.15, shear=0.05, shift=0.06, elastic=0.0, blur=0.2, erase=0.25, padding="reflection")
"""Without a mirror: arrows to the left and to the right, letters and slanted lines would become the same class."""


FEW_IMAGES = 1000
"""Training images below which an autoencoder starts from PCA and its images are augmented."""


FEW_AUGMENT = AugmentConfig(rotation=4, scale=0.08, shear=0.03, shift=0.08, elastic=0.0, blur=0.0, mirror=True, padding="reflection")


FASHION_AUGMENT = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0, erase=0.5, mirror=True, crop=2)


NO_AUGMENT = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0)


def cnn_learner(
    splits: ImageSplits,
    preset: str,
    *,
    figures: bool,
    augment: bool = True,
    mirror: bool = False,
    seed: int = 0,
    init: Start | None = None,
    **given: Any,
) -> CnnLearner:
    """The learner for ``preset``, with the fields of CnnConfig and CnnOptions in ``given`` instead (None: the preset's).

    ``figures``: find the foreground of each image, for single figures on a plain background. ``mirror``: swap left and right in half of
    the training images, which helps where it makes no image of another class. ``init``: see CnnLearner.
    Raises InputError for an unknown preset, as all functions here.
    """
    values = _values(CNN.name, preset, given, CnnConfig, CnnOptions)
    values = _paced(CNN.name, len(splits.train), values, given, CnnOptions)
    if not augment:
        values["augment"] = NO_AUGMENT
    elif not figures:
        values["augment"] = FASHION_AUGMENT if splits.name == "fashion-mnist" else replace(PHOTO_AUGMENT, mirror=mirror)
    if init is not None and given.get("width") not in (None, init.width):
        raise InputError(f"--width {given['width']} contradicts --init: {init.name} has the width {init.width}; leave out one of them")
    options = _filled(CnnOptions, values)
    return CnnLearner(splits, options, framing="ink" if figures else "fit", seed=seed, init=init, **_network(CnnConfig, values))


def detector_learner(
    splits: DetectionSplits, preset: str, *, framing: str, seed: int = 0, init: Checkpoint | None = None, **given: Any
) -> DetectorLearner:
    """The learner for ``preset``, with fields of DetectorConfig and DetectorOptions in ``given`` instead (None: the preset's).

    ``init``: see DetectorLearner.
    """
    values = _values(DETECTOR_FAMILY.name, preset, given, DetectorConfig, DetectorOptions)
    values = _paced(DETECTOR_FAMILY.name, len(splits.train), values, given, DetectorOptions)
    options = _filled(DetectorOptions, values)
    return DetectorLearner(splits, options, framing=framing, seed=seed, init=init, **_network(DetectorConfig, values))


def rnn_learner(splits: TextSplits, preset: str, *, seed: int = 0, **given: Any) -> RnnLearner:
    """The learner for ``preset``, with the fields of RnnConfig and RnnOptions in ``given`` instead (None: the preset's)."""
    values = _values(RNN.name, preset, given, RnnConfig, RnnOptions)
    # A stream reads ``steps`` bytes in an update.
    steps = int(values.get("steps", RnnOptions.steps))
    values = _paced(RNN.name, len(splits.train) // steps, values, given, RnnOptions)
    return RnnLearner(splits, _filled(RnnConfig, values), _filled(RnnOptions, values), seed=seed)


def seq2seq_learner(splits: PairSplits, preset: str, *, seed: int = 0, **given: Any) -> Seq2SeqLearner:
    """The learner for ``preset``, with the fields of Seq2SeqConfig and Seq2SeqOptions in ``given`` instead (None: the preset's)."""
    values = _values(SEQ2SEQ.name, preset, given, Seq2SeqConfig, Seq2SeqOptions)
    values = _paced(SEQ2SEQ.name, len(splits.train), values, given, Seq2SeqOptions)
    return Seq2SeqLearner(splits, _filled(Seq2SeqConfig, values), _filled(Seq2SeqOptions, values), seed=seed)


def ae_learner(splits: ImageSplits, preset: str, *, seed: int = 0, **given: Any) -> AutoencoderLearner:
    """The learner for ``preset``, with fields of AutoencoderConfig and AutoencoderOptions in ``given`` instead (None: the preset's)."""
    values = _values(AUTOENCODER.name, preset, given, AutoencoderConfig, AutoencoderOptions)
    values = _paced(AUTOENCODER.name, len(splits.train), values, given, AutoencoderOptions)
    few = len(splits.train) < FEW_IMAGES
    if few:
        values["augment"] = FEW_AUGMENT
    return AutoencoderLearner(splits, _filled(AutoencoderOptions, values), linear=few, seed=seed, **_network(AutoencoderConfig, values))


def gan_learner(splits: ImageSplits, preset: str, judge: Judge, *, seed: int = 0, **given: Any) -> GanLearner:
    """The learner for ``preset``, with the fields of GanConfig and GanOptions in ``given`` instead (None: the preset's)."""
    values = _values(GAN.name, preset, given, GanConfig, GanOptions)
    values = _paced(GAN.name, len(splits.train), values, given, GanOptions)
    return GanLearner(splits, _filled(GanOptions, values), judge, seed=seed, **_network(GanConfig, values))


def text_classifier_learner(splits: TextClassSplits, preset: str, *, seed: int = 0, **given: Any) -> TextClassifierLearner:
    """The learner for ``preset``, with the fields of TextClassifierConfig and TextClassifierOptions in ``given`` instead."""
    values = _values(TEXT_FAMILY.name, preset, given, TextClassifierConfig, TextClassifierOptions)
    values = _paced(TEXT_FAMILY.name, len(splits.train), values, given, TextClassifierOptions)
    return TextClassifierLearner(splits, _filled(TextClassifierOptions, values), seed=seed, **_network(TextClassifierConfig, values))


def _values(family: str, preset: str, given: Mapping[str, Any], config: type, options: type) -> dict[str, Any]:
    """Of ``preset``, and over them those of ``given`` that are not None."""
    known = PRESETS[family]
    if preset not in known:
        raise InputError(f"unknown preset {preset!r}; expected {' or '.join(known)}")
    names = {found.name for found in options_of(config)} | {field.name for field in dataclasses.fields(options)}
    if unknown := sorted(set(given) - names):
        raise TypeError(f"{unknown[0]!r} cannot be set: expected one of {', '.join(sorted(names))}")
    return {**known[preset], **{name: value for name, value in given.items() if value is not None}}


def _paced(family: str, count: int, values: dict[str, Any], given: Mapping[str, Any], options: type) -> dict[str, Any]:
    """``values`` with epochs and batch for ``count`` training images, where the user gave none."""
    set_by_user = {name: given.get(name) is not None for name in ("epochs", "batch")}
    epochs, batch = (int(values.get(name, getattr(options, name))) for name in ("epochs", "batch"))
    made = pace(count, epochs, batch, LEAST_UPDATES[family], epochs_given=set_by_user["epochs"], batch_given=set_by_user["batch"])
    return {**values, "epochs": made.epochs, "batch": made.batch}


def _filled(kind: type[C], values: Mapping[str, Any]) -> C:
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values})  # type: ignore[arg-type]


def _network(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a learner takes of its network's configuration; the rest follows from the data."""
    return {found.name: values[found.name] for found in options_of(config) if found.name in values}
