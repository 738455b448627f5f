"""``onnxferry diff``: what is different between two .onnx files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from onnxferry.export.graphs.diff import Change, diff_files
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.console import JsonOption, LimitOption, command, new_app, plain, print_json, print_next, stdout
from onnxferry.runtime.onnx_file.summary import raised_limits

app = new_app()


SHOWN = 20
"""Changes of one part that are printed; --json has all of them."""


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="An .onnx file, or the name of a shipped model.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.", show_default=False)],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where they differ.")] = False,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is different between two .onnx files: graph, weights, contract.

    Any ONNX files; nothing is run. Nodes are compared by what they compute, so inner names do not count, and weights that
    only have another name are distinguished from others.

    ```
    onnxferry diff old.onnx new.onnx
    onnxferry diff theirs.onnx ours.onnx --exit-code --json
    ```

    With --json: a, b, same, graph, weights, contract (lists of what, a, b; of weights with other values also differing,
    elements, max_abs), equal_weights, renamed.
    """
    paths = find_model(a), find_model(b)
    found = diff_files(*paths, limits=raised_limits(limit or ()))
    if as_json:
        print_json(
            {
                "a": a,
                "b": b,
                "same": found.same,
                **{part: [_json(change) for change in getattr(found, part)] for part in ("graph", "weights", "contract")},
                "equal_weights": found.equal_weights,
                "renamed": found.renamed,
            }
        )
    else:
        _print("graph", found.graph, "the same")
        renamed = f", {len(found.renamed)} of them under another name" if found.renamed else ""
        _print("weights", found.weights, f"the same ({_tensors(found.equal_weights + len(found.renamed))}{renamed})")
        _print("contract", found.contract, "the same")
        if not found.same:
            print_next(command("inspect", a), command("inspect", b))
    if exit_code and not found.same:
        raise typer.Exit(1)


def _tensors(count: int) -> str:
    return f"{count} tensor" if count == 1 else f"{count} tensors"


def _print(part: str, changes: Sequence[Change], same: str) -> None:
    console = stdout()
    console.print(f"{part}: {f'{len(changes)} differences' if len(changes) > 1 else '1 difference' if changes else same}", style="bold")
    for change in changes[:SHOWN]:
        console.print(f"  {plain(change.words())}", soft_wrap=True)
    if len(changes) > SHOWN:
        console.print(f"  … and {len(changes) - SHOWN} more: --json shows all")


def _json(change: Change) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in dataclasses.asdict(change).items()}
