"""``onnxferry check``: replay a file's golden samples on this machine."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from onnxferry.runtime.artifact.comparison import Comparison
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    LimitOption,
    ModelArgument,
    ThreadsOption,
    command,
    new_app,
    new_table,
    plain,
    print_json,
    print_next,
    stderr,
    stdout,
    try_command,
)
from onnxferry.runtime.cli.parity_table import allowed_words
from onnxferry.runtime.engine.diagnosis import UNTRUSTED_ORT, outdated_for_untrusted
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import GoldenReport, replay
from onnxferry.runtime.errors import CheckFailedError, InputError
from onnxferry.runtime.kinds import ENCODER, KINDS
from onnxferry.runtime.machine.nvidia import cuda_devices
from onnxferry.runtime.onnx_file.summary import Limits, raised_limits
from onnxferry.runtime.sandbox.child import SandboxLimits, memory_is_limited
from onnxferry.runtime.sandbox.confinement import can_confine
from onnxferry.runtime.sandbox.jobs import check_file
from onnxferry.runtime.tasks.autoencoder import decoder_path

app = new_app()


VERIFY = "onnxferry.export.cli.verify:verify_model"
"""What --against calls. By name, as the table of verbs does: it needs the model's framework, which a check does without."""


@app.command()
def check(
    model: ModelArgument,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    allow_none: Annotated[bool, typer.Option("--allow-none", help="Pass a file without golden samples.")] = False,
    allow_loose: Annotated[
        bool, typer.Option("--allow-loose", help="Pass tolerances of more than 10 % of an output's largest value.")
    ] = False,
    untrusted: Annotated[bool, typer.Option("--untrusted", help="Open the file in a child process only, with the limits below.")] = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            help="Seconds that opening, and each run, may take; with --untrusted all of it, 60 if not given.",
            show_default=False,
        ),
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            "--max-memory", metavar="GIB", help="With --untrusted: memory that it may use; 4 if not given, at least 1.", show_default=False
        ),
    ] = None,
    limit: LimitOption = None,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="SOURCE",
            help="The same as onnxferry verify MODEL SOURCE: compare with the model itself.",
            show_default=False,
        ),
    ] = "",
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="With --against: see onnxferry verify.", show_default=False),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option("--samples", metavar="FILE", help="With --against: see onnxferry verify.", show_default=False),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="With --against: see onnxferry verify.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a file's golden samples on this machine.

    A file from `onnxferry export` contains a few inputs and the outputs of the source framework for them. They are run here, and
    every output must have its dtype and shape and lie within its tolerance. Needs neither torch nor any data.

    With --untrusted, the file is opened in a process of its own, with limits on time and memory. With --against,
    the file is compared with the model itself: `onnxferry verify` under its older name.

    ```
    onnxferry check digits.onnx
    onnxferry check digits --device cuda
    onnxferry check download.onnx --untrusted --max-seconds 20
    ```

    With --json: model, device, device_reason, passed, samples, comparisons (sample, output, passed, problem, max_abs, rtol, atol, worst
    index, actual and expected there); with --against, model and the whole parity report.
    """
    path = find_model(model)
    file_limits = raised_limits(limit or ())
    for option, value in (("--weights", weights), ("--samples", samples), ("--report", report_file)):
        if value and not against:
            raise InputError(f"{option} goes with --against, the model to compare with")
    if max_memory is not None and not untrusted:
        raise InputError("--max-memory goes with --untrusted")
    if max_seconds is not None and against:
        raise InputError("--max-seconds does not go with --against")
    if against:
        if untrusted:
            raise InputError("--against runs a model that you trust beside the file: it does not go with --untrusted")
        module, _, function = VERIFY.partition(":")
        getattr(import_module(module), function)(
            path, against, weights=weights, samples=samples or [], report_file=report_file, limits=file_limits,
            device=device, threads=threads, as_json=as_json,
        )  # fmt: skip
        return
    if untrusted:
        found = _checked_in_child(path, device, threads, max_seconds, max_memory, file_limits, allow_loose)
    else:
        found = _checked_here(path, device, threads, file_limits, max_seconds, allow_loose)
    report, nothing = found.report, not found.report.comparisons
    half = found.unverified_decoder and not allow_none
    if as_json:
        print_json(
            {
                "model": model,
                "device": found.device,
                "device_reason": found.reason,
                "passed": (report.passed and not half) or (nothing and allow_none),
                "samples": found.samples,
                "comparisons": [_json(comparison) for comparison in report.comparisons],
            }
        )
    elif not nothing:
        _print_table(report)
    if nothing and allow_none:
        if not as_json:
            stdout().print(f"{plain(model)} opens on {found.device}; it carries no golden samples, so nothing was compared", soft_wrap=True)
        return
    if found.kind is None:
        raise CheckFailedError(
            f"{path} carries no onnxferry contract, so there is nothing to check it by; "
            "export it with onnxferry, or use --allow-none to see only whether it opens"
        )
    report.raise_if_failed(str(path))
    if half:
        raise CheckFailedError(
            f"{decoder_path(path)} carries no golden samples, so half of {path.name} is unverified; "
            "export both again with some, or use --allow-none"
        )
    if not as_json:
        count = len(report.comparisons)
        stdout().print(Text(f"passed: {count} of {count} on {found.device}", "bold green"))
        if device == "auto" and found.device == "cpu" and cuda_devices():
            stdout().print(Text(f"note: the GPU was not used: {found.reason}", "dim"), soft_wrap=True)
        print_next(command("inspect", model), *try_command(KINDS[found.kind], model))


@dataclass(frozen=True)
class _Found:
    kind: str | None  # what the contract says; None where there is none
    samples: int
    device: str
    report: GoldenReport
    reason: str = "as asked for"  # why on that device
    unverified_decoder: bool = False  # an autoencoder's decoder without golden samples


def _checked_here(path: Path, device: str, threads: int | None, limits: Limits, seconds: float | None, allow_loose: bool) -> _Found:
    with Engine(path, device=device, threads=threads, limits=limits, timeout=seconds) as engine:
        contract = engine.contract
        report = replay(engine, seconds, allow_loose)
        device_used, reason = engine.device, engine.device_reason
    samples, unverified = len(contract.goldens) if contract else 0, False
    if contract is not None and contract.kind == ENCODER.name and decoder_path(path).is_file():
        with Engine(decoder_path(path), device=device, threads=threads, limits=limits, timeout=seconds) as engine:
            decoder = replay(engine, seconds, allow_loose)
            more = len(engine.contract.goldens) if engine.contract else 0
        report, samples, unverified = _with_decoder(report, decoder), samples + more, not decoder.comparisons
    return _Found(contract.kind if contract else None, samples, device_used, report, reason, unverified)


def _checked_in_child(
    path: Path, device: str, threads: int | None, max_seconds: float | None, max_memory: float | None, limits: Limits, allow_loose: bool
) -> _Found:
    if device not in ("auto", "cpu") or threads not in (None, 1):
        raise InputError("--untrusted runs on the CPU with one thread: leave --device and --threads out")
    if max_memory is not None and not math.isfinite(max_memory):
        raise InputError(f"--max-memory takes a number of GiB, got {max_memory}")
    defaults = SandboxLimits()
    child = SandboxLimits(
        seconds=defaults.seconds if max_seconds is None else max_seconds,
        memory_bytes=defaults.memory_bytes if max_memory is None else int(max_memory * 2**30),
    )
    if not memory_is_limited():
        stderr().print("note: this system does not limit a process's memory; only its time is limited", soft_wrap=True)
    if not can_confine().files:
        stderr().print("note: this system has no Landlock; the child process may read and write what you may", soft_wrap=True)
    if version := outdated_for_untrusted():
        fixed = ".".join(map(str, UNTRUSTED_ORT))
        stderr().print(f"note: ONNX Runtime {version} has known faults in reading model files, fixed in {fixed}", soft_wrap=True)
    checked = check_file(path, child, limits, allow_loose=allow_loose)
    report, samples, unverified = checked.report, checked.samples, False
    if checked.kind == ENCODER.name and decoder_path(path).is_file():
        decoder = check_file(decoder_path(path), child, limits, allow_loose=allow_loose)
        report, samples, unverified = _with_decoder(report, decoder.report), samples + decoder.samples, not decoder.report.comparisons
    return _Found(checked.kind, samples, "cpu", report, unverified_decoder=unverified)


def _with_decoder(report: GoldenReport, decoder: GoldenReport) -> GoldenReport:
    """An autoencoder is one model in two files: its check replays both."""
    named = [dataclasses.replace(comparison, output=f"decoder: {comparison.output}") for comparison in decoder.comparisons]
    return GoldenReport((*report.comparisons, *named))


def _json(comparison: Comparison) -> dict[str, Any]:
    return {
        "sample": comparison.sample,
        "output": comparison.output,
        "passed": comparison.passed,
        "problem": comparison.problem,
        "max_abs": comparison.max_abs,
        "rtol": comparison.tolerance.rtol if comparison.rms_allowed is None else None,
        "atol": comparison.tolerance.atol if comparison.rms_allowed is None else None,
        "rms": comparison.rms,
        "rms_allowed": comparison.rms_allowed,
        "worst": comparison.worst,
        "actual": comparison.actual,
        "expected": comparison.expected,
    }


def _print_table(report: GoldenReport) -> None:
    table = new_table("sample", "output", "max difference", "allowed", "verdict", right=("sample", "max difference"))
    for c in report.comparisons:
        allowed = allowed_words(c.tolerance.rtol, c.tolerance.atol)
        if c.rms is not None and c.rms_allowed is not None:
            allowed = f"rms {c.rms_allowed:.1%}, is {c.rms:.1%}"
        verdict = Text("passed", "green") if c.passed else Text("failed", "bold red")
        table.add_row(str(c.sample), plain(c.output), "-" if c.max_abs is None else f"{c.max_abs:.3g}", allowed, verdict)
    console = stdout()
    console.print(table)
    for c in report.comparisons:
        if not c.passed:
            console.print(f"sample {c.sample}, {plain(c.output)}: {plain(c.problem)}")
