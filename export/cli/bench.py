"""``onnxferry bench``: how fast a model runs on this machine, beside other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnxferry.export.bench.contenders.base import CONTENDERS, NEEDS_NETWORK, OURS, PEERS, installed
from onnxferry.export.bench.profile.profile import open_as_tuned, profile
from onnxferry.export.bench.profile.roofline import Peaks, measure_peaks, roofline_of
from onnxferry.export.bench.race import WITHIN, Bench, race
from onnxferry.export.bench.report import Results, load_results, machine, row_title, save_plot
from onnxferry.export.bench.workloads import BenchModel, bench_model, make_job
from onnxferry.export.cli.plots import check_plot
from onnxferry.export.cli.print_bench import print_profile, print_results, print_roofline
from onnxferry.runtime.cli.console import JsonOption, command, new_app, plain, print_json, print_next, stderr, stdout
from onnxferry.runtime.errors import InputError, MissingExtraError
from onnxferry.runtime.files import UNREADABLE, read_npz

app = new_app()


BATCHES = (1, 8, 64)


QUICK = 3, 0.1
"""Rounds and seconds of --quick."""


@app.command()
def bench(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help=".onnx files or shipped models (NAME.decoder: the second half of an autoencoder)."),
    ],
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes; repeat for more. 1, 8 and 64 if not given.")] = None,
    threads: Annotated[list[str] | None, typer.Option(help="1, all, or another number; repeat for more. all if not given.")] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(help=f"Some of {', '.join(PEERS)}; repeat, or separate by commas. All that are installed."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Turns of each backend. 0: verify all outputs, time nothing.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.001, max=60, help="Duration of a turn.")] = 0.2,
    within: Annotated[
        float, typer.Option(min=1, help="Seconds that a row may take, about: slow models get fewer inputs and rounds, or are skipped.")
    ] = WITHIN,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK[0]} rounds of {QUICK[1]} s.")] = False,
    profiled: Annotated[bool, typer.Option("--profile", help="Instead, show where the engine's time goes, and what bounds it.")] = False,
    trace: Annotated[Path | None, typer.Option(help="With --profile: keep the trace, for ui.perfetto.dev.", show_default=False)] = None,
    feeds: Annotated[Path | None, typer.Option(help="An .npz with an array for each input.", show_default=False)] = None,
    module: Annotated[str, typer.Option(help="pkg.module:make_model, the model's PyTorch network, to measure PyTorch too.")] = "",
    weights: Annotated[str, typer.Option(help="Its state dict; the weights are taken from the file if not given.")] = "",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.json", help="Save results here, row by row.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --out FILE: measure what it lacks.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", "--picture", help="Draw a bar chart, .png or .svg.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure models on the CPU beside bare ONNX Runtime, OpenVINO and, with --module, PyTorch.

    Each backend runs in its own process, in turns, and is timed only if its outputs are correct. Nothing else should run meanwhile.
    Before each row it says what the row is expected to take, time and memory. A row that would take longer than --within is skipped, and so
    is a backend for which there is not enough memory.
    With --profile: the engine's time by operator, and its roofline: the time that this machine's peak arithmetic and memory speed, measured
    then, allow.

    ```
    onnxferry bench digits --quick
    onnxferry bench digits fashion --batch 1 --batch 64 --threads 1 -o results.json --plot results.png
    onnxferry bench mine.onnx --module mypkg.nets:make --weights mine.pt --peers onnxruntime,torch
    onnxferry bench digits --batch 1 --profile --trace trace.json
    ```

    With --json: schema, machine, rows (model, batch, threads, contenders with their times in seconds, best_peer, ratio, disturbed),
    geometric_means; with --profile: profiles (model, batch, threads, and what the tables show).
    """
    mistaken = next((name for name in models if as_json and name.endswith(".json")), None)
    if mistaken is not None:
        raise InputError(f"--json prints to stdout and takes no file; save the results with -o {mistaken}")
    names = list(dict.fromkeys(models))
    chosen, batches, counts = _contenders(peers, module), _batches(batch), _threads(threads)
    results = _start(out, resume)
    given = _feeds(feeds)
    if profiled and (out is not None or plot is not None):
        raise InputError("--profile only prints, with --json as JSON: --out and --plot save a comparison; leave them or --profile out")
    if trace is not None and not profiled:
        raise InputError("--trace saves what --profile measures, so it needs --profile")
    if trace is not None and (len(names), len(batches), len(counts)) != (1, 1, 1):
        raise InputError("--trace takes one model, one --batch and one --threads")
    check_plot(plot)
    wanted = [bench_model(name, module, weights) for name in names]
    if profiled:
        profiles = profile_models(wanted, batches, counts, given, trace, quiet=as_json)
        if as_json:
            print_json({"profiles": profiles})
        return
    measuring = Bench(*QUICK, given, within=within) if quick else Bench(rounds, seconds, given, within=within)

    # Saved after every row: a benchmark takes long, and --resume continues an interrupted one.
    def keep() -> None:
        if out is not None:
            results.save(out)

    with stderr().status("opening") as status:
        for model in wanted:
            race(
                measuring,
                model,
                batches,
                counts,
                chosen,
                results,
                resume=resume,
                say=lambda line: status.update(plain(line)),
                note=lambda line: None if as_json else stderr().print(plain(line), soft_wrap=True),
                keep=keep,
            )
    if plot is not None:
        save_plot(results, plot)
    if as_json:
        print_json(results.document())
        return
    print_results(results, stdout())
    if plot is not None:
        stdout().print(f"{plain(plot)} written")
    print_next(command("bench", names[0], "--batch", batches[0], "--threads", counts[0], "--profile"))


