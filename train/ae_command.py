"""``onnxferry train ae``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.errors import InputError
from onnxferry.train.autoencoder import AutoencoderLearner, AutoencoderOptions
from onnxferry.train.data import ImageSplits, load_images
from onnxferry.train.loop import LoopConfig


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


def ae(
    dataset: Annotated[str, typer.Option(help="digits-5k, mnist or fashion-mnist; none with --data: a folder of your own")] = "",
    data: Annotated[Path | None, typer.Option(help="where the set's files are, or a folder of your own")] = None,
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/ae"),
    preset: Annotated[str, typer.Option(help="quick or full")] = "full",
    latent: Annotated[int | None, typer.Option(help="numbers that a picture becomes; 32 if not given")] = None,
    variational: Annotated[bool, typer.Option("--variational", help="learn a distribution of latents")] = False,
    kl: Annotated[float | None, typer.Option(help="weight of the divergence (variational)")] = None,
    denoise: Annotated[float | None, typer.Option(help="standard deviation of noise to be taken away, pictures being 0 to 1")] = None,
    width: Annotated[int | None, typer.Option(min=4, max=256, help="channels of the first stage")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the data")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="pictures a step")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="highest of the cycle")] = None,
    size: Annotated[int, typer.Option(min=28, max=96, help="side of the network's square, pixels (folder of pictures)")] = 28,
    color: Annotated[bool, typer.Option("--color", help="keep the colours (folder of pictures)")] = False,
    validation: Annotated[int | None, typer.Option(min=0, help="pictures held out to choose the best epoch and the threshold")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="train on at most so many pictures, evenly over the classes")] = None,
    seed: Annotated[int, typer.Option(help="of the order, the start and the noise")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="processes, each on a device of its own")] = 1,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed")] = "32-true",
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out where it was cut off")] = False,
    save_seconds: Annotated[float, typer.Option(min=0.0, help="between two saves within an epoch")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="the result as one JSON line on stdout")] = False,
) -> None:
    """Train an autoencoder: pictures to a few numbers and back.

    Examples:

      onnxferry train ae --preset quick                     # the embedded 5,000 digits

      onnxferry train ae --dataset mnist --latent 32 --out runs/digits-ae

      onnxferry train ae --data photos/ --size 64 --color --variational
    """
    # There, this verb is put beside the others: imported at the top, the two would wait for each other.
    from onnxferry.train.commands import command_line, run_learner, say_next

    splits = load_images(dataset or None, data, size=size, color=color, seed=seed, limit=limit, validation=validation)
    options = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "kl": kl, "denoise": denoise}
    learner = ae_learner(splits, preset, latent=latent, width=width, variational=variational, options=options, seed=seed)
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    run_learner(learner, config, as_json=as_json)
    if not as_json and os.environ.get("LOCAL_RANK", "0") == "0":
        say_next(out, "model", "onnxferry reconstruct model.onnx PICTURE.png")
