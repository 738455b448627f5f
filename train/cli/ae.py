"""``onnxferry train ae``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.kinds import AUTOENCODER
from onnxferry.train.cli.options import DATA, AsJson, Color, Data, Given, ImageSetName, Limit, Out, Preset, Seed, Validation, with_options
from onnxferry.train.cli.run import read_images, train
from onnxferry.train.families.autoencoder import MAX_SIZE, AutoencoderConfig, AutoencoderOptions
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import ae_learner


@with_options(AUTOENCODER.name, AutoencoderConfig, AutoencoderOptions)
def ae(
    *,
    dataset: ImageSetName = "",
    data: Data = None,
    size: Annotated[int, typer.Option(min=28, max=MAX_SIZE, help="side of the images, pixels; a multiple of 4", rich_help_panel=DATA)] = 28,
    color: Color = None,
    validation: Validation = None,
    limit: Limit = None,
    preset: Preset = "full",
    seed: Seed = 0,
    out: Out = Path("runs/ae"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train an autoencoder: images to a few numbers and back.

    Examples:

      onnxferry train ae --preset quick                     # the embedded 5,000 digits

      onnxferry train ae --dataset mnist --latent 32 --out runs/digits-ae

      onnxferry train ae --data photos/ --size 64 --color --variational
    """
    splits = read_images(dataset, data, size=size, color=color, seed=seed, limit=limit, validation=validation)
    learner = ae_learner(splits, preset, seed=seed, **given)
    train(learner, run, as_json=as_json, then="onnxferry reconstruct model.onnx IMAGE.png")
