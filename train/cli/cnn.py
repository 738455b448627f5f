"""``onnxferry train cnn``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxferry.runtime.cli.console import new_table, print_json, stdout
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import AUTOENCODER
from onnxferry.train.cli.run import AsJson, Device, Devices, Out, Precision, Preset, Resume, SaveSeconds, command_line, data_progress, train
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.families.cnn import CnnLearner
from onnxferry.train.few_labels import compare_few_labels
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import FIGURES, cnn_learner


def cnn(
    dataset: Annotated[
        str, typer.Option(help="digits-5k, mnist or fashion-mnist; none with --data: a folder of your own, one sub-folder a class")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="where the set's files are, or a folder of your own")] = None,
    out: Out = Path("runs/cnn"),
    preset: Preset = "full",
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the data")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="images a step")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="highest of the cycle")] = None,
    width: Annotated[int | None, typer.Option(min=4, max=512, help="channels of the first stage")] = None,
    size: Annotated[int, typer.Option(min=28, max=224, help="side of the network's square, pixels (folder of images)")] = 28,
    color: Annotated[bool, typer.Option("--color", help="keep the colours (folder of images)")] = False,
    framing: Annotated[str, typer.Option(help="ink: find the figure on a plain ground; fit: take the whole image; auto")] = "auto",
    augment: Annotated[bool, typer.Option(help="random crop, rotation, scaling, … of the training images")] = True,
    validation: Annotated[
        int | None, typer.Option(min=0, help="images held out to choose the best epoch; 0: none, the last epoch is kept")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="train on at most so many images, evenly over the classes")] = None,
    init: Annotated[Path | None, typer.Option(help="a run of `train ae`: start from its encoder")] = None,
    few_labels: Annotated[
        str, typer.Option(help="with --init: accuracy at so many labels a class, with and without it, e.g. 10,100,1000; nothing else")
    ] = "",
    seed: Annotated[int, typer.Option(help="of the order, the start and the augmentation")] = 0,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    resume: Resume = False,
    save_seconds: SaveSeconds = 60.0,
    as_json: AsJson = False,
) -> None:
    """Train a recogniser: a compact residual network.

    Examples:

      onnxferry train cnn                                        # the embedded 5,000 digits

      onnxferry train cnn --dataset mnist --out runs/digits

      onnxferry train cnn --data photos/ --size 96 --color       # your own, one sub-folder a class

      onnxferry train cnn --init runs/ae --few-labels 10,100     # what a trained encoder is worth
    """
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    with data_progress() as progress:
        splits = load_images(
            dataset or None, data, size=size, color=color, seed=seed, limit=limit, validation=validation, progress=progress
        )
    if framing not in ("auto", "ink", "fit"):
        raise InputError(f"unknown framing {framing!r}; expected auto, ink or fit")
    figures = splits.name in FIGURES if framing == "auto" else framing == "ink"
    encoder = None if init is None else load_checkpoint(init, AUTOENCODER.name)
    if few_labels:
        if encoder is None:
            raise InputError("--few-labels compares with and without a trained encoder: give one with --init RUN")

        def make(few: ImageSplits, epochs: int, batch: int) -> CnnLearner:
            return cnn_learner(few, "quick", figures=figures, epochs=epochs, batch=batch, augment=augment, seed=seed, init=encoder)

        rows = compare_few_labels(splits, encoder, _counts(few_labels), config, make, seed=seed)
        _print_few_labels(out, rows, as_json=as_json)
        return
    learner = cnn_learner(
        splits,
        preset,
        figures=figures,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        width=width,
        augment=augment,
        seed=seed,
        init=encoder,
    )
    train(learner, config, as_json=as_json, then="onnxferry predict model.onnx IMAGE.png")


def _counts(text: str) -> list[int]:
    """Of --few-labels: "10,100" → [10, 100]."""
    for word in (words := text.split(",")):
        if not word.strip().isdecimal():
            raise InputError(f"--few-labels takes whole numbers separated by commas, got {word!r}")
    return [int(word) for word in words]


def _print_few_labels(run: Path, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"run": str(run), "rows": rows})
        return
    table = new_table("labels a class", "accuracy without", "with the encoder", right=("accuracy without", "with the encoder"))
    for row in rows:
        table.add_row(str(row["labels_a_class"]), f"{row['without']:.2%}", f"{row['with']:.2%}")
    stdout().print(table)
