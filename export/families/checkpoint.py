"""A checkpoint of onnxferry to its file: the whole task as one graph, compared on held-out images and at other sizes.

    report = export_checkpoint("runs/digits", "digits.onnx")

Each family says what its graph is, what it is compared on, and what the contract holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from onnxferry.export.options import ExportKeywords, ExportOptions
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.pipeline.export import export_model
from onnxferry.export.source import Plan
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import FAMILIES, imported
from onnxferry.train.loop.checkpoint import load_checkpoint


def export_checkpoint(checkpoint: str | os.PathLike[str], path: str | os.PathLike[str], **options: Unpack[ExportKeywords]) -> ParityReport:
    """Export a checkpoint (a .pt file or its run folder) to an ONNX file that is compared with it, or write nothing.

    ``name``, ``description``, ``license``, ``command``: for the contract.
    ``golden``: True stores held-out inputs from the checkpoint in the file, False none, or the inputs to store instead.
    ``with_labels``: a classifier also has the output ``label``, the class's name as a string, (batch,).
    ``bits``: store a text generator's or translator's weights in 8 bits (matrices, with a scale per row), 16 or 32; they are rounded
    before the comparison. By default as the checkpoint was trained to ship: float16 unless it says otherwise.

    Runs one at a time, as :func:`export_model` does. Raises CheckpointError for a file that is no checkpoint, ParityError (and writes
    no file) if the graph does something else, InputError for an option that the family does not take.
    """
    return export_model(Path(checkpoint), None, path, **options)


def plans(checkpoint: Path, example_inputs: None, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """As the table of ``sources/choose.py`` calls it. An autoencoder is two files."""
    read = load_checkpoint(checkpoint)
    family = FAMILIES[read.family]
    if options.bits is not None and family.kind.returns not in ("text", "translation"):
        raise InputError(
            f"the option bits is for text generators and translators, and this run's family is {read.family!r}; "
            "for 8 bits, see onnxferry optimize"
        )
    found: Sequence[Plan] = imported(family.exporter)(read, options.name or target.stem, options)
    return found
