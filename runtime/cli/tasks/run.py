"""``onnxferry run``: run any model once, on whatever there is."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

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
)
from onnxferry.runtime.cli.tasks.feed_arguments import FORMS, feeds_from_arguments
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import check_place, write_json, write_text_whole, written_whole
from onnxferry.runtime.onnx_file.summary import raised_limits
from onnxferry.runtime.tasks.loading import load

app = new_app()


_SHOWN = 6  # values of an output that the table shows


_ENDINGS = (".npz", ".csv", ".json")


@app.command()
def run(
    model: ModelArgument,
    feeds: Annotated[
        list[str],
        typer.Option("--feeds", "-f", metavar="FILE|NAME=VALUE", help=f"{FORMS}. Repeat for more inputs.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Write all outputs: .npz, .csv (a line for each row) or .json.", show_default=False
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run any model once.

    Inputs come from arrays (.npz, .npy), the columns of a table (.csv, separated by comma, semicolon or tab), .json, an image for an
    input of pixels, or single values. Numbers are converted where no value changes; names that do not fit are listed with those that do.

    ```
    onnxferry run model.onnx --feeds x.npz -o y.npz
    onnxferry run wine.onnx --feeds rows.csv -o answers.csv
    onnxferry run shop.onnx --feeds age=34 --feeds city=Bonn
    onnxferry run unet.onnx --feeds photo.png -o mask.npz
    ```

    With --json: model, device, outputs (by name: dtype, shape, values), labels (of class_index, where the model has labels), notes, out.
    """
    if out is not None:
        if out.suffix.lower() not in _ENDINGS:
            raise InputError(f"--out ends in {', '.join(_ENDINGS)}, got {out.name!r}")
        check_place(out)
    with load(model, device=device, threads=threads, limits=raised_limits(limit or ())) as opened:
        ready, notes = feeds_from_arguments(feeds, opened.engine.inputs, opened.engine.optional_inputs)
        outputs = opened.run(ready)
        labels = _labels(opened.labels, outputs)
        used = opened.engine.device
    if out is not None:
        _write(out, outputs, labels)
    if as_json:
        print_json(
            {"model": model, "device": used, "outputs": _document(outputs), "labels": labels, "notes": notes, "out": out and str(out)}
        )
        return
    for note in notes:
        stderr().print(f"note: {plain(note)}", soft_wrap=True)
    _print(outputs, labels)
    if out is not None:
        stdout().print(f"outputs: {plain(out)}", soft_wrap=True)
    print_next(command("inspect", model))


def _labels(labels: tuple[str, ...], outputs: Mapping[str, Any]) -> list[str] | None:
    """The names of what ``class_index`` holds."""
    index = outputs.get("class_index")
    if not labels or not isinstance(index, np.ndarray) or index.ndim != 1 or index.dtype.kind not in "iu":
        return None
    return [labels[i] if 0 <= i < len(labels) else str(i) for i in index.tolist()]


def _document(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.tolist()}
        if isinstance(array, np.ndarray)
        else {"values": array}
        for name, array in outputs.items()
    }


def _write(out: Path, outputs: Mapping[str, Any], labels: list[str] | None) -> None:
    suffix = out.suffix.lower()
    if suffix == ".json":
        write_json(out, {"outputs": _document(outputs), "labels": labels})
        return
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"the output {name!r} is no array, which {suffix} cannot hold; use --out FILE.json")
    if suffix == ".npz":
        named = {name: array.astype(str) if array.dtype.kind == "O" else array for name, array in outputs.items()}
        with written_whole(out) as part:
            np.savez(part, **named)
        return
    write_text_whole(out, _csv(outputs, labels))


def _csv(outputs: Mapping[str, np.ndarray], labels: list[str] | None) -> str:
    """A line for each row; an output of several numbers a row takes several columns."""
    rows = {len(array) for array in outputs.values() if array.ndim}
    if len(rows) != 1 or any(array.ndim not in (1, 2) for array in outputs.values()):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
        raise InputError(f"these outputs are no rows of one table: {shapes}; use --out FILE.npz or FILE.json")
    names: list[str] = [] if labels is None else ["label"]
    columns: list[list[Any]] = [] if labels is None else [labels]
    for name, array in outputs.items():
        flat = array.reshape(len(array), -1)
        names += [name] if flat.shape[1] == 1 else [f"{name}_{place}" for place in range(flat.shape[1])]
        columns += flat.T.tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _print(outputs: Mapping[str, Any], labels: list[str] | None) -> None:
    table = new_table("output", "dtype", "shape", "values")
    for name, array in outputs.items():
        if isinstance(array, np.ndarray):
            shown = array.ravel()[:_SHOWN].tolist()
            words = ", ".join(f"{value:.6g}" if isinstance(value, float) else plain(value) for value in shown)
            more = " …" if array.size > _SHOWN else ""
            table.add_row(plain(name), array.dtype.name, plain(str(array.shape)), f"{words}{more}")
        else:
            table.add_row(plain(name), type(array).__name__, "", plain(str(array)[:200]))
    if labels is not None:
        table.add_row("label", "", f"({len(labels)},)", f"{', '.join(map(plain, labels[:_SHOWN]))}{' …' if len(labels) > _SHOWN else ''}")
    stdout().print(table)
