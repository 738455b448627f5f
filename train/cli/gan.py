"""``onnxferry train gan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import GAN
from onnxferry.train.cli.options import (
    DATA,
    TRAINING,
    AsJson,
    Color,
    Data,
    Given,
    ImageSetName,
    Limit,
    Out,
    Preset,
    Seed,
    Validation,
    with_options,
)
from onnxferry.train.cli.run import ProgressBar, is_first, read_images, train
from onnxferry.train.families.gan import SIZES, GanConfig, GanOptions
from onnxferry.train.gan_judge import find_judge
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import gan_learner


@with_options(GAN.name, GanConfig, GanOptions)
def gan(
    *,
    dataset: ImageSetName = "",
    data: Data = None,
    size: Annotated[int, typer.Option(help=f"side of the images in pixels: {', '.join(map(str, SIZES))}", rich_help_panel=DATA)] = 28,
    color: Color = None,
    validation: Validation = None,
    limit: Limit = None,
    preset: Preset = "full",
    judge: Annotated[
        str,
        typer.Option(help="a recogniser (.onnx file or shipped model) in whose features quality is measured", rich_help_panel=TRAINING),
    ] = "",
    seed: Seed = 0,
    out: Out = Path("runs/gan"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train an image generator: noise and a class in, an image out.

    Examples:

      onnxferry train gan --preset quick                    # the embedded 5,000 digits, minutes

      onnxferry train gan --dataset mnist --out runs/digits-gan

      onnxferry train gan --data photos/ --size 64 --color
    """
    if size not in SIZES:
        raise InputError(f"--size must be one of {', '.join(map(str, SIZES))}, got {size}")
    splits = read_images(dataset, data, size=size, color=color, seed=seed, limit=limit, validation=validation)
    console = Console(stderr=True, quiet=not is_first())
    # The first line says what it is: minutes of silence would look like a fault.
    features = find_judge(judge, splits, out, run.device, lambda epochs: ProgressBar(epochs, console, "judge: "))
    learner = gan_learner(splits, preset, features, seed=seed, **given)
    train(learner, run, as_json=as_json, then="onnxferry sample model.onnx --grid samples.png")
