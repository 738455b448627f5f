"""``onnxferry tune``: find the fastest way to run a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.text import Text

from onnxferry.runtime.artifact.variants import decoder_path
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    LimitOption,
    ModelArgument,
    command,
    new_app,
    new_table,
    plain,
    print_json,
    print_next,
    stderr,
    stdout,
)
from onnxferry.runtime.engine.ort import ONNXRUNTIME
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import UNREADABLE, read_npz
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.machine.memory import memory_to_open, peak_memory
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.onnx_file.summary import raised_limits
from onnxferry.runtime.tuning.inputs import WRITTEN
from onnxferry.runtime.tuning.plan import Plan, Trial, Tuning, plan_to_json
from onnxferry.runtime.tuning.search import BEFORE, IN_NOISE, LITTLE, NO_TIME, NOT_FASTEST, SLOWER
from onnxferry.runtime.tuning.tune import SECONDS, forget, tune

MEANINGS = {
    SLOWER: "the default is faster",
    NOT_FASTEST: "faster than the default, but another setting is faster still",
    IN_NOISE: "could not be told from the fastest in this time",
    LITTLE: "faster than the default, but by too little to leave it",
    NO_TIME: "there was no time left to measure it; give more --seconds",
    BEFORE: "an earlier run found it far slower than the fastest",
    "skipped": "too little memory is free; see below",
    "failed": "its answers are wrong here, or it cannot be opened; see below",
}
"""Of the table's verdicts, in plain words."""


app = new_app()


LARGE = 32 * 2**20
"""Bytes of weights from which on the memory that tuning needs is said."""


