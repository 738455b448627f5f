"""``onnxferry check``: replay a file's golden samples on this machine."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.text import Text

from onnxferry.runtime.catalog import find_model
from onnxferry.runtime.console import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    command,
    new_app,
    new_table,
    plain,
    print_json,
    print_next,
    stdout,
    try_command,
)
from onnxferry.runtime.engine import Engine
from onnxferry.runtime.errors import CheckFailedError
from onnxferry.runtime.golden import Comparison, GoldenReport, replay_goldens
from onnxferry.runtime.latents import decoder_path

app = new_app()


@app.command()
def check(
    model: ModelArgument,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    allow_none: Annotated[bool, typer.Option("--allow-none", help="A file without golden samples is no failure.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Replay a file's golden samples on this machine.

    A file from `onnxferry export` carries a few inputs and what the source framework gave for them. They are run here, and
    every output must have its dtype and shape and lie within its tolerance. Needs neither torch nor any data.

    ```
    onnxferry check digits.onnx
    onnxferry check digits --device cuda
    ```

    With --json: model, device, passed, samples, comparisons (sample, output, passed, problem, max_abs, rtol, atol, worst
    index, actual and expected there).
    """
    path = find_model(model)
    with Engine(path, device=device, threads=threads) as engine:
        contract = engine.contract
        report = replay_goldens(engine.run, contract) if contract else GoldenReport(())
        device_used = engine.device
    if contract is not None and contract.kind == "encoder" and decoder_path(path).is_file():
        with Engine(decoder_path(path), device=device, threads=threads) as engine:
            report = GoldenReport((*report.comparisons, *_decoder_comparisons(engine)))
    nothing = not report.comparisons
    if as_json:
        print_json(
            {
                "model": model,
                "device": device_used,
                "passed": report.passed or (nothing and allow_none),
                "samples": len(contract.goldens) if contract else 0,
                "comparisons": [_json(comparison) for comparison in report.comparisons],
            }
        )
    elif not nothing:
        _print_table(report)
    if nothing and allow_none:
        if not as_json:
            stdout().print(f"{plain(model)} opens on {device_used}; it carries no golden samples, so nothing was compared", soft_wrap=True)
        return
    if contract is None:
        raise CheckFailedError(
            f"{path} carries no onnxferry contract, so there is nothing to check it by; "
            "export it with onnxferry, or use --allow-none to see only whether it opens"
        )
    report.raise_if_failed(str(path))
    if not as_json:
        count = len(report.comparisons)
        stdout().print(Text(f"passed: {count} of {count} on {device_used}", "bold green"))
        print_next(command("inspect", model), *try_command(contract.kind, model))


def _decoder_comparisons(engine: Engine) -> list[Comparison]:
    """An autoencoder is one model in two files: its check replays both."""
    if engine.contract is None:
        return []
    report = replay_goldens(engine.run, engine.contract)
    return [dataclasses.replace(comparison, output=f"decoder: {comparison.output}") for comparison in report.comparisons]


def _json(comparison: Comparison) -> dict[str, Any]:
    return {
        "sample": comparison.sample,
        "output": comparison.output,
        "passed": comparison.passed,
        "problem": comparison.problem,
        "max_abs": comparison.max_abs,
        "rtol": comparison.tolerance.rtol,
        "atol": comparison.tolerance.atol,
        "worst": comparison.worst,
        "actual": comparison.actual,
        "expected": comparison.expected,
    }


def _print_table(report: GoldenReport) -> None:
    table = new_table("sample", "output", "max difference", "allowed", "verdict", right=("sample", "max difference"))
    for c in report.comparisons:
        rtol, atol = c.tolerance.rtol, c.tolerance.atol
        allowed = f"{atol:g} + {rtol:g} |x|" if rtol else f"{atol:g}" if atol else "none"
        verdict = Text("passed", "green") if c.passed else Text("failed", "bold red")
        table.add_row(str(c.sample), plain(c.output), "-" if c.max_abs is None else f"{c.max_abs:.3g}", allowed, verdict)
    console = stdout()
    console.print(table)
    for c in report.comparisons:
        if not c.passed:
            console.print(f"sample {c.sample}, {plain(c.output)}: {plain(c.problem)}")
