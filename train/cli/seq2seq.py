"""``onnxferry train seq2seq``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import SEQ2SEQ
from onnxferry.train.cli.options import DATA, AsJson, Data, Given, Out, Preset, Seed, with_options
from onnxferry.train.cli.run import data_progress, train
from onnxferry.train.data.pairs.dates import DATES, load_dates
from onnxferry.train.data.pairs.tsv import VALIDATION_SHARE, load_pairs
from onnxferry.train.families.seq2seq import Seq2SeqConfig, Seq2SeqOptions
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import PAIRS, seq2seq_learner


@with_options(SEQ2SEQ.name, Seq2SeqConfig, Seq2SeqOptions)
def seq2seq(
    *,
    dataset: Annotated[str, typer.Option(help=f"{DATES}; none with --data: your own pairs", rich_help_panel=DATA)] = "",
    data: Data = None,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="share of your pairs held out to choose the best epoch", rich_help_panel=DATA)
    ] = VALIDATION_SHARE,
    encoding: Annotated[str, typer.Option(help="of your own file: utf-8, gbk, big5, …", rich_help_panel=DATA)] = "utf-8",
    limit: Annotated[
        int | None,
        typer.Option(min=100, help="dates to train on; by default those of the preset", show_default=False, rich_help_panel=DATA),
    ] = None,
    preset: Preset = "full",
    seed: Seed = 0,
    out: Out = Path("runs/seq2seq"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train a translator: an encoder and a decoder with attention, over bytes.

    Examples:

      onnxferry train seq2seq --preset quick                # dates of 27 languages to ISO 8601, minutes

      onnxferry train seq2seq --out runs/dates

      onnxferry train seq2seq --data german-english.tsv.gz  # your own pairs: source, tab, target
    """
    if data is not None and (dataset or limit):
        raise InputError(f"--data is your own pairs: leave out {'--dataset' if dataset else '--limit, which is for the dates'}")
    if dataset not in ("", DATES):
        raise InputError(f"unknown data set {dataset!r}; expected {DATES}, or your own pairs with --data")
    with data_progress() as progress:
        if data is not None:
            splits = load_pairs(data, validation=validation, encoding=encoding)
        else:
            splits = load_dates(limit or PAIRS.get(preset, PAIRS["full"]), seed=seed, progress=progress)
    learner = seq2seq_learner(splits, preset, seed=seed, **given)
    example = splits.test[0][0].decode().strip()
    train(learner, run, as_json=as_json, then=f"onnxferry translate model.onnx {shlex.quote(example)}")
