"""``onnxferry train rnn``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.kinds import RNN
from onnxferry.train.cli.options import DATA, AsJson, Data, Given, Out, Preset, Seed, with_options
from onnxferry.train.cli.run import data_progress, is_first, train
from onnxferry.train.data.text import EMBEDDED, NAMES, VALIDATION, doubts, load_text
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
    """
    with data_progress() as progress:
        splits = load_text(dataset or ("" if data is not None else EMBEDDED), data, validation=validation, progress=progress)
    if data is not None and is_first() and (why := doubts(splits.train)):
        sys.stderr.write(f"warning: is {data.name} text? {why}; training goes on with its bytes as they are\n")
    learner = rnn_learner(splits, preset, seed=seed, **given)
    train(learner, run, as_json=as_json, then='onnxferry generate model.onnx "To be" --stream')
