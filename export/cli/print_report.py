"""A parity report on the terminal, and in the file that --report names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from onnxferry.export.parity.report import REPORT_SUFFIXES, ParityReport
from onnxferry.export.progress import shown_by
from onnxferry.runtime.cli.console import command, plain, print_json, print_next, stderr, stdout, try_command
from onnxferry.runtime.cli.parity_table import OutputRow, parity_table
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.formats import human_bytes

if TYPE_CHECKING:
    from onnxferry.runtime.engine.engine import Engine


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


def finish_report(make: Callable[[], ParityReport], out: Path, doing: str, as_json: bool) -> None:
    """Run ``make``, which writes one file to ``out``, and print its report: for verbs without options of their own for that."""
    if as_json:
        report = make()
        size = out.stat().st_size
        print_json({"model": str(out), "bytes": size, "files": [str(out)], **report.to_json()})
        return
    with stderr().status(plain(doing)) as status, shown_by(lambda line: status.update(plain(line))):
        report = make()
    print_report(report, f"{out} ({human_bytes(out.stat().st_size)})")
    print_tries(out)


def print_tries(out: Path) -> None:
    """Commands to try on a file that was just written."""
    from onnxferry.runtime.artifact.contract import kind_of
    from onnxferry.runtime.engine.engine import Engine
    from onnxferry.runtime.kinds import MODEL
    from onnxferry.runtime.tasks.row_classifier import RowClassifier

    with Engine(out, device="cpu") as engine:
        kind = kind_of(engine.contract)
        has_goldens = bool(engine.contract and engine.contract.goldens)
        tries = try_command(kind, str(out))
        if not tries and kind is MODEL:
            tries = ((command("predict", out, "ROWS.csv") if RowClassifier.fits(engine) else run_command(engine)),)
    print_next(*([command("check", out)] if has_goldens else ()), command("inspect", out), *tries)


def run_command(engine: Engine) -> str:
    """An example of running the file once."""
    table = all(len(spec.shape) == 2 and spec.shape[1] == 1 for spec in engine.inputs) and len(engine.inputs) > 1
    return command("run", str(engine.path), "--feeds", "ROWS.csv" if table else "INPUTS.npz")
