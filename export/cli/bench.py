"""``onnxferry bench``: how fast a model runs here, beside what a user would pick instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onnxferry.export.bench.contenders.base import CONTENDERS, ONE_STEP, OURS, PEERS, installed
from onnxferry.export.bench.footprint import can_start, cold_start, sizes_of
from onnxferry.export.bench.profile.profile import open_as_tuned, profile
from onnxferry.export.bench.profile.roofline import Peaks, measure_peaks, roofline_of
from onnxferry.export.bench.race import Bench
from onnxferry.export.bench.report import Results, load_results, machine, row_title, save_plot, wanted_rows
from onnxferry.export.bench.verdicts import shipped_rows
from onnxferry.export.bench.workloads import MADE, BenchModel, bench_model, make_job
from onnxferry.export.cli.plots import check_plot
from onnxferry.export.cli.print_bench import print_profile, print_results, print_roofline, print_verdicts
from onnxferry.runtime.cli.console import command, new_app, plain, print_next, stderr, stdout
from onnxferry.runtime.errors import InputError, MissingExtraError
from onnxferry.runtime.files import UNREADABLE, read_npz

app = new_app()


BATCHES = (1, 8, 64)


QUICK = 3, 0.1
"""Rounds and seconds of --quick."""


@app.command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]…",
            help=f".onnx files, shipped models (NAME.decoder: the second half of an autoencoder), or {', '.join(MADE)}.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[bool, typer.Option("--suite", help="All shipped models, and those that are made for measuring.")] = False,
    batch: Annotated[list[int] | None, typer.Option(help="Rows at once; repeat for more. 1, 8 and 64 if not given.")] = None,
    threads: Annotated[
        list[str] | None, typer.Option(help="1, all, or another number; repeat for more. all, with --suite 1 and all, if not given.")
    ] = None,
    peers: Annotated[
        list[str] | None, typer.Option(help=f"Against whom, of {', '.join(PEERS)}; repeat, or part by commas. All that are installed.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Turns of every contender. 0: check all answers, time nothing.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.001, max=60, help="That a turn takes.")] = 0.2,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK[0]} rounds of {QUICK[1]} s.")] = False,
    cold: Annotated[bool, typer.Option("--cold-start", help="Also time fresh processes to their first answer.")] = False,
    sizes: Annotated[bool, typer.Option("--size", help="Also count the bytes that are installed for each.")] = False,
    profiled: Annotated[bool, typer.Option("--profile", help="Instead, show where our engine's time goes, and what bounds it.")] = False,
    trace: Annotated[Path | None, typer.Option(help="With --profile: keep the trace, for ui.perfetto.dev.", show_default=False)] = None,
    feeds: Annotated[Path | None, typer.Option(help="An .npz, an array an input, to make feeds of.", show_default=False)] = None,
    module: Annotated[str, typer.Option(help="pkg.module:make_model, the PyTorch network of a file that is not ours.")] = "",
    weights: Annotated[str, typer.Option(help="Its state dict, where the weights are not to be taken from the file.")] = "",
    results_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Keep results here, row by row.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --json FILE: measure what it lacks.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", "--picture", help="Draw a bar chart, .png or .svg.", show_default=False)] = None,
) -> None:
    """Measure models beside bare ONNX Runtime, OpenVINO and PyTorch, on the CPU.

    Each in a process of its own, in turns; nobody is timed whose answers are wrong. Nothing else should run meanwhile.
    With --profile: our engine's time by operator, and the floor that this machine's arithmetic and memory, measured then, leave for it.

    ```
    onnxferry bench digits --quick
    onnxferry bench digits fashion --batch 1 --batch 64 --threads 1 --json results.json --plot results.png
    onnxferry bench mine.onnx --module mypkg.nets:make --weights mine.pt --peers onnxruntime,torch
    onnxferry bench --suite --json suite.json --resume
    onnxferry bench digits --batch 1 --profile --trace trace.json
    ```
    """
    names = list(dict.fromkeys([*(models or ()), *((*shipped_rows(), *MADE) if suite else ())]))
    if not names:
        raise InputError("name a model to measure, such as digits, or give --suite")
    chosen, batches = _contenders(peers), _batches(batch)
    counts = _threads(threads, ("1", "all") if suite else ("all",))
    results = _start(results_file, resume)
    given = _feeds(feeds)
    if profiled and (results_file is not None or plot is not None):
        raise InputError("--profile prints what it finds; --json and --plot keep a race: give the one or the other")
    if trace is not None and not profiled:
        raise InputError("--trace keeps what --profile measures: give both")
    if trace is not None and (len(names), len(batches), len(counts)) != (1, 1, 1):
        raise InputError("a trace is of one model at one --batch and one --threads")
    check_plot(plot)
    wanted = [bench_model(name, module, weights) for name in names]
    if profiled:
        _profile(wanted, batches, counts, given, trace)
        return
    measuring = Bench(*QUICK, given) if quick else Bench(rounds, seconds, given)

    # Kept after every row: a benchmark takes long, and an interrupted one goes on with --resume.
    def keep() -> None:
        if results_file is not None:
            results.save(results_file)

    with stderr().status("opening") as status:
        say: Callable[[str], None] = lambda line: status.update(plain(line))  # noqa: E731
        for model in wanted:
            _race(model, batches, counts, chosen, measuring, results, resume, say, keep)
            if cold:
                _cold_starts(model, chosen, given, results, say)
                keep()
    if sizes:
        results.more["installed_size"] = sizes_of([name for name in chosen if name not in (ONE_STEP, "openvino-f32", "torch-compile")])
        keep()
    print_results(results, stdout())
    if suite:
        print_verdicts(results, stdout())
    if plot is not None:
        save_plot(results, plot)
        stdout().print(f"{plain(plot)} written")
    print_next(command("bench", names[0], "--batch", batches[0], "--threads", counts[0], "--profile"))


def _race(
    model: BenchModel,
    batches: Sequence[int],
    counts: Sequence[str],
    chosen: Sequence[str],
    measuring: Bench,
    results: Results,
    resume: bool,
    say: Callable[[str], None],
    keep: Callable[[], None],
) -> None:
    contenders = [name for name in chosen if name != ONE_STEP or model.writes]
    sizes = [batch for batch in batches if batch == 1 or model.name != "one-node"]  # its batch is fixed
    for count in counts:
        left = wanted_rows(results, model.sha256, model.name, sizes, count, contenders, measuring.rounds) if resume else sizes
        if left:
            for row in measuring.rows(model, left, count, contenders, say):
                results.add(row)
                keep()


def _cold_starts(
    model: BenchModel, chosen: Sequence[str], given: dict[str, np.ndarray] | None, results: Results, say: Callable[[str], None]
) -> None:
    feed = make_job(model, 1, given, count=1).feeds[0]
    found = results.more.setdefault("cold_start", {}).setdefault(model.name, {})
    for name in ("numpy", *chosen):
        if can_start(name, model):
            say(f"{model.name}: cold start of {name}")
            found[name] = cold_start(name, model, feed).median_s


def _profile(
    wanted: Sequence[BenchModel], batches: Sequence[int], counts: Sequence[str], given: dict[str, np.ndarray] | None, trace: Path | None
) -> None:
    peaks: dict[int, Peaks] = {}
    for model in wanted:
        for batch in batches:
            job = make_job(model, batch, given)
            for count in counts:
                with open_as_tuned(model.path, job.feeds[0], None if count == "all" else int(count)) as engine:
                    found = profile(engine, job.feeds, trace)
                    threads = engine.threads
                if threads not in peaks:
                    peaks[threads] = measure_peaks(threads)
                print_profile(row_title(model.name, batch, count), found, stdout())
                print_roofline(roofline_of(found, peaks[threads]), found.work, peaks[threads], stdout())
    if trace is not None:
        stdout().print(f"{plain(trace)} written; open it at https://ui.perfetto.dev")


def _contenders(peers: Sequence[str] | None) -> list[str]:
    """Ours first. Raises InputError for an unknown name, MissingExtraError for one that was asked for and is not installed."""
    if peers is None:
        return [name for name in (OURS, *PEERS, ONE_STEP) if installed(name)]
    names = [name.strip() for entry in peers for name in entry.split(",")]
    for name in names:
        if name not in CONTENDERS:
            raise InputError(f"unknown peer {name!r}; expected some of {', '.join(n for n in CONTENDERS if n != OURS)}")
        if not installed(name):
            raise MissingExtraError(CONTENDERS[name][1], "bench", f"measuring against {name}")
    return list(dict.fromkeys([OURS, *names]))


def _batches(batch: Sequence[int] | None) -> list[int]:
    batches = list(dict.fromkeys(batch or BATCHES))
    for number in batches:
        if not 1 <= number <= 65536:
            raise InputError(f"a batch must be from 1 to 65536 rows, got {number}")
    return batches


def _threads(threads: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    for count in threads or ():
        if count != "all" and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 1024):
            raise InputError(f"threads must be a whole number from 1 to 1024, or all, got {count!r}")
    return list(dict.fromkeys(threads or default))


def _feeds(path: Path | None) -> dict[str, np.ndarray] | None:
    if path is None:
        return None
    try:
        return read_npz(path)
    except UNREADABLE as error:
        raise InputError(f"{path} is no .npz of arrays ({error}); write one with numpy.savez(path, name=array)") from error


def _start(path: Path | None, resume: bool) -> Results:
    if resume and path is None:
        raise InputError("--resume goes on with a file of results: name it with --json FILE")
    if path is not None and resume and path.exists():
        return load_results(path)
    return Results(machine())
