"""``onnxferry verify``: compare an .onnx file with the model that it was exported from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.export.cli.common_options import PythonOption, SignatureOption
from onnxferry.export.cli.print_report import check_report_name, print_report, write_report_file
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.pipeline.verify import verify_file
from onnxferry.export.progress import shown_by
from onnxferry.export.sources.input_spec import samples_from_file
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    LimitOption,
    ModelArgument,
    ThreadsOption,
    command,
    new_app,
    plain,
    print_json,
    print_next,
    stderr,
    stdout,
)
from onnxferry.runtime.errors import ParityError
from onnxferry.runtime.onnx_file.summary import Limits, raised_limits

app = new_app()


@app.command()
def verify(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The model: a run folder or checkpoint, pkg.module:make_model, a SavedModel, or a .pt2, .keras, .onnx … file.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="For a named PyTorch model: .safetensors or .pt. For one of Keras: .weights.h5.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option("--samples", metavar="FILE", help="More inputs to compare on: .npz or .csv. Repeat for more.", show_default=False),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the parity report: .html with plots, or .json.", show_default=False),
    ] = None,
    strict_nonfinite: Annotated[
        bool, typer.Option("--strict-nonfinite", help="Fail where NaN or infinity is answered otherwise than by the model.")
    ] = False,
    signature: SignatureOption = None,
    python: PythonOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare an .onnx file with the model that it was exported from.

    Both are run on the file's golden samples, on --samples, and on generated inputs at sizes that were never traced, as the
    export did. If they differ, the exit code is 1, and the report says where, by how much, and what to try. Needs the model's
    framework. `onnxferry check` replays the golden samples alone, without it.

    ```
    onnxferry verify model.onnx mypkg.models:make --weights w.safetensors
    onnxferry verify model.onnx mypkg.models:make --samples real.npz --report parity.html
    onnxferry verify digits.onnx runs/digits
    onnxferry verify smaller.onnx model.onnx --json
    ```

    With --json: model, source, and the whole parity report (passed, strategy, cases, outputs, failures, notes, located).
    """
    verify_model(
        find_model(model), source, weights=weights, samples=samples or [], report_file=report_file, limits=raised_limits(limit or ()),
        device=device, threads=threads, strict_nonfinite=strict_nonfinite, signature=signature, python=python, as_json=as_json,
    )  # fmt: skip


def verify_model(
    model: Path,
    source: str,
    *,
    weights: Path | None,
    samples: Sequence[Path],
    report_file: Path | None,
    limits: Limits,
    device: str,
    threads: int | None,
    strict_nonfinite: bool = False,
    signature: str | None = None,
    python: Path | None = None,
    as_json: bool,
) -> None:
    """Compare and print, for this verb and for ``check --against``. Raises ParityError if the file does something else."""
    check_report_name(report_file)
    feeds = [samples_from_file(path) for path in samples]

    def compared() -> ParityReport:
        return verify_file(
            model, source, weights=weights, samples=feeds, limits=limits, device=device, threads=threads, strict_nonfinite=strict_nonfinite,
            signature=signature, python=python,
        )  # fmt: skip

    if as_json:
        report = compared()
        print_json({"model": str(model), "source": source, **report.to_json()})
    else:
        with stderr().status(f"comparing {plain(model)} with {plain(source)}") as status, shown_by(lambda line: status.update(plain(line))):
            report = compared()
    if report_file is not None:
        write_report_file(report, report_file, f"{model.name} and {source}")
    if not report.passed:
        written = "" if report_file is None else f"\n  the report: {report_file}"
        raise ParityError(f"{model} does not do what {source} does: {report.first_line()}\n{report.explain()}{written}", report)
    if not as_json:
        print_report(report, f"{model} does what {source} does")
        if report_file is not None:
            stdout().print(f"the report: {plain(report_file)}", soft_wrap=True)
        print_next(command("inspect", model))
