"""``onnxferry train gan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.artifact.zoo import zoo_names
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import CNN
from onnxferry.train.cli.run import AsJson, Device, Devices, Out, Precision, Preset, Resume, SaveSeconds, command_line, data_progress, train
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.families.cnn import Cnn
from onnxferry.train.families.gan import SIZES
from onnxferry.train.families.gan_quality import Judge, judge_from_model, judge_from_network
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit
from onnxferry.train.presets import cnn_learner, gan_learner

JUDGES = {"mnist": "digits", "digits-5k": "digits", "fashion-mnist": "fashion"}
"""Data set to the shipped recogniser in whose features its images are judged."""


def find_judge(name: str, splits: ImageSplits, out: Path, device: str) -> Judge:
    """The recogniser named, or the shipped one for this set, or else a small one that is trained for it into ``out``/judge."""
    chosen = name or JUDGES.get(splits.name, "")
    if name or chosen in zoo_names():
        return judge_from_model(chosen)
    folder = out / "judge"
    if not (folder / "best.pt").exists() or "test" not in load_checkpoint(folder, CNN.name).metrics:
        resume = (folder / "last.pt").exists()
        learner = cnn_learner(splits, "quick", figures=False, epochs=8 if len(splits.train) > 10_000 else None)
        fit(learner, LoopConfig(out=folder, command="the judge of train gan", device=device, resume=resume))
    network = load_checkpoint(folder, CNN.name).model()
    if not isinstance(network, Cnn):
        raise InputError(f"{folder} holds no recogniser; name another --out")
    return judge_from_network(network)


def gan(
    dataset: Annotated[
        str, typer.Option(help="digits-5k, mnist or fashion-mnist; none with --data: a folder, one sub-folder a class")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="where the set's files are, or a folder of your own")] = None,
    out: Out = Path("runs/gan"),
    preset: Preset = "full",
    judge: Annotated[
        str, typer.Option(help="a recogniser's .onnx file or a shipped one's name, in whose features quality is measured")
    ] = "",
    noise: Annotated[int | None, typer.Option(min=1, max=4096, help="numbers that an image is made of")] = None,
    width: Annotated[int | None, typer.Option(min=4, max=256, help="channels of the generator's last layers")] = None,
    discriminator_width: Annotated[int | None, typer.Option(min=4, max=256, help="channels of the discriminator's first layer")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the data")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="images a step")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="both players'")] = None,
    size: Annotated[int, typer.Option(help=f"side of the images: {', '.join(map(str, SIZES))}")] = 28,
    color: Annotated[bool, typer.Option("--color", help="keep the colours (folder of images)")] = False,
    validation: Annotated[int | None, typer.Option(min=0, help="images held out to choose the best epoch; 0: the last is kept")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="train on at most so many images, evenly over the classes")] = None,
    seed: Annotated[int, typer.Option(help="of the order, the start and the noise")] = 0,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    resume: Resume = False,
    save_seconds: SaveSeconds = 60.0,
    as_json: AsJson = False,
) -> None:
    """Train an image generator: noise and a class in, an image out.

    Examples:

      onnxferry train gan --preset quick                    # the embedded 5,000 digits, minutes

      onnxferry train gan --dataset mnist --out runs/digits-gan

      onnxferry train gan --data photos/ --size 64 --color
    """
    if size not in SIZES:
        raise InputError(f"--size must be one of {', '.join(map(str, SIZES))}, got {size}")
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    with data_progress() as progress:
        splits = load_images(
            dataset or None, data, size=size, color=color, seed=seed, limit=limit, validation=validation, progress=progress
        )
    options = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "discriminator_width": discriminator_width}
    features = find_judge(judge, splits, out, device)
    learner = gan_learner(splits, preset, features, noise=noise, width=width, options=options, seed=seed)
    train(learner, config, as_json=as_json, then="onnxferry sample model.onnx --grid samples.png")
