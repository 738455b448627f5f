"""A child process that runs a source's framework in an environment of its own, and answers requests line by line.

child = child_of("/path/to/python")            # one for each environment, kept until this process ends
answer = child.ask(do="open", path="saved")    # what it says, or ExportError
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.source import Feeds
from onnxferry.runtime.errors import ExportError, InputError, MissingExtraError

PROGRAM = Path(__file__).with_name("child.py")

START = "import sys; sys.path[:] = [each for each in sys.path if each]; import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
"""Without the folder of the program, or the current one, among those that are searched for modules."""

_CHILDREN: dict[str, Child] = {}


class ChildError(Exception):
    """What the framework raised, in one line."""


class Child:
    """The process. What its framework prints goes to a file, whose end is shown if the process dies."""

    def __init__(self, python: str) -> None:
        self.python = python
        self._folder = tempfile.TemporaryDirectory(prefix="onnxferry-child-")
        self.folder = Path(self._folder.name)
        self._complaints = (self.folder / "complaints.txt").open("wb")
        # Paths of this environment would be searched by the other one.
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            self._process = subprocess.Popen(
                [python, "-c", START, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment
            )
        except OSError as error:
            self._complaints.close()
            self._folder.cleanup()
            raise InputError(f"{python} cannot be started ({error.strerror}); --python takes the path of a Python interpreter") from error
        self._files = 0

    def file(self, suffix: str) -> Path:
        """A name for a new file in the folder of both processes."""
        self._files += 1
        return self.folder / f"{self._files}{suffix}"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Raises ExportError for what is refused or where the process died, ChildError for what the framework raised."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ExportError("the process has no pipes")
        try:
            stdin.write(json.dumps(asked).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = b""
        if not line:
            code = self._process.wait()
            said = "is the file damaged?" if code < 0 else self._last_words()
            raise ExportError(f"the process that runs the model ended with code {code} when it was asked to {asked['do']} it: {said}")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise ExportError(answer["refused"])
        if "missing" in answer:
            note = "" if self.python != sys.executable else "or name an environment that has it: --python PATH"
            if self.python != sys.executable:
                raise ExportError(f"{self.python} has no package {answer['missing']!r}: {self.python} -m pip install tensorflow tf2onnx")
            raise MissingExtraError(answer["missing"], "tensorflow", "exporting TensorFlow models", note)
        if "failed" in answer:
            raise ChildError(answer["failed"])
        return answer

    def run(self, number: int, feeds: Feeds, relative: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
        """``relative``: with the model's weights off by about so much of themselves."""
        given, answers = self.file(".npz"), self.file(".npz")
        np.savez(given, **feeds)  # type: ignore[arg-type]
        try:
            self.ask(do="run", id=number, feeds=str(given), out=str(answers), relative=relative, seed=seed)
            with np.load(answers, allow_pickle=False) as held:
                return {name: held[name] for name in held.files}
        finally:
            given.unlink(missing_ok=True)
            answers.unlink(missing_ok=True)

    def _last_words(self) -> str:
        self._complaints.flush()
        lines = (self.folder / "complaints.txt").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._complaints.close()
        self._folder.cleanup()


def child_of(python: str | os.PathLike[str] | None) -> Child:
    """The process of an environment, started at the first call. None: this one's interpreter."""
    name = sys.executable if python is None else os.fspath(python)
    if python is not None and not Path(name).is_file():
        raise InputError(f"there is no {name}; --python takes the path of a Python interpreter, such as env/bin/python")
    known = _CHILDREN.get(name)
    if known is not None and known.alive:
        return known
    if known is not None:
        known.end()
    _CHILDREN[name] = Child(name)
    return _CHILDREN[name]


def _end_all() -> None:
    for child in _CHILDREN.values():
        child.end()
    _CHILDREN.clear()


atexit.register(_end_all)
