"""How long work on data reports how far it is: through a callback, because library code prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress. The command line's is ``onnxferry.train.cli.run.data_progress``.

    Called as ``progress("MNIST", 4096, 1_648_877, "bytes")``: 4,096 of 1,648,877 bytes of the task "MNIST" are done.
    """

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        """``total``: None if it is not known. ``unit``: "bytes" or "images"."""


def no_progress(label: str, done: int, total: int | None, unit: str) -> None:
    """The default: report nothing."""
