"""``onnxferry export``: a run of ours to its artifact, with the parity report that lets it through."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from onnxferry.export.checkpoint_export import export_checkpoint
from onnxferry.export.parity import ParityReport
from onnxferry.runtime.errors import InputError

app = typer.Typer(add_completion=False)


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="a run's folder, or a checkpoint (.pt) of onnxferry train")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the .onnx file to write")],
    name: Annotated[str, typer.Option(help="the model's name in its contract; the file's if not given")] = "",
    description: Annotated[str, typer.Option(help="one line for its contract")] = "",
    model_license: Annotated[str, typer.Option("--license", help="SPDX name for its contract")] = "",
    golden: Annotated[
        str, typer.Option(help="auto: held-out samples from the checkpoint; none; or an .npz with the graph's inputs")
    ] = "auto",
    with_labels: Annotated[bool, typer.Option("--with-labels", help="a recogniser's class names as a string output too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the parity report as one JSON document on stdout")] = False,
) -> None:
    """Carry a trained model to one ONNX file that is proved to do the same, or write nothing.

    Examples:

      onnxferry export runs/cnn -o digits.onnx

      onnxferry export runs/cnn/best.pt -o digits.onnx --with-labels --golden none
    """
    console = Console(stderr=True, quiet=as_json)
    with console.status("exporting, and comparing with the source at shapes it was not traced at …"):
        report = export_checkpoint(
            source,
            out,
            name=name or None,
            description=description,
            license=model_license,
            golden=_goldens(golden),
            with_labels=with_labels,
            command=["onnxferry", *sys.argv[1:]],
        )
    if as_json:
        sys.stdout.write(json.dumps({"out": str(out), "bytes": out.stat().st_size, "parity": report.summary()}) + "\n")
        return
    show(report, out)
    path = shlex.quote(str(out))
    sys.stdout.write(f"\nNext:\n  onnxferry check {path}\n  onnxferry inspect {path}\n")


def _goldens(given: str) -> bool | list[dict[str, np.ndarray]]:
    if given in ("auto", "none"):
        return given == "auto"
    path = Path(given)
    if not path.exists():
        raise InputError(f"--golden {given}: expected auto, none, or an .npz file that exists")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [{key: np.asarray(arrays[key]) for key in arrays.files}]
    except (ValueError, OSError, AttributeError) as error:
        raise InputError(f"--golden {path.name}: not an .npz file of plain arrays ({error})") from error


def show(report: ParityReport, out: Path) -> None:
    """The parity table, on stdout."""
    summary: dict[str, Any] = report.summary()
    table = Table(title=f"{out.name}: does what its source does", title_justify="left")
    for column in ("output", "elements", "largest difference", "allowed", "decisions changed"):
        table.add_column(column, justify="left" if column == "output" else "right")
    for name, output in summary["outputs"].items():
        decisions = f"{output['decisions_changed']} of {output['decisions']}" if output["decisions"] else ""
        table.add_row(
            name, str(output["elements"]), f"{output['max_abs']:.1e}", f"{output['atol']:.0e} + {output['rtol']:.0e} × |value|", decisions
        )
    console = Console()
    console.print(table)
    compared = f"{summary['cases']} inputs compared, {summary['untraced_shapes']} of them at sizes never traced"
    console.print(f"{compared}; {out.stat().st_size / 1e6:.2f} MB", highlight=False)
