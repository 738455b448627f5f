"""A parity report on the terminal, and in the file that --report names."""

from __future__ import annotations

from pathlib import Path

from onnxferry.export.parity.report import REPORT_SUFFIXES, ParityReport
from onnxferry.runtime.cli.console import plain, stdout
from onnxferry.runtime.cli.parity_table import OutputRow, parity_table
from onnxferry.runtime.errors import ExportError, InputError


def check_report_name(file: Path | None) -> None:
    """Raise InputError if no report can be written there. Asked before the work starts."""
    if file is None:
        return
    if file.suffix.lower() not in REPORT_SUFFIXES:
        raise InputError(f"--report takes a name ending in {' or '.join(REPORT_SUFFIXES)}, got {file.name!r}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--report: the folder {file.parent} does not exist: create it, or give another place")


def write_report_file(report: ParityReport, file: Path, title: str) -> None:
    """Write .html or .json, by the name's ending. Raises ExportError if it cannot be written."""
    try:
        report.save(file, title=title)
    except OSError as error:
        raise ExportError(f"cannot write the report {file}: {error.strerror or error}") from error


def print_report(report: ParityReport, what: str) -> None:
    """The table of outputs, the verdict on ``what``, and what was fixed or noted."""
    console = stdout()
    console.print(
        parity_table(
            OutputRow(o.name, o.elements, o.max_abs, o.rtol, o.atol, o.decisions, o.decisions_changed) for o in report.outputs.values()
        )
    )
    untraced = sum(not case.traced for case in report.compared)
    console.print(
        f"passed: {len(report.compared)} inputs compared, {untraced} at sizes never traced; {plain(what)}",
        style="bold green",
        soft_wrap=True,
    )
    for label, lines in (("fixed", report.fixes), ("note", report.notes)):
        for text in lines:
            console.print(f"{label}: {plain(text)}", soft_wrap=True)
    if report.refused:
        others = ", ".join(strategy for strategy, _ in report.refused)
        console.print(f"made by {plain(report.strategy)}; refused before: {plain(others)} (--report and --json say why)", soft_wrap=True)
