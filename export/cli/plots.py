"""Where a verb writes its chart, checked before the work that the chart shows."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from onnxferry.runtime.errors import InputError, MissingExtraError

FORMATS = (".png", ".svg")


def check_plot(path: Path | None) -> None:
    """Nothing to check for None. Raises MissingExtraError without matplotlib, InputError for another format or a missing folder."""
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--plot writes {' or '.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it, or give another --plot")
    try:
        import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "train", "--plot", "or leave --plot out") from error
