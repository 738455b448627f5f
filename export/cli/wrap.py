"""``onnxferry wrap``: give a file from elsewhere a contract, golden samples, and what it lacks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.export.cli.common_options import AtolOption, RtolOption
from onnxferry.export.cli.export import example_from
from onnxferry.export.cli.image_options import (
    ActivationOption,
    ColorOption,
    FitOption,
    ImageOption,
    InterpolationOption,
    LabelsOption,
    LayoutOption,
    MeanOption,
    ResizeOption,
    ScaleOption,
    ScoresOption,
    StdOption,
    image_from,
    labels_from,
)
from onnxferry.export.cli.print_report import finish_report
from onnxferry.export.graphs.writer import checked_target
from onnxferry.export.options import ModelKeywords
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.pipeline.wrap import wrap_file
from onnxferry.export.sources.input_spec import parsed_inputs, samples_from_file
from onnxferry.runtime.cli.console import JsonOption, new_app

app = new_app()


@app.command()
def wrap(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A file that any tool wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The .onnx file to write.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SPEC",
            help="name:dtype[axes]; names for the axes of an input, and the values to draw for it. Once per input.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option("--samples", metavar="FILE", help="An .npz with one array per input. Repeat for more.", show_default=False),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="SOURCE", help="The reference: the model that it was made from, as export takes it.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="With --against: its state dict.", show_default=False)
    ] = None,
    python: Annotated[
        str | None,
        typer.Option("--python", metavar="PATH", help="The reference: the ONNX Runtime of this Python.", show_default=False),
    ] = None,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Put the preprocessing in front that the file's own metadata (Ultralytics) says.")
    ] = False,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    golden: Annotated[str, typer.Option("--golden", help="Samples to store in the file: auto, none, or an .npz file.")] = "auto",
    labels: LabelsOption = None,
    image: ImageOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    fit: FitOption = None,
    resize: ResizeOption = None,
    interpolation: InterpolationOption = None,
    color: ColorOption = None,
    layout: LayoutOption = None,
    activation: ActivationOption = "auto",
    scores: ScoresOption = None,
    name: Annotated[str, typer.Option("--name", help="The model's name; the file's if not given.", show_default=False)] = "",
    description: Annotated[str, typer.Option("--description", help="One line for the contract.", show_default=False)] = "",
    license_: Annotated[str, typer.Option("--license", help="The model's licence, as an SPDX name.", show_default=False)] = "",
    as_json: JsonOption = False,
) -> None:
    """Give an .onnx file from elsewhere a contract, golden samples, names for its axes, preprocessing and classes.

    The new file is compared with its reference before it is written: the old file, another ONNX Runtime, or the model itself. If
    they differ, the exit code is 1 and nothing is written. The metadata of Ultralytics' files is read as text, never evaluated.

    ```
    onnxferry wrap theirs.onnx --labels labels.txt --samples real.npz -o ours.onnx
    onnxferry wrap theirs.onnx --labels labels.txt --image 224x224x3 --scale 1/255 --fit crop --resize 256 -o ours.onnx
    onnxferry wrap yolo-cls.onnx --preprocess -o photos.onnx
    onnxferry wrap theirs.onnx --input "x:float32[batch,time,40]" -o ours.onnx
    onnxferry wrap theirs.onnx --python old/bin/python -o ours.onnx
    onnxferry wrap theirs.onnx --against mypkg.models:make --weights w.safetensors -o ours.onnx
    ```

    With --json: model, bytes, files, and the whole parity report (passed, strategy, fixes, cases, outputs, failures, notes).
    """
    checked_target(out)
    described = parsed_inputs(inputs or [])
    read = [samples_from_file(path) for path in samples or []]
    options: ModelKeywords = {
        "dynamic_shapes": {d.name: d.axes for d in described if d.axes} or None,
        "samples": read[1:],
        "golden": golden == "auto" if golden in ("auto", "none") else [samples_from_file(golden)],
        "weights": weights,
        "python": python,
        "rtol": rtol,
        "atol": atol,
        "labels": labels_from(labels),
        "image": image_from(image, scale, mean, std, fit=fit, resize=resize, interpolation=interpolation, color=color, layout=layout),
        "activation": activation,
        "scores": scores,
        "name": name or None,
        "description": description,
        "license": license_,
        "command": ["onnxferry", *sys.argv[1:]],
    }

    def made() -> ParityReport:
        return wrap_file(
            model, out, example_inputs=example_from(described, read), against=against,
            preprocess=preprocess, **options,
        )  # fmt: skip

    finish_report(made, out, f"wrapping {model.name}", as_json)
