"""``onnxferry train``: one sub-command a family, one way to show progress, one way to end.

Also ``train_cnn``, which the quickstart calls.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from onnxferry.runtime.errors import InputError
from onnxferry.train.augment import AugmentConfig
from onnxferry.train.checkpoint import Checkpoint, load_checkpoint
from onnxferry.train.cnn import CnnLearner, CnnOptions
from onnxferry.train.data import ImageSplits, load_images
from onnxferry.train.loop import Learner, LoopConfig, Observer, fit

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _train() -> None:
    """Train a model family. Afterwards: onnxferry export RUN -o model.onnx

    Examples:

      onnxferry train cnn --dataset mnist --out runs/digits

      onnxferry train rnn --preset quick --out runs/text

      onnxferry train ae --preset quick --out runs/latents

      onnxferry train gan --preset quick --out runs/images
    """


FIGURES = ("digits-5k", "mnist")  # sets of single figures on a plain ground: framed by their ink
PHOTO_AUGMENT = AugmentConfig(rotation=8, scale=0.15, shear=0.05, shift=0.06, elastic=0.0, blur=0.2, erase=0.25, mirror=True)
FASHION_AUGMENT = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0, erase=0.5, mirror=True, crop=2)


class ProgressBar(Observer):
    """A bar an epoch with loss, accuracy and time left, and a line for each that is done. Silent but for lines off a terminal."""

    def __init__(self, epochs: int, console: Console) -> None:
        self.epochs = epochs
        self.console = console
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.steps = 0

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, learner: Learner, epoch: int, steps: int) -> None:
        # One bar for the whole run, so that the time left is the run's.
        self.steps = steps
        if self.task is None:
            self.task = self.progress.add_task("", total=steps * self.epochs, completed=epoch * steps, epoch="", metrics="")
        self.progress.update(self.task, epoch=f"{epoch + 1}/{self.epochs}")

    def stepped(self, epoch: int, step: int, means: Mapping[str, float]) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=epoch * self.steps + step, metrics=_words(means))

    def validated(self, record: Mapping[str, Any], best: bool, shown: str) -> None:
        held_out = _words(record["validation"])
        mark = " [green]best[/]" if best and record["validation"] else ""
        self.console.print(
            f"epoch {record['epoch']:>3}/{self.epochs}  train {_words(record['train'])}"
            + (f"  validation {held_out}" if held_out else "")
            + f"  {record['seconds']:.0f} s{mark}",
            highlight=False,
        )
        if shown:
            self.console.print(shown, markup=False, highlight=False, style="dim")


def _words(metrics: Mapping[str, float]) -> str:
    shown = []
    for name, value in metrics.items():
        if name == "accuracy":
            shown.append(f"accuracy {100 * value:.2f} %")
        elif name != "n":
            shown.append(f"{name} {value:.4f}")
    return "  ".join(shown)


def run_learner(learner: Learner, config: LoopConfig, *, as_json: bool, console: Console | None = None) -> dict[str, Any]:
    """Train with a progress bar, then say what came of it and what to do next. Only the first process speaks."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    console = console or Console(stderr=True, quiet=not first)
    with ProgressBar(learner.epochs, console) as observer:
        result = fit(learner, config, observer)
    if first:
        if as_json:
            sys.stdout.write(json.dumps({"run": str(config.out), **result}) + "\n")
        else:
            console.print(
                f"[bold]test[/] {_words(result['test'])} on {result['test']['n']} held-out samples (epoch {result['epoch']})",
                highlight=False,
            )
    return result


def say_next(out: Path, name: str, *lines: str) -> None:
    sys.stdout.write("\nNext:\n" + "".join(f"  {line}\n" for line in (f"onnxferry export {shlex.quote(str(out))} -o {name}.onnx", *lines)))


