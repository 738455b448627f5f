"""``onnxferry train detector``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxferry.runtime.cli.console import plain
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import DETECTOR_FAMILY
from onnxferry.train.cli.options import DATA, MODEL, AsJson, Color, Data, Given, Limit, Out, Preset, Seed, Validation, with_options
from onnxferry.train.cli.run import data_progress, is_first, train
from onnxferry.train.data.detection import DetectionSplits, load_scenes
from onnxferry.train.data.idx_sets import has_idx_files
from onnxferry.train.data.own_boxes import load_own_boxes
from onnxferry.train.families.detector import DetectorConfig, DetectorOptions
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.presets import detector_learner


@with_options(DETECTOR_FAMILY.name, DetectorConfig, DetectorOptions)
def detector(
    *,
    dataset: Annotated[
        str, typer.Option(help="digits-5k or mnist: scenes are composed of them; none with --data: your own images", rich_help_panel=DATA)
    ] = "",
    data: Data = None,
    color: Color = None,
    framing: Annotated[
        str, typer.Option(help="ink: objects on a plain background of any color; fit: any image; auto", rich_help_panel=DATA)
    ] = "auto",
    mirror: Annotated[
        bool,
        typer.Option("--mirror", help="your own images mirrored too: not for letters, arrows, left and right", rich_help_panel=DATA),
    ] = False,
    scenes: Annotated[int, typer.Option(min=1, help="composed scenes that are an epoch", rich_help_panel=DATA)] = 4096,
    validation: Validation = None,
    limit: Limit = None,
    init: Annotated[
        str, typer.Option(help="a run of train detector, whose weights are the start; its classes may be others", rich_help_panel=MODEL)
    ] = "",
    preset: Preset = "full",
    seed: Seed = 0,
    out: Out = Path("runs/detector"),
    as_json: AsJson = False,
    given: Given,
    run: LoopConfig,
) -> None:
    """Train a detector: a one-stage network that finds objects and says which they are.

    Your own images: --data takes a COCO .json file or a folder with one, or YOLO's folders images and labels. A set without a test part is
    split.

    Examples:

      onnxferry train detector                                   # scenes of the embedded 5,000 digits

      onnxferry train detector --dataset mnist --out runs/scenes

      onnxferry train detector --data street/ --color --epochs 200 --out runs/street

      onnxferry train detector --dataset mnist --init runs/scenes --box-weight 6 --out runs/finer
    """
    if framing not in ("auto", "ink", "fit"):
        raise InputError(f"unknown framing {framing!r}; expected auto, ink or fit")
    how: dict[str, Any] = {"seed": seed, "validation": validation, "limit": limit}
    with data_progress() as progress:
        splits: DetectionSplits
        if data is not None and not dataset and not has_idx_files(data):
            size = int(given.get("size") or DetectorConfig.size)
            splits = load_own_boxes(data, size=size, color=bool(color), mirror=mirror, progress=progress, **how)
        elif mirror:
            raise InputError("--mirror is for your own images: no digit may be mirrored; leave it out")
        else:
            splits = load_scenes(dataset or None, data, scenes=scenes, progress=progress, **how)
    if is_first():
        sys.stderr.writelines(f"note: {plain(note)}\n" for note in splits.notes)
    chosen = ("ink" if splits.channels == 1 else "fit") if framing == "auto" else framing
    start = load_checkpoint(init) if init else None
    learner = detector_learner(splits, preset, framing=chosen, seed=seed, init=start, **given)
    train(learner, run, as_json=as_json, then="onnxferry detect model.onnx IMAGE.png --picture boxes.png")
