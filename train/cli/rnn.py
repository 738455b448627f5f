"""``onnxferry train rnn``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.kinds import RNN
from onnxferry.train.cli.options import DATA, AsJson, Data, Given, Out, Preset, Seed, with_options
from onnxferry.train.cli.run import data_progress, train
from onnxferry.train.data.text import EMBEDDED, NAMES, VALIDATION, load_text, prompt_of
from onnxferry.train.families.rnn import RnnConfig, RnnOptions
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import rnn_learner


@with_options(RNN.name, RnnConfig, RnnOptions)
def rnn(
    *,
    dataset: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}; none with --data: your own text", rich_help_panel=DATA)] = "",
    data: Data = None,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="share of the first nine tenths held out to choose the best epoch", rich_help_panel=DATA)
    ] = VALIDATION,
    encoding: Annotated[
        str, typer.Option(help="of your own text: utf-8, gbk, big5, …; bytes trains on its bytes as they are", rich_help_panel=DATA)
    ] = "utf-8",
    preset: Preset = "full",
    seed: Seed = 0,
    out: Out = Path("runs/rnn"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train a text generator: a recurrent network over bytes.

    Examples:

      onnxferry train rnn --preset quick                        # Python's own documentation, minutes

      onnxferry train rnn --dataset tinyshakespeare --out runs/shakespeare

      onnxferry train rnn --data my-letters/ --cell lstm        # your own text

      onnxferry train rnn --data novel.txt --encoding gbk       # … that is not in UTF-8
    """
    with data_progress() as progress:
        splits = load_text(
            dataset or ("" if data is not None else EMBEDDED), data, validation=validation, encoding=encoding, progress=progress
        )
    learner = rnn_learner(splits, preset, seed=seed, **given)
    prompt = prompt_of(splits.train) or "To be"
    train(learner, run, as_json=as_json, then=f"onnxferry generate model.onnx {shlex.quote(prompt)} --stream")
