"""``onnxferry quickstart``: the whole way in one command, on the embedded digits.

Train → export → check → run, then a table of what came of it and an image of the predictions. What is measured here is
measured through the exported file and the runtime, on images that neither training nor choosing has seen.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from onnxferry.export.families.checkpoint import export_checkpoint
from onnxferry.export.families.trained import TrainedClassifier
from onnxferry.runtime import Classifier, Prediction, load
from onnxferry.runtime.cli.console import App, command, print_json
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_json, written_whole
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.images.grid import save_image
from onnxferry.train.cli.run import run_learner
from onnxferry.train.data.images import load_images
from onnxferry.train.loop.loop import InterruptedTrainingError, LoopConfig
from onnxferry.train.presets import cnn_learner

app = App()


COMMAND = "onnxferry quickstart"


OURS = ("digits.onnx", *(f"samples/{digit}.png" for digit in range(10)), "predictions.png", "report.json")
"""What the quickstart leaves in its folder beside its run, and replaces when it runs again."""


RUN = ("best.pt", "last.pt", "metrics.jsonl", "curves.png", "run.json")
"""What its run leaves in ``run``, in the order in which it is taken away: run.json, which says whose the folder is, goes last."""


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="folder for the run, the model, the images and the report")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(help="of the split, the start and the augmentation")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the 3,500 training digits; the preset's own if not given")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the one in --out that was cut off")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the report as one JSON document on stdout")] = False,
) -> None:
    """Train a digit classifier, export it to ONNX, verify it, and run it without PyTorch. About two minutes on two cores.

    Example:

      onnxferry quickstart --out quickstart

      onnxferry quickstart --out quickstart --resume     # after a Ctrl-C, or worse
    """
    console = Console(stderr=True, quiet=as_json)
    if resume:
        seed, epochs = _begun_with(out, seed, epochs)
    else:
        _clear(out)
    console.print("[bold]1 train[/]  a residual network on 3,500 real handwritten digits")
    splits = load_images("digits-5k", seed=seed)
    learner = cnn_learner(splits, "quick", figures=True, epochs=epochs, seed=seed)
    try:
        run_learner(learner, LoopConfig(out=out / "run", command=COMMAND, device="cpu", resume=resume), as_json=False, console=console)
    except InterruptedTrainingError as error:
        again = command(*COMMAND.split()[1:], "--out", out, "--resume")
        raise InterruptedTrainingError(
            f"stopped while training; all is saved: go on with {again}, or begin anew without --resume"
        ) from error

    console.print("[bold]2 export[/] the whole task into one file, compared with PyTorch at shapes it was not traced at")
    model = out / "digits.onnx"
    parity = export_checkpoint(out / "run", model, description="Digits, from the quickstart", command=["onnxferry", "quickstart"])

    console.print("[bold]3 check[/]  replay its golden samples, then predict the 1,000 held-out digits through the runtime")
    with load(model, device="cpu") as classifier:
        if not isinstance(classifier, Classifier) or classifier.contract is None:
            raise InputError(f"{model} is not a recogniser: it was changed while the quickstart ran; run it again")
        replay_goldens(classifier.run, classifier.contract).raise_if_failed(model.name)
        predictions = classifier.predict(splits.test.images)
        trained = TrainedClassifier(out / "run")
        compared = trained.compare(predictions, splits.test.images)
        report = {
            "accuracy": float(np.mean([p.index for p in predictions] == splits.test.labels)),
            "test_images": len(predictions),
            "training_images": len(splits.train),
            "parity": {"shapes": parity.summary()["untraced_shapes"], **compared},
            "bytes": model.stat().st_size,
            "latency": {str(n): trained.latency(classifier, splits.test.images[:n]) for n in (1, 64)},
            "threads": classifier.engine.threads,
        }
    samples = _write_samples(splits.test.images, splits.test.labels, out / "samples")
    _draw(splits.test.images, splits.test.labels, predictions, out / "predictions.png")
    write_json(out / "report.json", report)
    if as_json:
        print_json({"out": str(out), **report}, indent=None)
    else:
        _show(report, out, samples)


def _begun_with(out: Path, seed: int, epochs: int | None) -> tuple[int, int]:
    """Seed and epochs of the quickstart in ``out``, without which its training would not go on as it began."""
    path = out / "run" / "run.json"
    if not _is_ours(path) or not path.with_name("last.pt").exists():
        raise InputError(f"nothing to resume in {out}: no quickstart was cut off there after it had saved; start it without --resume")
    run = json.loads(path.read_text())
    begun = run["seed"], run["options"]["epochs"]
    if seed not in (0, begun[0]) or epochs not in (None, begun[1]):
        raise InputError(f"the one in {out} was begun with --seed {begun[0]} --epochs {begun[1]}; resume it with these, or leave them out")
    return begun


def _clear(out: Path) -> None:
    """Take away what an earlier quickstart left, whole or cut off, and nothing else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with --out")
    run = out / "run"
    if not _is_ours(run / "run.json"):
        taken = [name for name in ("digits.onnx", "samples", "predictions.png", "report.json") if (out / name).exists()]
        if run.exists() and not _is_barely_begun(run):
            taken.insert(0, "run")
        if taken:
            raise InputError(f"{out} already holds {taken[0]}, which no quickstart made; name another folder with --out")
    for path in (*(out / name for name in OURS), *(run / name for name in RUN)):
        path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether run.json says so in its first line, which a half-written one has too."""
    try:
        return path.read_text(errors="replace").startswith(f'{{\n  "command": {json.dumps(COMMAND)}')
    except OSError:
        return False


def _is_barely_begun(run: Path) -> bool:
    """A quickstart that was cut off before its run.json was whole leaves a folder with no more than that file's beginnings."""
    return run.is_dir() and all(p.name.startswith(".run.json.") or (p.name == "run.json" and not p.stat().st_size) for p in run.iterdir())


