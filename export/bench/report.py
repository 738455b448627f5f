"""Benchmark results: saved as JSON row by row, as a table, and as a chart."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxferry.export.bench.results import Row, row_from_document
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_json, written_whole
from onnxferry.runtime.machine.cpu import available_cpus, cpu_name

SCHEMA = 1


_DERIVED = ("best_peer", "ratio", "undisturbed_ratio", "disturbed")


@dataclass
class Results:
    """All results so far. Rows by model, batch and threads; a row that is measured again replaces the older one."""

    machine: Mapping[str, Any]
    rows: dict[tuple[str, int, str], Row] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # further figures, by name

    def add(self, row: Row) -> None:
        self.rows[row.key] = row

    def document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "rows": [{**row.document(), **{name: getattr(row, name) for name in _DERIVED}} for row in self.rows.values()],
            "geometric_means": {f"batch {batch}, {threads} threads": mean for (batch, threads), mean in geometric_means(self).items()},
            **self.more,
        }

    def save(self, path: Path) -> None:
        """Writes the file atomically."""
        write_json(path, self.document(), indent=1)


def load_results(path: Path) -> Results:
    """What an earlier run saved. Raises InputError for a file that is not a result, or is of another machine."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise InputError(f"{path} has schema {document['schema']!r}, this version reads {SCHEMA}; measure again without --resume")
        entries = [{k: v for k, v in entry.items() if k not in _DERIVED} for entry in document["rows"]]
        rows = [row_from_document(entry) for entry in entries]
        known = ("schema", "machine", "rows", "geometric_means")
        results = Results(dict(document["machine"]), {row.key: row for row in rows}, {k: v for k, v in document.items() if k not in known})
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); start without --resume") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a result of onnxferry bench ({type(error).__name__}: {error}); give another file") from error
    here = machine()
    other = next((key for key in {**here, **results.machine} if here.get(key) != results.machine.get(key)), None)
    if other is not None:
        raise InputError(
            f"{path} was measured on another machine ({other}: {results.machine.get(other)}, here {here.get(other)}): "
            "times cannot be mixed; give another --json file"
        )
    return results


def machine() -> dict[str, Any]:
    """The machine and the versions that times depend on."""
    return {
        "cpu": cpu_name(),
        "cores": available_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxferry": version("onnxferry"),
    }


def geometric_mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.exp(math.fsum(map(math.log, found)) / len(found)) if found else math.nan


def geometric_means(results: Results) -> dict[tuple[int, str], float]:
    """Geometric means of the ratios to the best peer, by batch and threads."""
    groups: dict[tuple[int, str], list[float]] = {}
    for row in results.rows.values():
        if row.ratio is not None:
            groups.setdefault((row.batch, row.threads), []).append(row.ratio)
    return {key: geometric_mean(ratios) for key, ratios in sorted(groups.items())}


def duration(seconds: float, like: float | None = None) -> str:
    """Three digits in a suitable unit: ``412 µs``. ``like``: the number alone, in the unit for that duration."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1.0, "s")):
        if (seconds if like is None else like) * factor < 1000 or unit == "s":
            value = seconds * factor
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{f' {unit}' if like is None else ''}"
    raise AssertionError("the last unit takes every duration")


def table_rows(row: Row) -> list[tuple[str, ...]]:
    """For each that was timed: contender, precision, median, spread in the median's unit, throughput, ratio to the best peer."""
    best = row.best_peer
    lines: list[tuple[str, ...]] = []
    for name, measured in row.contenders.items():
        if measured.median_s is None:
            continue
        rate = row.batch * (row.bytes_per_run or 1) / measured.median_s
        relative = _relative(row, name)
        ratio = "" if relative is None else "best peer" if name == best else f"{relative:.2f} ×"
        spread = " … ".join(duration(edge or 0.0, like=measured.median_s) for edge in (measured.p10_s, measured.p90_s))
        lines.append((name, measured.precision, duration(measured.median_s), spread, f"{rate:,.0f}", ratio))
    return lines


def remarks(row: Row) -> list[str]:
    """A line for each that was not timed, with the reason, and for each of reduced precision, with its error; and one where the machine was
    busy.
    """
    lines: list[str] = []
    for name, measured in row.contenders.items():
        if measured.median_s is None:
            lines.append(f"{name} {measured.status}: {measured.words}")
        elif measured.precision != "float32":
            lines.append(f"{name}, {measured.precision}: {measured.words}")
    if row.disturbed:
        ratio = row.undisturbed_ratio
        fastest = f"; by the fastest tenth of the runs, onnxferry is {ratio:.2f} × the best peer" if ratio is not None else ""
        lines.append(
            f"the machine was busy: times of the same run differ too much for these figures to be trusted; measure again later{fastest}"
        )
    return lines


def row_title(model: str, batch: int, threads: str) -> str:
    return f"{model}, batch {batch}, {'1 thread' if threads == '1' else f'{threads} threads'}"


def save_plot(results: Results, path: Path) -> None:
    """A bar for each contender in each row: its speed relative to the best peer.

    Raises InputError if nothing was timed, or for a file type that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in results.rows.values() if row.best_peer is not None]
    if not rows:
        raise InputError("nothing was timed, so there is nothing to draw")
    names = list(dict.fromkeys(name for row in rows for name in row.contenders))
    figure = Figure(figsize=(9, 1.2 + 0.16 * len(names) * len(rows) + 0.25 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        drawn = [(at, _relative(row, name)) for at, row in enumerate(rows)]
        bars = [(at + index * height, value) for at, value in drawn if value is not None]
        axes.barh([at for at, _ in bars], [value for _, value in bars], height=height * 0.92, label=name)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks([at + 0.4 - height / 2 for at in range(len(rows))], [row_title(*row.key) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the best peer (longer is faster)")
    facts = results.machine
    axes.set_title(f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}", fontsize=10)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    try:
        with written_whole(path) as part:
            figure.savefig(part, dpi=110)
    except ValueError as error:
        raise InputError(f"{path.name} is not an image file that matplotlib can write: {error}") from error


def _relative(row: Row, name: str) -> float | None:
    best, measured = row.best_peer, row.contenders.get(name)
    if best is None or measured is None or measured.median_s is None:
        return None
    theirs = row.contenders[best].median_s
    return None if theirs is None else theirs / measured.median_s


def wanted_rows(
    results: Results, sha256: str, model: str, batches: Sequence[int], threads: str, contenders: Sequence[str], rounds: int
) -> list[int]:
    """Batches that are not measured yet: without a row of this file, or with one that lacks a contender.

    If ``rounds`` asks for times, a contender that was only verified counts as missing, and one that was skipped always does.
    """
    missing = []
    for batch in batches:
        row = results.rows.get((model, batch, threads))
        entries = [row.contenders.get(name) if row is not None and row.sha256 == sha256 else None for name in contenders]
        if any(entry is None or (rounds > 0 and entry.status == "right") or entry.words.startswith("skipped: ") for entry in entries):
            missing.append(batch)
    return missing
