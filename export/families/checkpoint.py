"""A checkpoint of ours to its artifact: the whole task as one graph, judged on held-out images and on fuzzed shapes.

    report = export_checkpoint("runs/digits", "digits.onnx")

Each family says what its graph is, what it is compared on, and what the contract holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxferry.export.parity.report import ParityReport
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import FAMILIES, imported
from onnxferry.train.loop.checkpoint import load_checkpoint


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    description: str = "",
    license: str = "",
    golden: bool | Sequence[Mapping[str, np.ndarray]] = True,
    with_labels: bool = False,
    command: Sequence[str] = (),
    bits: int | None = None,
) -> ParityReport:
    """Carry a checkpoint (a .pt file or its run folder) to an artifact that is proved to do the same.

    ``golden``: True for held-out images from the checkpoint, False for none, or inputs of your own.
    ``with_labels``: a recogniser also gives ``label``, the class's name as a string, (batch,).
    ``bits``: of a text generator's weights, 8 (matrices, with a scale a row), 16 or 32; they are rounded before they are compared.
    By default as the checkpoint was trained to ship: half precision unless it says otherwise.
    Raises CheckpointError for a file that is none, ParityError (and leaves no file) where the graph does something else.
    """
    read = load_checkpoint(checkpoint)
    family = FAMILIES[read.family]
    exporter: Callable[..., ParityReport] = imported(family.exporter)
    more = {"bits": bits} if family.kind.returns == "text" else {}
    if bits is not None and not more:
        raise InputError(f"--bits is for text generators, and this run's family is {read.family!r}; see onnxferry optimize for 8 bits")
    return exporter(
        read,
        path,
        name=name or Path(path).stem,
        description=description,
        license=license,
        golden=golden,
        with_labels=with_labels,
        command=command,
        **more,
    )
