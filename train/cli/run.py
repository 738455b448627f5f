"""What the commands of all families share: a run's progress, and what is printed when it ends."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from onnxferry.runtime.cli.console import plain, print_json
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.data.progress import Progress as DataProgress
from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.loop import LoopConfig, Observer, fit


class ProgressBar(Observer):
    """A bar with loss, accuracy and time left, and a line per finished epoch. Without a terminal only the lines are printed."""

    def __init__(self, epochs: int, console: Console, head: str = "") -> None:
        self.epochs = epochs
        self.head = head  # of every line, for a network that is trained beside another
        self.console = console
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),  # last, because what does not fit is cut off there
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

    def began(self, learner: Learner) -> None:
        first = f"training a {self.head.rstrip(': ')} first, a recogniser of the same classes: " if self.head else ""
        self.console.print(first + learner.summary(), soft_wrap=True, markup=False, highlight=False)

    def started(self, learner: Learner, epoch: int, steps: int) -> None:
        # One bar for the whole run, so that the time left is that of the run.
        self.steps = steps
        if self.task is None:
            self.task = self.progress.add_task("", total=steps * self.epochs, completed=epoch * steps, epoch="", metrics="")
        self.progress.update(self.task, epoch=f"{epoch + 1}/{self.epochs}")

    def stepped(self, epoch: int, step: int, means: Mapping[str, float]) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=epoch * self.steps + step, metrics="  ".join(_fields("", means)))

    def tested(self, metrics: Mapping[str, float]) -> None:
        if self.head:  # of the run itself, run_learner prints it
            self.console.print(_wrapped(self.head, [_fields("test", metrics)], self.console.width), soft_wrap=True, highlight=False)

    def validated(self, record: Mapping[str, Any], best: bool, shown: str) -> None:
        best = best and bool(record["validation"])
        end = f"{record['seconds']:.0f} s{' best' if best else ''}"
        groups = [_fields("train", record["train"]), _fields("validation", record["validation"])]
        groups[-1 if groups[-1] else 0].append(end)
        line = Text(_wrapped(f"{self.head}epoch {record['epoch']:>3}/{self.epochs}  ", groups, self.console.width))
        if best:
            line.stylize("green", len(line) - len("best"))
        self.console.print(line, soft_wrap=True)
        if shown:
            shown = "\n".join(plain(line) for line in shown.split("\n"))  # of bytes that the network wrote
            self.console.print(shown, markup=False, highlight=False, style="dim")


class _AmountColumn(ProgressColumn):
    """``2.1/9.9 MB`` for bytes, ``21/99`` for anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = {"bytes": DownloadColumn()}
        self.other = MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        return self.columns.get(task.fields["unit"], self.other).render(task)


@contextmanager
def data_progress(console: Console | None = None) -> Iterator[DataProgress]:
    """A callback that shows a bar for each download and each folder that is read. On stderr, and only where that is a terminal."""
    console = console or Console(stderr=True, quiet=not is_first())
    columns = TextColumn("{task.description}", markup=False), BarColumn(), _AmountColumn(), TimeRemainingColumn()
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(label: str, done: int, total: int | None, unit: str) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total, unit=unit)
            bars.update(tasks[label], completed=done, total=total)

        yield show


def read_images(dataset: str, data: Path | None, *, color: bool | None, **how: Any) -> ImageSplits:
    """The images to train on, with a bar while they are read, and a note on stderr of what was left out. ``how``: see load_images."""
    with data_progress() as progress:
        splits = load_images(dataset or None, data, color=bool(color), progress=progress, **how)
    notes = [note for note in splits.notes if color is None or "--grayscale" not in note]
    if is_first():
        sys.stderr.writelines(f"note: {plain(note)}\n" for note in notes)
    return splits


def _fields(title: str, metrics: Mapping[str, float]) -> list[str]:
    """``train loss 0.1234``, ``accuracy 98.70 %``, …: a line may be broken between them."""
    shown = [_field(name, value) for name, value in metrics.items() if name != "n"]
    return [f"{title} {field}".strip() if i == 0 else field for i, field in enumerate(shown)]


_WORDS = {
    "mse": "error",
    "pca_mse": "PCA's error",
    "of_pca": "error over PCA's",
    "kl": "divergence",
    "bits_per_byte": "bits a byte",
    "unigram_bits": "single letters, bits a byte",
    "bigram_bits": "pairs of letters, bits a byte",
    "generator": "generator's loss",
    "discriminator": "discriminator's loss",
    "frechet": "Fréchet distance",
    "agreement": "read as asked",
    "floor_frechet": "Fréchet distance of real images",
    "floor_coverage": "coverage by real images",
    "majority": "most frequent class",
    "logistic_regression": "logistic regression on small grey images",
    "exact": "exact translations",
    "bag_of_words": "logistic regression on a bag of words",
}
"""Metric to how a line of progress calls it, where that is another word. metrics.jsonl and --json have the short ones."""


_SHARES = (
    "accuracy",
    "majority",
    "logistic_regression",
    "bag_of_words",
    "linear",
    "agreement",
    "precision",
    "recall",
    "coverage",
    "floor_coverage",
    "exact",
)


def _field(name: str, value: float) -> str:
    word = _WORDS.get(name, name.replace("exact_", ""))
    return f"{word} {100 * value:.2f} %" if name in _SHARES or name.startswith("exact_") else f"{word} {value:.4f}"


def _wrapped(head: str, groups: Sequence[Sequence[str]], width: int) -> str:
    """All fields on one line if they fit; else each group starts a line, and no field is broken."""
    line = head + "  ".join(field for group in groups for field in group)
    if len(line) <= width:
        return line
    rows: list[str] = []
    for group in groups:
        for i, field in enumerate(group):
            if i and len(head) + len(rows[-1]) + 2 + len(field) <= width:
                rows[-1] += f"  {field}"
            else:
                rows.append(field)
    return head + f"\n{' ' * len(head)}".join(rows)


def run_learner(learner: Learner, config: LoopConfig, *, as_json: bool, console: Console | None = None) -> dict[str, Any]:
    """Train with a progress bar, then print the result. Only the first process prints."""
    first = is_first()
    console = console or Console(stderr=True, quiet=not first)
    with ProgressBar(learner.epochs, console) as observer:
        result = fit(learner, config, observer)
    if first:
        if as_json:
            _print_warnings(console, result)
            print_json({"run": str(config.out), **result}, indent=None)
        else:
            on = f"on {result['test']['n']} held-out samples (epoch {result['epoch']})"
            line = Text(_wrapped("", [[*_fields("test", result["test"]), on]], console.width))
            line.stylize("bold", 0, len("test"))
            console.print(line, soft_wrap=True)
            if baseline := result.get("baseline"):
                console.print(Text(_wrapped("", [_fields("for comparison:", baseline)], console.width)), soft_wrap=True)
            _print_warnings(console, result)
    return result


def _print_warnings(console: Console, result: Mapping[str, Any]) -> None:
    for warning in result.get("warnings", ()):
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)


def train(learner: Learner, config: LoopConfig, *, as_json: bool, then: str) -> None:
    """Train, then print the next commands; ``then``: the one to run after the export."""
    run_learner(learner, config, as_json=as_json)
    if not as_json and is_first():
        sys.stdout.write(f"\nNext:\n  onnxferry export {shlex.quote(str(config.out))} -o model.onnx\n  {then}\n")


def is_first() -> bool:
    """True in the process that prints, of those that --devices starts."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def command_line() -> str:
    """The command as it was typed, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "onnxferry"), *(a for a in sys.argv[1:] if a != "--resume")])