def _write_samples(images: np.ndarray, labels: np.ndarray, folder: Path) -> list[Path]:
    """One held-out digit a class as a PNG, to feed to ``onnxferry predict``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for digit in range(10):
        path = folder / f"{digit}.png"
        save_image(images[int(np.flatnonzero(labels == digit)[0])][..., 0], path)
        paths.append(path)
    return paths


def _draw(images: np.ndarray, labels: np.ndarray, predictions: list[Prediction], path: Path) -> None:
    """32 held-out digits with their predictions; the mistakes come first, in red with the true digit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrong = [i for i, p in enumerate(predictions) if p.index != labels[i]]
    rest = np.random.default_rng(0).permutation([i for i, p in enumerate(predictions) if p.index == labels[i]]).tolist()
    shown = [*wrong[:16], *rest][:32]
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Held-out digits read by digits.onnx: {len(predictions) - len(wrong)} of {len(predictions)} right; mistakes in red (true digit)"
    )
    for place, i in enumerate(shown):
        axes = figure.add_subplot(4, 8, place + 1)
        axes.imshow(images[i][..., 0], cmap="gray_r")
        axes.set_axis_off()
        p = predictions[i]
        right = p.index == labels[i]
        axes.set_title(
            f"{p.label}  {100 * p.probability:.0f} %" + ("" if right else f"  ({labels[i]})"),
            fontsize=10,
            color="black" if right else "crimson",
        )
    with written_whole(path) as part:
        figure.savefig(part, dpi=100)


def _show(report: dict[str, Any], out: Path, samples: list[Path]) -> None:
    console = Console()
    table = Table(title="From PyTorch to ONNX, measured on this machine", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    parity, latency = report["parity"], report["latency"]
    right = f"{100 * report['accuracy']:.1f} % of {report['test_images']} held-out digits"
    table.add_row("accuracy", f"{right}, trained on {report['training_images']}")
    table.add_row(
        "parity",
        f"largest difference of a probability {parity['largest_difference']:.1e}, "
        f"{parity['decisions_changed']} of {parity['decisions']} decisions differ, {parity['shapes']} shapes never traced",
    )
    table.add_row("size", f"{human_bytes(report['bytes'])}, one file")
    for n, times in latency.items():
        ratio = times["pytorch"] / times["onnxferry"]
        ours, theirs = f"{times['onnxferry']:.2f} ms", f"PyTorch {times['pytorch']:.2f} ms"
        table.add_row(f"latency, batch {n}", f"{ours}, {theirs}: {ratio:.1f} × ({report['threads']} threads)")
    console.print(table)
    console.print(f"Predictions as an image: {out / 'predictions.png'}", highlight=False)
    model = shlex.quote(str(out / "digits.onnx"))
    lines = [
        f"onnxferry predict {model} {shlex.quote(str(samples[7]))}",
        f"onnxferry inspect {model}",
        f"onnxferry check {model}",
        f"python -c \"from onnxferry.runtime import load; print(load('{out / 'digits.onnx'}').predict('{samples[7]}'))\"",
    ]
    sys.stdout.write("\nNext:\n" + "".join(f"  {line}\n" for line in lines))