@app.command("tune")
def tune_model(
    model: ModelArgument,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", metavar="N", help="A batch size to tune for; repeat for more. 1 and 64 if not given.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Try only this many; several numbers if not given.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    seconds: Annotated[float, typer.Option(help="How long it takes at most, in seconds.")] = SECONDS,
    feeds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Inputs to time with, arrays by name; the file's golden samples if not given.", show_default=False
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure even if it was before, and add to what is known.")] = False,
    forgotten: Annotated[bool, typer.Option("--forget", help="Only forget earlier results for this model.")] = False,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest way to run a model on this machine.

    Measures, for each batch size and in turns with the default setting: certified variants, installed back ends (OpenVINO),
    numbers of threads, graph optimization levels, a graph for fixed sizes, and ways of binding. A setting wins only if it
    reproduces the model's golden samples within their tolerances and is faster by more than the noise; otherwise the default
    stays. The result is remembered for this machine, and `load(..., tune=True)` runs the model that way.

    Settings stay open while they are timed in turns: one that would need more memory than is free is skipped.

    The table shows how many times (×) as fast as the default each setting was in the same turns, and why it was not chosen. What
    was measured is kept, and later runs add to it: those with --again, and those that find the earlier result unsure because
    the machine was busy or the fastest settings were too close to tell apart.

    ```
    onnxferry tune digits
    onnxferry tune model.onnx --batch 1 --batch 16 --seconds 10
    onnxferry tune model.onnx --feeds inputs.npz
    onnxferry tune digits --again
    onnxferry tune digits --forget
    ```

    With --json: model, machine, seconds, remembered, not_kept (why the result could not be remembered), files: path and plans, of
    each: batch, setting (variant, backend, threads, graph_level, binding, sizes), seconds and default_seconds a run, ratio (times as fast),
    busy (what kept the machine busy), unsure (why another search may find something else), trials: setting, seconds, ratio (beside
    the default in the same turns), verdict.
    """
    path = find_model(model)
    halves = [path, *([decoder_path(path)] if decoder_path(path).is_file() else [])]
    if forgotten:
        count = sum(forget(half) for half in halves)
        if as_json:
            print_json({"model": model, "forgotten": count})
        else:
            stdout().print(f"forgot {count} {'entry' if count == 1 else 'entries'} for {plain(model)}", soft_wrap=True)
        return
    limits = raised_limits(limit or ())
    if feeds is not None and len(halves) > 1:
        raise InputError(f"--feeds is for one file, and {model} has two; name one of them: {halves[0]} or {halves[1]}")
    samples = [_read_feeds(feeds)] if feeds else []
    if stderr().is_terminal:  # one line: a bar that moves would be timed too
        weights = max(read_model(half, limits).weight_bytes for half in halves)
        needed = f", {human_bytes(memory_to_open(weights))} of memory for each setting that is open" if weights >= LARGE else ""
        stderr().print(f"tuning {plain(model)}: {seconds:g} seconds at most{needed} ...", soft_wrap=True)
    share = seconds / len(halves)
    tunings = [
        tune(half, batch, device=device, threads=threads, limits=limits, seconds=share, feeds=samples, again=again) for half in halves
    ]
    if as_json:
        print_json(_json(model, tunings))
        return
    for tuning in tunings:
        _print_tuning(tuning)
    # With another device or another number of threads load() would look for another entry.
    options = [f"device={device!r}"] if device != "auto" else []
    options += [f"threads={threads}"] if threads is not None else []
    call = ", ".join([f"load({model!r}", *options, "tune=True)"])
    print_next(f'python -c "from onnxferry.runtime import load; {call}"', command("inspect", model))


def _read_feeds(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as inputs ({error}); make it with numpy.savez(path, name=array, …)") from error


def _print_tuning(tuning: Tuning) -> None:
    right = ("batch", "threads", "×")
    others = any(trial.setting.backend != ONNXRUNTIME for plan in tuning.plans.values() for trial in plan.trials)
    ways = ("variant", *(["back end"] if others else []), "threads", "graph", "sizes", "binding")
    table = new_table("batch", *ways, "×", "verdict", right=right, title=plain(tuning.path.name))
    reasons = []  # below the table, which they would make unreadable
    for plan in tuning.plans.values():
        for trial in plan.trials:
            setting = trial.setting
            sizes = "fixed" if setting.sizes else "any"
            own = setting.backend == ONNXRUNTIME
            how = (setting.threads, setting.graph_level if own else "-", sizes, setting.binding if own else "-")
            row = (setting.variant or "-", *([setting.backend] if others else []), *how)
            word, _, reason = trial.verdict.partition(": ")
            if reason:
                reasons.append(f"batch {plan.batch}, {', '.join(map(str, row))}: {reason}")
            verdict = Text(plain(word), "bold green" if trial.setting == plan.setting else "")
            table.add_row(str(plan.batch), *(plain(cell) for cell in row), _ratio(trial, plan), verdict)
        table.add_section()
    console = stdout()
    console.print(table)
    seen = {trial.verdict.partition(": ")[0] for plan in tuning.plans.values() for trial in plan.trials}
    for word, meaning in MEANINGS.items():
        if word in seen:
            console.print(Text(f"{word}: {meaning}", "dim"), soft_wrap=True)
    for reason in reasons:
        console.print(Text(plain(reason), "dim"))
    for plan in tuning.plans.values():
        console.print(Text(_summary(plan, tuning)), soft_wrap=True)
    for plan in tuning.plans.values():
        if plan.busy:
            words = f"batch {plan.batch}: found while the machine was busy ({plain(plan.busy)}); the next run of this command checks it"
            console.print(Text(words, "yellow"), soft_wrap=True)
        elif plan.unsure:
            more = "; the next run of this command adds to it" if plan.measured else ""
            console.print(Text(f"batch {plan.batch}: {plain(plan.unsure)}{more}", "dim"), soft_wrap=True)
    found = "found before, and remembered" if tuning.remembered else f"found in {tuning.seconds:.1f} seconds"
    most = peak_memory()
    held = f"; {human_bytes(most)} of memory at most" if most else ""
    console.print(Text(f"{found}, for {plain(tuning.machine)}{held}"), soft_wrap=True)
    if tuning.not_kept:
        console.print(Text(f"not remembered for the next time: {plain(tuning.not_kept)}", "yellow"), soft_wrap=True)


def _ratio(trial: Trial, plan: Plan) -> str:
    """Nothing where it was not measured, or says nothing: not distinguished from the default, which stays."""
    noise = trial.verdict == IN_NOISE and plan.ratio <= 1
    return f"{trial.ratio:.2f}" if trial.ratio and not noise else ""


def _summary(plan: Plan, tuning: Tuning) -> str:
    rows = plan.batch * (WRITTEN if tuning.text else 1)
    rate = f"{rows / plan.seconds:,.0f} {'bytes' if tuning.text else 'items'} a second"
    if plan.ratio > 1:
        how = f"{_time(plan.seconds)}, the default {_time(plan.default_seconds)}: {plan.ratio:.2f} × as fast"
    else:
        how = f"the default stays, {_time(plan.seconds)}"
    return f"batch {plan.batch}: {how}, {rate}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _plan_json(plan: Plan) -> dict[str, Any]:
    """Without the rounds, which are the cache's."""
    return {**{key: value for key, value in plan_to_json(plan).items() if key != "measured"}, "busy": plan.busy}


def _json(model: str, tunings: list[Tuning]) -> dict[str, Any]:
    return {
        "model": model,
        "machine": tunings[0].machine,
        "seconds": sum(tuning.seconds for tuning in tunings),
        "remembered": all(tuning.remembered for tuning in tunings),
        "not_kept": next((tuning.not_kept for tuning in tunings if tuning.not_kept), ""),
        "files": [{"path": str(t.path), "plans": [_plan_json(plan) for plan in t.plans.values()]} for t in tunings],
    }
