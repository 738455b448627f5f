"""A trained recogniser learns to say that an image is of none of its classes: ``onnxferry train unknown RUN``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxferry.runtime.errors import CheckpointError, DataError, InputError
from onnxferry.runtime.images.folders import find_images
from onnxferry.runtime.images.inputs import decode_each
from onnxferry.runtime.kinds import CNN
from onnxferry.train.data.augment import AugmentConfig, augment
from onnxferry.train.data.image_folder import squared
from onnxferry.train.data.images import ImageSplits
from onnxferry.train.data.others import SIDE, made_others
from onnxferry.train.families.cnn import Cnn, CnnConfig, preprocess_all
from onnxferry.train.families.unknown import UPDATES, fit_unknown, unknown_scores
from onnxferry.train.loop.checkpoint import Checkpoint
from onnxferry.train.preprocessing import Preprocessing
from onnxferry.train.presets import PHOTO_AUGMENT

MADE = (2_000, 30_000)
"""Images of no class that are made: four times as many as there are to train on, within these bounds."""


HELD_OUT = 10
"""One in so many images of no class is kept for measuring."""


_KNOWN = {
    "ink": AugmentConfig(),
    "fit": dataclasses.replace(PHOTO_AUGMENT, erase=0.0),
}
_OTHERS = dataclasses.replace(_KNOWN["ink"], rotation=20.0, scale=0.2, shear=0.2)
_THICK, _THIN = 0.2, 0.25  # shares of the figures that are drawn with a thicker pen and with a thinner one
_FAINT = 0.7  # of its brightness a thin line loses at most


def with_unknown_head(
    checkpoint: Checkpoint,
    splits: ImageSplits,
    folder: Path | None = None,
    *,
    seed: int = 0,
    updates: int = UPDATES,
    command: str = "",
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Checkpoint:
    """``checkpoint`` with a head that gives the probability that an image is of no class, and its threshold; all other weights stay.

    ``splits``: the images that it was trained on, split as they were then. ``folder``: images of no class, in sub-folders too, beside the
    made ones. ``command``: for the record. ``progress`` is called with the update and the loss. The new metric ``unknown`` holds the
    threshold and the share of refused images: of ``validation`` (by which the threshold was set), ``test``, and ``others`` (made ones and
    yours that were held out).

        best = load_checkpoint("runs/digits")
        with_unknown_head(best, load_images("mnist", "mnist/")).save(Path("runs/digits/best.pt"))

    Raises CheckpointError for a checkpoint that is no recogniser's, InputError for images of another set, DataError for a folder without
    images.
    """
    network = checkpoint.model()
    if checkpoint.family != CNN.name or not isinstance(network, Cnn):
        raise CheckpointError(f"the run is of the family {checkpoint.family!r}: give one of train cnn")
    trained_on = checkpoint.data.get("sha256")
    if trained_on != splits.sha256:
        raise InputError(
            f"the run was trained on {checkpoint.data.get('name', 'other images')!r} (SHA-256 {str(trained_on)[:12]}), and these are "
            f"{splits.name!r} ({splits.sha256[:12]}): give the same --dataset or --data"
        )
    config = network.config
    preprocess = Preprocessing(config.framing, config.size)
    known = preprocess_all(splits.train.images, preprocess)
    count = min(max(4 * len(splits.train), MADE[0]), MADE[1])
    made = preprocess_all(made_others(splits.train.images, count, figures=config.framing == "ink", seed=seed), preprocess)
    groups = [made] if folder is None else [made, preprocess_all(_read_others(folder, config), preprocess)]
    learnt = [group[np.arange(len(group)) % HELD_OUT != 0] for group in groups]
    held_out = [group[::HELD_OUT] for group in groups]

    def of_class(index: Tensor) -> Tensor:
        images = augment(known[index].float() / 255, _KNOWN[config.framing])
        return _other_pens(images) if config.framing == "ink" else images

    def of_none(index: Tensor) -> Tensor:
        # As many of the user's as of the made ones, however few they are.
        images = torch.cat([group[index[i :: len(learnt)] % len(group)] for i, group in enumerate(learnt)]).float() / 255
        return _other_pens(augment(images, _OTHERS)) if config.framing == "ink" else augment(images, _KNOWN["fit"])

    chosen = preprocess_all((splits.validation if len(splits.validation) else splits.train).images, preprocess)
    fitted = fit_unknown(
        network.maps,
        of_class,
        of_none,
        (len(known), max(map(len, learnt))),
        chosen,
        updates=updates,
        seed=seed,
        progress=progress,
    )

    def refused(images: Tensor) -> float:
        return round(float((unknown_scores(network.maps, fitted.head, images) > fitted.threshold).float().mean()), 5)

    figures = {
        "threshold": fitted.threshold,
        "validation": refused(chosen),
        "test": refused(preprocess_all(splits.test.images, preprocess)),
        "others": refused(torch.cat(held_out)),
        "others_held_out": sum(map(len, held_out)),
    }
    weights = {name: weight for name, weight in checkpoint.weights.items() if not name.startswith("unknown.")}
    weights |= {f"unknown.{name}": weight.detach().clone() for name, weight in fitted.head.state_dict().items()}
    return dataclasses.replace(
        checkpoint,
        config={**checkpoint.config, "unknown_threshold": fitted.threshold},
        weights=weights,
        metrics={**checkpoint.metrics, "unknown": figures},
        provenance={**checkpoint.provenance, "unknown": {"command": command, "seed": seed, "updates": updates}},
    )


def _other_pens(images: Tensor) -> Tensor:
    """``images`` float32 (n, 1, size, size), bright figures on 0: some as a thicker pen draws them, some as a thinner, fainter one.

    A line that is thinner than a pixel of the network is grey there: a pen of 4 pixels on a sheet of 336 gives a third of white.
    """
    draw = torch.rand(len(images), 1, 1, 1)
    amount = torch.rand(len(images), 1, 1, 1)
    thick = F.max_pool2d(images, 3, stride=1, padding=1)
    thin = -F.max_pool2d(-images, 2, stride=1, padding=1)[:, :, 1:, 1:]
    none = torch.zeros_like(amount)
    images = images + torch.where(draw < _THICK, amount, none) * (thick - images)
    images = images + torch.where(draw > 1 - _THIN, amount, none) * (thin - images)
    return images * torch.where(draw > 1 - _THIN, 1 - _FAINT * torch.rand(len(images), 1, 1, 1), none + 1)


def _read_others(folder: Path, config: CnnConfig) -> np.ndarray:
    """The images in a folder and its sub-folders, uint8 (n, side, side, channels): the centred square of each."""
    names = find_images(str(folder), deep=True)
    side = max(SIDE, config.size) if config.framing == "ink" else config.size
    squares = [squared(image, side, config.channels) for _, image in decode_each(names, on_error="skip")]
    if len(squares) < HELD_OUT:
        raise DataError(f"{folder}: {len(squares)} images can be read, expected {HELD_OUT} or more that are of no class")
    return np.stack(squares)


def metrics_line(figures: dict[str, Any]) -> str:
    """What was measured, in one line."""
    return (
        f"refused as unknown: {figures['test']:.2%} of the test images, {figures['others']:.2%} of "
        f"{figures['others_held_out']:,} held-out images of no class; threshold {figures['threshold']:.3f}"
    )
