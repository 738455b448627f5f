"""A training run in a child process: begun, watched, stopped. No more than one at a time on a server."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

from onnxferry.runtime.errors import InputError

NEEDS = ("torch", "lightning_fabric", "mlxtend", "onnx", "onnxscript")


SECONDS = 60


_MODULE = "onnxferry.export.families.live"


_LAST_LINES = 4000  # bytes of what the child said that are looked at


_one = threading.Lock()


def can_train() -> bool:
    """Whether what training and export need is installed here."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDS)


class Run:
    """One child. It ends when this object is forgotten, and when this process ends."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """Raises InputError while another one trains."""
        if not _one.acquire(blocking=False):
            raise InputError("someone else trains on this server just now; try again in a minute")
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="onnxferry-", ignore_cleanup_errors=True)
            self.folder = Path(self._folder.name)
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE, str(self.folder), "--seconds", str(seconds)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
                )
        except BaseException:
            _one.release()
            raise
        self._end = weakref.finalize(self, _ended, self._process)

    def is_running(self) -> bool:
        """Whether the child works."""
        if self._process.poll() is None:
            return True
        self._end()
        return False

    def stop(self) -> None:
        """Ends the child; its folder stays until this object is forgotten."""
        self._end()

    def problem(self) -> str:
        """The last line that a child which failed said; "" for one that runs or did its work."""
        if self._process.poll() in (None, 0):
            return ""
        said = (self.folder / "log").read_bytes()[-_LAST_LINES:].decode("utf-8", "replace").strip().splitlines()
        return said[-1].removeprefix("error: ") if said else ""


def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        _one.release()
