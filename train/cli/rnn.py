"""``onnxferry train rnn``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.train.cli.run import (
    AsJson,
    Device,
    Devices,
    Out,
    Precision,
    Preset,
    Resume,
    SaveSeconds,
    command_line,
    data_progress,
    is_first,
    train,
)
from onnxferry.train.data.text import EMBEDDED, NAMES, doubts, load_text
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import rnn_learner


def rnn(
    dataset: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}; left out with --data: your own text")] = "",
    data: Annotated[Path | None, typer.Option(help="a text file, or a folder of them")] = None,
    out: Out = Path("runs/rnn"),
    preset: Preset = "full",
    cell: Annotated[str | None, typer.Option(help="lstm or gru")] = None,
    depth: Annotated[int | None, typer.Option(min=1, max=16, help="layers")] = None,
    width: Annotated[int | None, typer.Option(min=4, max=4096, help="of each layer's state")] = None,
    embedding: Annotated[int | None, typer.Option(min=2, max=1024, help="of a byte")] = None,
    tied: Annotated[bool | None, typer.Option("--tied", help="the output's weights are the embedding's")] = None,
    skip: Annotated[bool | None, typer.Option(help="a layer reads all below it, the output all layers")] = None,
    half: Annotated[bool | None, typer.Option(help="round the deployed weights to half precision: half the file")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the text")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="streams read side by side")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="bytes that an update looks back")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="highest of the cycle")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0.0, help="AdamW's")] = None,
    clip: Annotated[float | None, typer.Option(min=0.0, help="highest norm of the gradient")] = None,
    dropout: Annotated[float | None, typer.Option(min=0.0, max=0.95, help="between the layers")] = None,
    variational: Annotated[bool | None, typer.Option(help="dropout masks that stay the same over time, or fresh ones at each byte")] = None,
    weight_dropout: Annotated[float | None, typer.Option(min=0.0, max=0.95, help="of the recurrent weights")] = None,
    average: Annotated[float | None, typer.Option(min=0.0, max=0.99999, help="decay of the weights' moving average")] = None,
    rename_speakers: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="share of a play whose speakers get other names")] = None,
    validation: Annotated[float, typer.Option(min=0.0, max=0.5, help="share of the first nine tenths held out to choose by")] = 0.05,
    seed: Annotated[int, typer.Option(help="of the order, the start and the dropout")] = 0,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    save_seconds: SaveSeconds = 60.0,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a text generator: a recurrent network over bytes.

    Examples:

      onnxferry train rnn --preset quick                        # Python's own documentation, minutes

      onnxferry train rnn --dataset tinyshakespeare --out runs/shakespeare

      onnxferry train rnn --data my-letters/ --cell lstm        # your own text
    """
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    with data_progress() as progress:
        splits = load_text(dataset or ("" if data is not None else EMBEDDED), data, validation=validation, progress=progress)
    if data is not None and is_first() and (why := doubts(splits.train)):
        sys.stderr.write(f"warning: is {data.name} text? {why}; training goes on with its bytes as they are\n")
    learner = rnn_learner(
        splits,
        preset,
        config={"cell": cell, "depth": depth, "width": width, "embedding": embedding, "tied": tied, "skip": skip, "half": half},
        options={
            "epochs": epochs,
            "batch": batch,
            "steps": steps,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "clip": clip,
            "dropout": dropout,
            "variational": variational,
            "weight_dropout": weight_dropout,
            "average": average,
            "rename_speakers": rename_speakers,
        },
        seed=seed,
    )
    train(learner, config, as_json=as_json, then='onnxferry generate model.onnx "To be" --stream')
