"""``onnxferry check MODEL --against SOURCE``: the export's own judge, on a file that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxferry.export.cli.print_report import checked_report_name, print_report, write_report_file
from onnxferry.export.pipeline.verify import judge_file
from onnxferry.export.sources.factory import FACTORY, model_from_factory
from onnxferry.export.sources.input_spec import samples_from_file
from onnxferry.runtime.cli.console import command, plain, print_json, print_next, stderr
from onnxferry.runtime.errors import InputError, ParityError
from onnxferry.runtime.onnx_file.summary import Limits


def check_against(
    model: Path,
    source: str,
    *,
    weights: Path | None,
    samples: Sequence[Path],
    report_file: Path | None,
    limits: Limits,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Judge the file by its source, and print. Raises ParityError where it does not do the same."""
    checked_report_name(report_file)
    feeds = [samples_from_file(path) for path in samples]
    made = _made(source, weights)
    if as_json:
        report = judge_file(model, made, samples=feeds, limits=limits, device=device, threads=threads)
        print_json({"model": str(model), "against": source, **report.to_json()})
    else:
        with stderr().status(f"comparing {plain(model)} with {plain(source)}"):
            report = judge_file(model, made, samples=feeds, limits=limits, device=device, threads=threads)
    if report_file is not None:
        write_report_file(report, report_file, f"{model.name} and {source}")
    if not report.passed:
        raise ParityError(f"{model} does not do what {source} does: {report.first_line()}\n{report.explain()}", report)
    if not as_json:
        print_report(report, f"{model} does what {source} does")
        print_next(command("inspect", model))


def _made(source: str, weights: Path | None) -> Any:
    if Path(source).suffix.lower() == ".pt2":
        from onnxferry.export.sources.pytorch.program import program_from_file

        if weights is not None:
            raise InputError("--weights goes with pkg.module:make_model; a .pt2 program carries its own")
        return program_from_file(source)
    if not FACTORY.fullmatch(source):
        raise InputError(f"--against takes pkg.module:make_model or a .pt2 file, got {source!r}")
    return model_from_factory(source, weights)
