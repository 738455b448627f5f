"""``onnxferry convert``: write a file in another operator set, or for an older ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.export.cli.common_options import AtolOption, RtolOption
from onnxferry.export.cli.print_report import finish_report
from onnxferry.export.graphs.writer import checked_target
from onnxferry.export.options import ModelKeywords
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.pipeline.convert import convert_file
from onnxferry.export.sources.input_spec import samples_from_file
from onnxferry.runtime.cli.console import JsonOption, new_app

app = new_app()


@app.command()
def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The .onnx file to write.", show_default=False)],
    opset: Annotated[
        int | None, typer.Option("--opset", metavar="N", help="The operator set to write, up or down.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="RUNTIME", help="The oldest runtime that is to load it, as ort>=1.17.", show_default=False),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="PATH",
            help="Run the new file in the ONNX Runtime of this interpreter's environment, too.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option("--samples", metavar="FILE", help="An .npz with one array per input: compared too. Repeat.", show_default=False),
    ] = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an .onnx file in another operator set, up or down, or for an older ONNX Runtime, if the new file does the same.

    Old and new file are compared before anything is written: on samples, at sizes that were never traced, on special values. An
    operator that cannot be converted is named. A contract is kept, and its golden samples are made anew.

    ```
    onnxferry convert model.onnx --opset 17 -o older.onnx
    onnxferry convert model.onnx --target "ort>=1.17" -o older.onnx
    onnxferry convert model.onnx --target "ort>=1.17" --python old/bin/python --samples real.npz -o older.onnx
    ```

    With --json: model, bytes, files, and the whole parity report (passed, strategy, fixes, cases, outputs, failures, notes).
    """
    checked_target(out)
    read = [samples_from_file(path) for path in samples or []]
    options: ModelKeywords = {
        "opset": opset,
        "python": python,
        "samples": read[1:],
        "rtol": rtol,
        "atol": atol,
        "command": ["onnxferry", *sys.argv[1:]],
    }

    def made() -> ParityReport:
        return convert_file(model, out, target=target, example_inputs=read[0] if read else None, **options)

    finish_report(made, out, f"converting {model.name}", as_json)
