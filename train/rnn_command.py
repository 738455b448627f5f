"""``onnxferry train rnn``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.errors import InputError
from onnxferry.train.loop import LoopConfig
from onnxferry.train.rnn import RnnConfig, RnnLearner, RnnOptions
from onnxferry.train.text import EMBEDDED, NAMES, TextSplits, load_text


def rnn_learner(
    splits: TextSplits,
    preset: str,
    *,
    config: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> RnnLearner:
    """The learner for a preset (``quick``: words in minutes on two cores, ``full``: the best), with what the user set instead.

    ``config`` and ``options`` hold fields of RnnConfig and RnnOptions; None leaves the preset's.
    """
    if preset == "quick":
        network = RnnConfig(depth=1, width=256)
        how = RnnOptions(epochs=3, learning_rate=6e-3, dropout=0.05, weight_dropout=0.0, average=0.99)
    elif preset == "full":
        network, how = RnnConfig(), RnnOptions()
    else:
        raise InputError(f"unknown preset {preset!r}; expected quick or full")
    network = dataclasses.replace(network, **{k: v for k, v in (config or {}).items() if v is not None})  # type: ignore[arg-type]
    how = dataclasses.replace(how, **{k: v for k, v in (options or {}).items() if v is not None})  # type: ignore[arg-type]
    return RnnLearner(splits, network, how, seed=seed)


def rnn(
    dataset: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}; left out with --data: your own text")] = "",
    data: Annotated[Path | None, typer.Option(help="a text file, or a folder of them")] = None,
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/rnn"),
    preset: Annotated[str, typer.Option(help="quick or full")] = "full",
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
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="processes, each on a device of its own")] = 1,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed")] = "32-true",
    save_seconds: Annotated[float, typer.Option(min=0.0, help="between two saves within an epoch")] = 60.0,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out where it was cut off")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the result as one JSON line on stdout")] = False,
) -> None:
    """Train a text generator: a recurrent network over bytes.

    Examples:

      onnxferry train rnn --preset quick                        # Python's own documentation, minutes

      onnxferry train rnn --dataset tinyshakespeare --out runs/shakespeare

      onnxferry train rnn --data my-letters/ --cell lstm        # your own text
    """
    # There, this verb is put beside the others: imported at the top, the two would wait for each other.
    from onnxferry.train.commands import command_line, run_learner, say_next

    splits = load_text(dataset or ("" if data is not None else EMBEDDED), data, validation=validation)
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
    config = LoopConfig(
        out=out, command=command_line(), device=device, devices=devices, precision=precision, resume=resume, save_seconds=save_seconds
    )
    run_learner(learner, config, as_json=as_json)
    if not as_json and os.environ.get("LOCAL_RANK", "0") == "0":
        say_next(out, "model", 'onnxferry generate model.onnx "To be" --stream')
