"""``onnxferry train unknown``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.cli.console import command as shown_command
from onnxferry.runtime.cli.console import plain, print_json, print_next, progress_bar, stdout
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import CNN
from onnxferry.train.cli.options import DATA, AsJson, Data, ImageSetName
from onnxferry.train.cli.run import command_line, read_images
from onnxferry.train.families.cnn import CnnConfig
from onnxferry.train.families.unknown import UPDATES
from onnxferry.train.loop.checkpoint import config_from, load_checkpoint
from onnxferry.train.loop.folder import one_run_at_a_time
from onnxferry.train.unknown import metrics_line, with_unknown_head


def unknown(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of train cnn; its best.pt is completed.", show_default=False)],
    *,
    dataset: ImageSetName = "",
    data: Data = None,
    limit: Annotated[int | None, typer.Option(min=1, help="as the run was given it", show_default=False, rich_help_panel=DATA)] = None,
    others: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="your own images of no class, in sub-folders too, beside the made ones", show_default=False),
    ] = None,
    updates: Annotated[int, typer.Option(min=1, help="updates of the head, of 256 images each")] = UPDATES,
    as_json: AsJson = False,
) -> None:
    """Teach a trained recogniser to say that an image is of none of its classes.

    A small head is trained beside the network, whose weights stay as they are: its classes and probabilities do not change. It learns from
    the run's own images and from others that are made: noise, plain areas, and either letters, scribbles and several figures side by side
    (of a run with --framing ink) or images whose parts are mixed up (--framing fit). The threshold refuses 0.75 % of the validation images.

    The exported file then has an output `unknown`, and onnxferry predict says "none of the classes" above the threshold.

    Examples:

      onnxferry train unknown runs/digits --dataset mnist

      onnxferry train unknown runs/leaves --data leaves/ --others not-leaves/
    """
    file = run / "best.pt" if run.is_dir() else run
    load_checkpoint(file, CNN.name)  # before a folder is made for the lock
    with one_run_at_a_time(file.parent):
        checkpoint = load_checkpoint(file, CNN.name)
        config = config_from(CnnConfig, checkpoint.config)
        seed = checkpoint.provenance.get("seed", 0)
        if not isinstance(seed, int):
            raise InputError(f"{file} does not say with which seed its images were split; train it again")
        if others is not None and not others.is_dir():
            raise InputError(f"--others {others}: no such folder")
        splits = read_images(dataset, data, size=config.size, color=config.channels == 3, seed=seed, limit=limit)
        with progress_bar("training the head", updates) as advance:
            completed = with_unknown_head(
                checkpoint, splits, others, seed=seed, updates=updates, command=command_line(), progress=lambda step, loss: advance(1)
            )
        completed.save(file)
    figures = completed.metrics["unknown"]
    if as_json:
        print_json({"run": str(run), "checkpoint": str(file), **figures})
        return
    stdout().print(plain(metrics_line(figures)), soft_wrap=True)
    print_next(shown_command("export", str(run), "-o", "model.onnx"), shown_command("predict", "model.onnx", "IMAGE.png"))