def profile_models(
    wanted: Sequence[BenchModel],
    batches: Sequence[int],
    counts: Sequence[str],
    given: dict[str, np.ndarray] | None = None,
    trace: Path | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Print, for each model, batch size and number of threads ("all" or a number), where a run's time goes and its roofline.

    Returns the same as JSON values; ``quiet``: without printing.
    """
    documents: list[dict[str, Any]] = []
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
                roof = roofline_of(found, peaks[threads])
                bound = {**asdict(roof), "roofline_s": roof.roofline_s, "ratio": roof.ratio}
                documents.append({"model": model.name, "batch": batch, "threads": threads, **asdict(found), "roofline": bound})
                if not quiet:
                    print_profile(row_title(model.name, batch, count), found, stdout())
                    print_roofline(roof, found.ops, peaks[threads], stdout())
    if trace is not None and not quiet:
        stdout().print(f"{plain(trace)} written; open it at https://ui.perfetto.dev")
    return documents


def _contenders(peers: Sequence[str] | None, module: str) -> list[str]:
    """onnxferry first. By default all that are installed, PyTorch only with ``module``.

    Raises InputError for an unknown name or for PyTorch without ``module``, MissingExtraError for a peer that is not installed.
    """
    if peers is None:
        return [name for name in (OURS, *PEERS) if installed(CONTENDERS[name]) and (module or name not in NEEDS_NETWORK)]
    names = [name.strip() for entry in peers for name in entry.split(",")]
    for name in names:
        if name not in CONTENDERS:
            raise InputError(f"unknown peer {name!r}; expected some of {', '.join(n for n in CONTENDERS if n != OURS)}")
        if name in NEEDS_NETWORK and not module:
            raise InputError(f"{name} runs a network, not a file: name the model's with --module pkg.module:make_model")
        if not installed(CONTENDERS[name]):
            raise MissingExtraError(CONTENDERS[name].package, "bench", f"measuring against {name}")
    return list(dict.fromkeys([OURS, *names]))


def _batches(batch: Sequence[int] | None) -> list[int]:
    batches = list(dict.fromkeys(batch or BATCHES))
    for number in batches:
        if not 1 <= number <= 65536:
            raise InputError(f"a batch must be from 1 to 65536 rows, got {number}")
    return batches


def _threads(threads: Sequence[str] | None) -> list[str]:
    for count in threads or ():
        if count != "all" and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 1024):
            raise InputError(f"threads must be a whole number from 1 to 1024, or all, got {count!r}")
    return list(dict.fromkeys(threads or ("all",)))


def _feeds(path: Path | None) -> dict[str, np.ndarray] | None:
    if path is None:
        return None
    try:
        return read_npz(path)
    except UNREADABLE as error:
        raise InputError(f"{path} is not an .npz of arrays ({error}); write one with numpy.savez(path, name=array)") from error


def _start(path: Path | None, resume: bool) -> Results:
    if resume and path is None:
        raise InputError("--resume continues a file of results: name it with --out FILE")
    if path is not None and resume and path.exists():
        return load_results(path)
    return Results(machine())
