"""``onnxferry train ae``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.train.cli.run import AsJson, Device, Devices, Out, Precision, Preset, Resume, SaveSeconds, command_line, data_progress, train
from onnxferry.train.data.images import load_images
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import ae_learner


def ae(
    dataset: Annotated[str, typer.Option(help="digits-5k, mnist or fashion-mnist; none with --data: a folder of your own")] = "",
    data: Annotated[Path | None, typer.Option(help="where the set's files are, or a folder of your own")] = None,
    out: Out = Path("runs/ae"),
    preset: Preset = "full",
    latent: Annotated[int | None, typer.Option(help="numbers that an image becomes; 32 if not given")] = None,
    variational: Annotated[bool, typer.Option("--variational", help="learn a distribution of latents")] = False,
    kl: Annotated[float | None, typer.Option(help="weight of the divergence (variational)")] = None,
    denoise: Annotated[float | None, typer.Option(help="standard deviation of noise to be taken away, images being 0 to 1")] = None,
    width: Annotated[int | None, typer.Option(min=4, max=256, help="channels of the first stage")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the data")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="images a step")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="highest of the cycle")] = None,
    size: Annotated[int, typer.Option(min=28, max=96, help="side of the network's square, pixels (folder of images)")] = 28,
    color: Annotated[bool, typer.Option("--color", help="keep the colours (folder of images)")] = False,
    validation: Annotated[int | None, typer.Option(min=0, help="images held out to choose the best epoch and the threshold")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="train on at most so many images, evenly over the classes")] = None,
    seed: Annotated[int, typer.Option(help="of the order, the start and the noise")] = 0,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    resume: Resume = False,
    save_seconds: SaveSeconds = 60.0,
    as_json: AsJson = False,
) -> None:
    """Train an autoencoder: images to a few numbers and back.

    Examples:

      onnxferry train ae --preset quick                     # the embedded 5,000 digits

      onnxferry train ae --dataset mnist --latent 32 --out runs/digits-ae

      onnxferry train ae --data photos/ --size 64 --color --variational
    """
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    with data_progress() as progress:
        splits = load_images(
            dataset or None, data, size=size, color=color, seed=seed, limit=limit, validation=validation, progress=progress
        )
    options = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "kl": kl, "denoise": denoise}
    learner = ae_learner(splits, preset, latent=latent, width=width, variational=variational, options=options, seed=seed)
    train(learner, config, as_json=as_json, then="onnxferry reconstruct model.onnx IMAGE.png")
