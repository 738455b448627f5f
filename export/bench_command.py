"""``onnxferry bench``: how fast a model runs here, beside what a user would pick instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onnxferry.export.bench_contenders import CONTENDERS, OURS, PEERS, installed
from onnxferry.export.bench_jobs import bench_model
from onnxferry.export.bench_report import Results, load_results, machine, row_title, save_picture, table_rows, untimed, wanted_rows
from onnxferry.export.reference_bench import Bench, Row
from onnxferry.runtime.console import command, facts_table, new_app, new_table, plain, print_next, stderr, stdout
from onnxferry.runtime.errors import InputError, MissingExtraError

app = new_app()

BATCHES = (1, 8, 64)


@app.command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL…", help="Shipped models (digits-ae.decoder is the second half of digits-ae) or .onnx files.", show_default=False
        ),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Rows at once; repeat for more. 1, 8 and 64 if not given.")] = None,
    threads: Annotated[list[str] | None, typer.Option(help="1, all, or another number; repeat for more. all if not given.")] = None,
    peers: Annotated[
        list[str] | None, typer.Option(help=f"Against whom, of {', '.join(PEERS)}; repeat or part by commas. All that are installed.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Turns of every contender. 0: check all answers, time nothing.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.001, max=60, help="That a turn takes.")] = 0.2,
    quick: Annotated[bool, typer.Option("--quick", help="3 rounds of 0.1 s.")] = False,
    feeds: Annotated[Path | None, typer.Option(help="An .npz, an array an input, to make feeds of.", show_default=False)] = None,
    module: Annotated[str, typer.Option(help="pkg.module:make_model, the PyTorch network of a file that is not ours.")] = "",
    weights: Annotated[str, typer.Option(help="Its state dict, where the weights are not to be taken from the file.")] = "",
    results_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Keep results here, row by row.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --json FILE: measure what it lacks.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw a bar chart, .png or .svg.", show_default=False)] = None,
) -> None:
    """Measure a model beside bare ONNX Runtime, OpenVINO and PyTorch.

    Each in a process of its own, in turns; nobody is timed whose answers are wrong. Nothing else should run meanwhile.

    ```
    onnxferry bench digits --quick
    onnxferry bench digits fashion --batch 1 --batch 64 --threads 1 --json results.json --picture results.png
    onnxferry bench mine.onnx --module mypkg.nets:make --weights mine.pt --peers onnxruntime,torch
    ```
    """
    chosen = _contenders(peers)
    batches = _batches(batch)
    results = _start(results_file, resume)
    measuring = Bench(3 if quick else rounds, 0.1 if quick else seconds, _feeds(feeds))
    wanted = [bench_model(name, module, weights) for name in models or ()]
    if not wanted:
        raise InputError("name a model to measure, such as digits")
    console = stderr()
    say = console.status("")
    with say:
        for model in wanted:
            for count in _threads(threads):
                left = wanted_rows(results, model.sha256, model.name, batches, count, chosen) if resume else batches
                if left:
                    for row in measuring.rows(model, left, count, chosen, lambda line: say.update(plain(line))):
                        results.add(row)
                        if results_file is not None:
                            results.save(results_file)
    _print(results)
    if picture is not None:
        save_picture(results, picture)
        stdout().print(f"\n{plain(picture)} written")
    print_next(command("bench", *(models or ()), "--json", "results.json", "--picture", "results.png"))


def _contenders(peers: Sequence[str] | None) -> list[str]:
    """Ours first. Raises InputError for an unknown name, MissingExtraError for one that was asked for and is not installed."""
    if peers is None:
        return [name for name in (OURS, *PEERS) if installed(name)]
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


def _threads(threads: Sequence[str] | None) -> list[str]:
    for count in threads or ():
        if count != "all" and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 1024):
            raise InputError(f"threads must be a whole number from 1 to 1024, or all, got {count!r}")
    return list(dict.fromkeys(threads or ("all",)))


def _feeds(path: Path | None) -> dict[str, np.ndarray] | None:
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no .npz of arrays ({error}); write one with numpy.savez(path, name=array)") from error


def _start(path: Path | None, resume: bool) -> Results:
    if resume and path is None:
        raise InputError("--resume goes on with a file of results: name it with --json FILE")
    if path is not None and resume and path.exists():
        return load_results(path)
    return Results(machine())


def _print(results: Results) -> None:
    console = stdout()
    facts = {**results.machine, **{entry.version: "" for row in results.rows.values() for entry in row.contenders.values()}}
    console.print(facts_table(facts))
    for row in results.rows.values():
        _print_row(row)


def _print_row(row: Row) -> None:
    rate = "bytes/s" if row.bytes_per_run else "a second"
    table = new_table(
        "contender", "precision", "median", "10 … 90 %", rate, "as fast as", "answers",
        right=("median", "10 … 90 %", rate, "as fast as"), title=row_title(row),
    )  # fmt: skip
    for cells in table_rows(row):
        table.add_row(*map(plain, cells))
    console = stdout()
    console.print(table)
    for line in untimed(row):
        console.print(plain(line), soft_wrap=True)
