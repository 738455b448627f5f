"""The shipped models, and models made for measuring, beside bare ONNX Runtime, OpenVINO and PyTorch: the figures of the README.

    python tests/bench/bench_models.py                         # all of them, with verdicts on what this project holds itself to
    python tests/bench/bench_models.py digits --batch 1 --threads 1 --rounds 5 --seconds 0.1
    python tests/bench/bench_models.py lstm-2x512 resnet18 --batch 1
    python tests/bench/bench_models.py --json all.json --resume
    python tests/bench/bench_models.py resnet18 --batch 1 --profile

As ``onnxferry bench``, with more: PyTorch runs the network that is rebuilt from the file, a text generator is held to one step of its
layers, cold starts (``--cold-start``) and installed sizes (``--size``) are measured. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from onnxferry.export.bench.contenders.base import OURS, completed, installed
from onnxferry.export.bench.race import Bench, race
from onnxferry.export.bench.report import Results, load_results, machine
from onnxferry.export.bench.workloads import BenchModel, make_job
from onnxferry.export.cli.bench import profile_models
from onnxferry.export.cli.print_bench import print_results
from onnxferry.runtime.cli.console import new_table, plain, stderr, stdout
from onnxferry.runtime.formats import human_bytes
from scoreboard.contenders import ALL, ONE_STEP, TABLE
from scoreboard.footprint import can_start, cold_start, sizes_of
from scoreboard.models import MADE, scoreboard_model, shipped_rows
from scoreboard.verdicts import Verdict, verdicts


def print_verdicts(results: Results, console: Console) -> None:
    """By the number of threads of the rows that they are read from."""
    for threads in dict.fromkeys(row.threads for row in results.rows.values()):
        table = new_table(
            "figure", "must", "aim", "measured", "", title=f"Figures, {'1 thread' if threads == '1' else f'{threads} threads'}"
        )
        for verdict in verdicts(results, threads):
            table.add_row(plain(verdict.what), verdict.must, verdict.aim, plain(verdict.value), verdict_word(verdict))
        console.print(table)


def verdict_word(verdict: Verdict) -> str:
    return "open" if verdict.met is None else "met" if verdict.met else "missed"


def print_cold_starts(starts: Mapping[str, Mapping[str, float]], console: Console) -> None:
    for model, entry in starts.items():
        table = new_table("contender", "seconds", right=("seconds",), title=f"{plain(model)}: from starting Python to the first answer")
        for name, seconds in entry.items():
            table.add_row(plain(name), f"{seconds:.2f}")
        console.print(table)


def print_sizes(sizes: Mapping[str, Any], console: Console) -> None:
    if not sizes:
        return
    table = new_table("contender", "installed", "most of it", right=("installed",), title="Installed, with what it requires")
    for name, entry in sizes.items():
        largest = sorted(entry["parts"].items(), key=lambda part: -part[1])[:3]
        words = ", ".join(f"{part} {human_bytes(size)}" for part, size in largest)
        table.add_row(plain(name), human_bytes(entry["bytes"]), plain(words))
    console.print(table)


def measure_cold_starts(model: BenchModel, chosen: Sequence[str], results: Results) -> None:
    (feed,) = completed(model.path, make_job(model, 1, count=1).feeds)  # peers know no defaults
    found = results.more.setdefault("cold_start", {}).setdefault(model.name, {})
    for name in ("numpy", *chosen):
        if can_start(name, model):
            found[name] = cold_start(name, model, feed).median_s


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"shipped models, NAME.decoder, or {', '.join(MADE)}; all if not given")
    parser.add_argument("--batch", type=int, action="append", help="repeat for more; 1, 8 and 64 if not given")
    parser.add_argument("--threads", action="append", help="1, all, or a number; repeat for more; all, of all models 1 and all")
    parser.add_argument("--peers", help="names with commas between; all that are installed if not given")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="that a turn takes")
    parser.add_argument("--json", type=Path, help="keep results here, row by row")
    parser.add_argument("--resume", action="store_true", help="measure what --json FILE lacks")
    parser.add_argument("--cold-start", action="store_true", help="also time fresh processes to their first answer")
    parser.add_argument("--size", action="store_true", help="also count the bytes that are installed for each")
    parser.add_argument("--profile", action="store_true", help="instead, show where the time goes, and the roofline")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    models = [scoreboard_model(name) for name in arguments.models or (*shipped_rows(), *MADE)]
    batches = arguments.batch or [1, 8, 64]
    counts = arguments.threads or (["all"] if arguments.models else ["1", "all"])
    if arguments.profile:
        profile_models(models, batches, counts)
        return
    asked = [OURS, *arguments.peers.split(",")] if arguments.peers else ALL
    chosen = [name for name in asked if installed(TABLE[name])]
    kept = arguments.json is not None and arguments.resume and arguments.json.exists()
    results = load_results(arguments.json) if kept else Results(machine())

    def keep() -> None:
        if arguments.json is not None:
            results.save(arguments.json)

    measuring = Bench(arguments.rounds, arguments.seconds, table=TABLE)
    with stderr().status("opening") as status:
        for model in models:
            contenders = [name for name in chosen if name != ONE_STEP or model.writes]
            fitting = [batch for batch in batches if batch == 1 or model.name != "one-node"]  # its batch is fixed
            say = lambda line: status.update(plain(line))  # noqa: E731
            race(measuring, model, fitting, counts, contenders, results, resume=arguments.resume, say=say, keep=keep)
            if arguments.cold_start:
                measure_cold_starts(model, contenders, results)
                keep()
    if arguments.size:
        results.more["installed_size"] = sizes_of([name for name in chosen if name not in (ONE_STEP, "openvino-f32", "torch-compile")])
        keep()
    print_results(results, stdout())
    print_cold_starts(results.more.get("cold_start", {}), stdout())
    print_sizes(results.more.get("installed_size", {}), stdout())
    print_verdicts(results, stdout())


if __name__ == "__main__":
    main()
