"""Tables of benchmark results and profiles for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxferry.export.bench.profile.op_counts import OpCounts
from onnxferry.export.bench.profile.profile import Profile, Share
from onnxferry.export.bench.profile.roofline import SIDE, Peaks, Roofline, named
from onnxferry.export.bench.report import Results, duration, geometric_means, remarks, row_title, table_rows
from onnxferry.export.bench.results import Row
from onnxferry.runtime.cli.console import facts_table, new_table, plain
from onnxferry.runtime.formats import human_bytes

SHOWN = 15
"""Rows of a profile that are printed."""


def print_results(results: Results, console: Console) -> None:
    console.print(facts_table({**results.machine, "versions": ", ".join(_versions(results))}))
    for row in results.rows.values():
        _print_row(row, console)
    means = geometric_means(results)
    if means and len(results.rows) > len(means):  # more than one model
        table = new_table("batch", "threads", "geometric mean of times the best peer", right=("batch", "threads"), title="All models here")
        for (batch, threads), mean in means.items():
            table.add_row(str(batch), threads, f"{mean:.2f} ×")
        console.print(table)


def _versions(results: Results) -> list[str]:
    found = {measured.version for row in results.rows.values() for measured in row.contenders.values()}
    return sorted(found - {""})


def _threads(threads: str) -> str:
    return "1 thread" if threads == "1" else f"{threads} threads"


def _print_row(row: Row, console: Console) -> None:
    rate = "bytes/s" if row.bytes_per_run else "rows/s"
    columns = ("contender", "precision", "median", "10 … 90 %", rate, "× best peer")
    table = new_table(*columns, right=columns[2:], title=row_title(*row.key))
    for cells in table_rows(row):
        table.add_row(*map(plain, cells))
    if table.row_count:
        console.print(table)
    else:
        console.print(row_title(*row.key), style="bold")
    for line in remarks(row):
        console.print(f"  {plain(line)}", soft_wrap=True)


def print_profile(title: str, found: Profile, console: Console) -> None:
    console.print(f"{title}: {duration(found.run_s)} a run without the profiler, {duration(found.session_s)} with it", style="bold")
    for head, shares in (("operator", found.operators), ("node", found.nodes)):
        _print_shares(head, shares, console)
    console.print(f"  between operators: {duration(found.between_s)} a run, medians of {found.runs} runs")


def print_roofline(found: Roofline, ops: OpCounts, peaks: Peaks, console: Console) -> None:
    threads = _threads(str(peaks.threads))
    console.print(
        f"  {threads}, measured now: {_giga(peaks.float32)} operations/s in float32, {_giga(peaks.int8)} in 8 bits (a product of {SIDE}³); "
        f"memory is read at {_giga(peaks.memory)}B/s",
        soft_wrap=True,
    )
    for line in roofline_lines(found, ops, peaks.cache_bytes):
        console.print(f"  {plain(line)}", soft_wrap=True)


def roofline_lines(found: Roofline, ops: OpCounts, cache_bytes: int | None) -> list[str]:
    """What a run computes, its roofline time, what bounds it, and what the roofline leaves out."""
    lines = []
    if found.ratio is None:
        lines.append("roofline: none, a run has no multiply-adds that are counted")
    else:
        kinds = ((ops.float32_ops, "in float32"), (ops.int8_ops, "in 8 bits"))
        done = " and ".join(f"{_counted(ops)} operations {kind}" for ops, kind in kinds if ops)
        read = ""
        if ops.weight_bytes:
            fits = cache_bytes is not None and ops.distinct_bytes <= cache_bytes
            where = f" (they fit the last-level cache of {human_bytes(cache_bytes or 0)})" if fits else ""
            again = "" if ops.weight_bytes < 1.01 * ops.distinct_bytes else f", {human_bytes(ops.weight_bytes)} in all"
            read = f", reading {human_bytes(ops.distinct_bytes)} of weights{where} at {_giga(found.weights_rate)}B/s{again}"
        lines.append(f"a run does {done}{read}")
        lines.append(
            f"roofline: {duration(found.roofline_s)}, the larger of {duration(found.arithmetic_s)} of arithmetic and "
            f"{duration(found.weights_s)} of reading weights; a run takes {found.ratio:.1f} × that"
        )
    lines.append(f"bounded by: {found.words()}; {found.kernels:g} operators are launched a run")
    if found.others:
        lines.append(
            f"not in the roofline: {duration(found.other_s)} of {named(found.others)}, and the small operators without multiply-adds"
        )
    return lines


def _giga(value: float) -> str:
    return f"{value / 1e9:.3g} G"


def _counted(ops: float) -> str:
    return f"{ops / 1e9:.3g} G" if ops >= 1e9 else f"{ops / 1e6:.3g} M" if ops >= 1e6 else f"{ops:,.0f}"


def _print_shares(head: str, shares: Sequence[Share], console: Console) -> None:
    table = new_table(head, "calls", "a run", "share", right=("calls", "a run", "share"))
    for share in shares[:SHOWN]:
        table.add_row(plain(share.name), f"{share.calls:g}", duration(share.seconds), f"{share.share:.1%}")
    if len(shares) > SHOWN:
        rest = shares[SHOWN:]
        seconds, part = sum(share.seconds for share in rest), sum(share.share for share in rest)
        table.add_row(f"{len(rest)} others", "", duration(seconds), f"{part:.1%}")
    console.print(table)