def command_line() -> str:
    """The command as it was typed, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "onnxferry"), *(a for a in sys.argv[1:] if a != "--resume")])


def cnn_learner(
    splits: ImageSplits,
    preset: str,
    *,
    figures: bool,
    epochs: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    width: int | None = None,
    augment: bool = True,
    seed: int = 0,
    init: Checkpoint | None = None,
) -> CnnLearner:
    """The learner for a preset (``quick``: minutes on two cores, ``full``: the best), with what the user set instead."""
    if preset not in ("quick", "full"):
        raise InputError(f"unknown preset {preset!r}; expected quick or full")
    options = CnnOptions(epochs=18, batch=50, learning_rate=6e-3, average=0.99) if preset == "quick" else CnnOptions()
    if not augment:
        augmentation = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0)
    elif figures:
        augmentation = options.augment
    else:
        augmentation = FASHION_AUGMENT if splits.name == "fashion-mnist" else PHOTO_AUGMENT
    options = dataclasses.replace(
        options,
        augment=augmentation,
        epochs=epochs or options.epochs,
        batch=batch or options.batch,
        learning_rate=learning_rate or options.learning_rate,
    )
    wide = width or (16 if preset == "quick" else 24)
    return CnnLearner(splits, options, framing="ink" if figures else "fit", width=wide, seed=seed, init=init)


@app.command()
def cnn(
    dataset: Annotated[
        str, typer.Option(help="digits-5k, mnist or fashion-mnist; none with --data: a folder of your own, one sub-folder a class")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="where the set's files are, or a folder of your own")] = None,
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/cnn"),
    preset: Annotated[str, typer.Option(help="quick or full")] = "full",
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the data")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="pictures a step")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="highest of the cycle")] = None,
    width: Annotated[int | None, typer.Option(min=4, max=512, help="channels of the first stage")] = None,
    size: Annotated[int, typer.Option(min=28, max=224, help="side of the network's square, pixels (folder of pictures)")] = 28,
    color: Annotated[bool, typer.Option("--color", help="keep the colours (folder of pictures)")] = False,
    framing: Annotated[str, typer.Option(help="ink: find the figure on a plain ground; fit: take the whole picture; auto")] = "auto",
    augment: Annotated[bool, typer.Option(help="random crop, rotation, scaling, … of the training pictures")] = True,
    validation: Annotated[
        int | None, typer.Option(min=0, help="pictures held out to choose the best epoch; 0: none, the last epoch is kept")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="train on at most so many pictures, evenly over the classes")] = None,
    init: Annotated[Path | None, typer.Option(help="a run of `train ae`: start from its encoder")] = None,
    few_labels: Annotated[
        str, typer.Option(help="with --init: accuracy at so many labels a class, with and without it, e.g. 10,100,1000; nothing else")
    ] = "",
    seed: Annotated[int, typer.Option(help="of the order, the start and the augmentation")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="processes, each on a device of its own")] = 1,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed")] = "32-true",
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out where it was cut off")] = False,
    save_seconds: Annotated[float, typer.Option(min=0.0, help="between two saves within an epoch")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="the result as one JSON line on stdout")] = False,
) -> None:
    """Train a recogniser: a compact residual network.

    Examples:

      onnxferry train cnn                                        # the embedded 5,000 digits

      onnxferry train cnn --dataset mnist --out runs/digits

      onnxferry train cnn --data photos/ --size 96 --color       # your own, one sub-folder a class

      onnxferry train cnn --init runs/ae --few-labels 10,100     # what a trained encoder is worth
    """
    splits = load_images(dataset or None, data, size=size, color=color, seed=seed, limit=limit, validation=validation)
    if framing not in ("auto", "ink", "fit"):
        raise InputError(f"unknown framing {framing!r}; expected auto, ink or fit")
    figures = splits.name in FIGURES if framing == "auto" else framing == "ink"
    encoder = None if init is None else load_checkpoint(init, "ae")
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    if few_labels:
        if encoder is None:
            raise InputError("--few-labels compares with and without a trained encoder: give one with --init RUN")
        from onnxferry.train.few_labels import compare_few_labels

        compare_few_labels(splits, encoder, few_labels, config, figures=figures, augment=augment, seed=seed, as_json=as_json)
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
    run_learner(learner, config, as_json=as_json)
    if not as_json and os.environ.get("LOCAL_RANK", "0") == "0":
        say_next(out, "model", "onnxferry predict model.onnx PICTURE.png")


from onnxferry.train.ae_command import ae  # noqa: E402  a family's verb uses what stands above
from onnxferry.train.gan_command import gan  # noqa: E402
from onnxferry.train.rnn_command import rnn  # noqa: E402

app.command()(rnn)
app.command()(ae)
app.command()(gan)
