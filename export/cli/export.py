"""``onnxferry export``: export a trained model to one verified .onnx file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.export.cli.common_options import AtolOption, PythonOption, RtolOption, SignatureOption
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
from onnxferry.export.cli.print_report import check_report_name, print_report, print_tries, write_report_file
from onnxferry.export.graphs.nodes import MAX_OPSET, OPSET
from onnxferry.export.graphs.writer import checked_target
from onnxferry.export.options import Feeds, ModelKeywords
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.pipeline.export import export_model
from onnxferry.export.progress import shown_by
from onnxferry.export.sources.input_spec import InputDescription, parsed_inputs, samples_from_file
from onnxferry.runtime.artifact.variants import decoder_path
from onnxferry.runtime.cli.console import JsonOption, new_app, plain, print_json, stderr, stdout
from onnxferry.runtime.errors import ParityError
from onnxferry.runtime.formats import human_bytes

app = new_app()


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run or checkpoint, pkg.module:make_model, timm:NAME, a transformers folder, .pt2, TorchScript .pt, .keras, boosted "
            "trees (.txt, .json, .ubj, .cbm), a TensorFlow SavedModel or .tflite, or an .onnx file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The .onnx file to write.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SPEC",
            help="name:dtype[axes]; a named axis is dynamic. Once per input, by forward()'s names (state_0, batch_image for what is inside "
            "one); a single one may have any name.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="For a named PyTorch model: .safetensors or .pt. For one of Keras: .weights.h5.",
            show_default=False,
        ),
    ] = None,
    signature: SignatureOption = None,
    python: PythonOption = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="An .npz with one array per input, or a .csv with one column per input: compared too. Repeat for more.",
            show_default=False,
        ),
    ] = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    strict_nonfinite: Annotated[
        bool, typer.Option("--strict-nonfinite", help="Refuse a file that answers NaN or infinity otherwise than the model.")
    ] = False,
    opset: Annotated[
        int | None, typer.Option("--opset", min=OPSET, max=MAX_OPSET, help=f"ONNX operator set; {OPSET} if not given.", show_default=False)
    ] = None,
    golden: Annotated[str, typer.Option("--golden", help="Samples to store in the file: auto, none, or an .npz file.")] = "auto",
    with_labels: Annotated[bool, typer.Option("--with-labels", help="A classifier's class names as an additional string output.")] = False,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", metavar="N", help="A text generator's weights in 8, 16 or 32 bits; as trained if not given.", show_default=False
        ),
    ] = None,
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
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the parity report: .html with plots, or .json.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a trained model to one .onnx file that is verified to do the same.

    The file is compared with the model on examples and on sizes that were never traced, before it is written. If they
    differ, the exit code is 1, nothing is written, and the report says where, by how much, and what to try.

    ```
    onnxferry export runs/digits -o digits.onnx
    onnxferry export mypkg.models:make --weights w.safetensors --input "image:float32[batch,3,224,224]" -o model.onnx
    onnxferry export mypkg.models:make --input "ids:int64[batch,time]=0..30521" --samples real.npz -o model.onnx
    onnxferry export mypkg.models:fitted --samples test_rows.csv -o model.onnx      # scikit-learn
    onnxferry export model.keras -o model.onnx
    onnxferry export model.txt -o model.onnx      # LightGBM; XGBoost's .json and .ubj, CatBoost's .cbm
    onnxferry export program.pt2 -o model.onnx
    onnxferry export saved_model --python tf-env/bin/python -o model.onnx      # TensorFlow
    onnxferry export theirs.onnx -o verified.onnx
    onnxferry export bert-folder -o sentiment.onnx             # transformers: config.json and safetensors
    onnxferry export timm:resnet18 --weights w.safetensors -o photos.onnx
    onnxferry export digits.keras --labels 0,1,2,3,4,5,6,7,8,9 --image 28x28x1 --scale 1/255 -o digits.onnx
    ```

    With --json: model, bytes, files (two for an autoencoder), and the whole parity report (passed, strategy, fixes, cases, outputs,
    failures, notes).
    """
    checked_target(out)
    check_report_name(report_file)
    described = parsed_inputs(inputs or [])
    read = [samples_from_file(path) for path in samples or []]
    examples = example_from(described, read)
    options: ModelKeywords = {
        "dynamic_shapes": {d.name: d.axes for d in described if d.axes} or None,
        "samples": read[1:],
        "golden": golden == "auto" if golden in ("auto", "none") else [samples_from_file(golden)],
        "rtol": rtol,
        "atol": atol,
        "strict_nonfinite": strict_nonfinite,
        "opset": opset,
        "weights": weights,
        "with_labels": with_labels,
        "bits": bits,
        "labels": labels_from(labels),
        "image": image_from(image, scale, mean, std, fit=fit, resize=resize, interpolation=interpolation, color=color, layout=layout),
        "activation": activation,
        "scores": scores,
        "signature": signature,
        "python": python,
        "name": name or None,
        "description": description,
        "license": license_,
        "command": ["onnxferry", *sys.argv[1:]],
    }
    decoder = decoder_path(out)
    before = _identity(decoder)
    try:
        if as_json:
            report = export_model(source, examples, out, **options)
        else:
            with stderr().status(f"exporting {plain(source)}") as status, shown_by(lambda line: status.update(plain(line))):
                report = export_model(source, examples, out, **options)
    except ParityError as error:
        if report_file is not None and isinstance(error.report, ParityReport):
            write_report_file(error.report, report_file, source)
            raise ParityError(f"{error}\n  the report: {report_file}", error.report) from error
        raise
    if report_file is not None:
        write_report_file(report, report_file, source)
    size = out.stat().st_size
    files = [out, *([decoder] if _identity(decoder) not in (None, before) else [])]  # an autoencoder is two
    if as_json:
        print_json({"model": str(out), "bytes": size, "files": [str(file) for file in files], **report.to_json()})
        return
    print_report(report, " and ".join(f"{file} ({human_bytes(file.stat().st_size)})" for file in files))
    if report_file is not None:
        stdout().print(f"the report: {plain(report_file)}", soft_wrap=True)
    print_tries(out)


def _identity(file: Path) -> tuple[int, int] | None:
    """Another one after the file was written anew; None where there is none."""
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.is_file() else None


def example_from(described: Sequence[InputDescription], samples: Sequence[Feeds]) -> Feeds | None:
    """The first sample, and random values for described inputs that it lacks; None if there are neither."""
    drawn = {d.name: d.example(number) for number, d in enumerate(described)}
    return {**drawn, **(samples[0] if samples else {})} or None
