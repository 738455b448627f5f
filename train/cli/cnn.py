"""``onnxferry train cnn``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxferry.runtime.cli.console import new_table, print_json, stdout
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import CNN
from onnxferry.train.cli.options import (
    DATA,
    MODEL,
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
from onnxferry.train.cli.run import read_images, train
from onnxferry.train.data.images import SIZES, ImageSplits
from onnxferry.train.families.cnn import CnnConfig, CnnLearner, CnnOptions
from onnxferry.train.families.start import find_start
from onnxferry.train.few_labels import compare_few_labels
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import FIGURES, cnn_learner


@with_options(CNN.name, CnnConfig, CnnOptions)
def cnn(
    *,
    dataset: ImageSetName = "",
    data: Data = None,
    size: Annotated[int, typer.Option(min=SIZES[0], max=SIZES[1], help="side of the images in pixels", rich_help_panel=DATA)] = SIZES[0],
    color: Color = None,
    framing: Annotated[
        str, typer.Option(help="ink: find the figure on a plain background; fit: take the whole image; auto", rich_help_panel=DATA)
    ] = "auto",
    augment: Annotated[bool, typer.Option(help="random crop, rotation, scaling, … of the training images", rich_help_panel=DATA)] = True,
    validation: Validation = None,
    limit: Limit = None,
    mirror: Annotated[
        bool,
        typer.Option("--mirror", help="mirrored images too: not for letters, arrows, left and right", rich_help_panel=DATA),
    ] = False,
    init: Annotated[
        str,
        typer.Option(help="a trained start: a run of train ae or train cnn, an exported file, fashion or digits", rich_help_panel=MODEL),
    ] = "",
    preset: Preset = "full",
    few_labels: Annotated[
        str,
        typer.Option(
            help="with --init: only compare the accuracy with and without it at so many labels a class, e.g. 10,100,1000",
            rich_help_panel=TRAINING,
        ),
    ] = "",
    seed: Seed = 0,
    out: Out = Path("runs/cnn"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train a recogniser: a compact residual network.

    Examples:

      onnxferry train cnn                                        # the embedded 5,000 digits

      onnxferry train cnn --dataset mnist --out runs/digits

      onnxferry train cnn --data photos/ --size 96 --color       # your own, one sub-folder a class

      onnxferry train cnn --data photos/ --size 64 --color --init fashion --class-weights balanced --patience 10

      onnxferry train cnn --init runs/ae --few-labels 10,100     # how much a trained encoder helps
    """
    splits = read_images(dataset, data, size=size, color=color, seed=seed, limit=limit, validation=validation)
    if framing not in ("auto", "ink", "fit"):
        raise InputError(f"unknown framing {framing!r}; expected auto, ink or fit")
    figures = splits.name in FIGURES if framing == "auto" else framing == "ink"
    start = find_start(init) if init else None
    if start is not None and framing not in ("auto", (start.made_for or {}).get("framing", framing)):
        raise InputError(f"--framing {framing} contradicts --init: that encoder was trained with another; leave out --framing")

    def learner(splits: ImageSplits, preset: str, **given: Any) -> CnnLearner:
        return cnn_learner(splits, preset, figures=figures, augment=augment, mirror=mirror, seed=seed, init=start, **given)

    if not few_labels:
        train(learner(splits, preset, **given), run, as_json=as_json, then="onnxferry predict model.onnx IMAGE.png")
        return
    if start is None:
        raise InputError("--few-labels compares with and without a trained encoder: give one with --init RUN")

    def make(few: ImageSplits, epochs: int, batch: int) -> CnnLearner:
        return learner(few, "quick", epochs=epochs, batch=batch)

    _print_few_labels(out, compare_few_labels(splits, start, _counts(few_labels), run, make, seed=seed), as_json=as_json)


def _counts(text: str) -> list[int]:
    """Of --few-labels: "10,100" → [10, 100]."""
    words = text.split(",")
    for word in words:
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
