"""The ONNX Runtime of another Python environment as a reference: a child process, to which arrays go as files.

    with OtherRuntime("old/bin/python", "model.onnx") as other:
        other.version, other.run({"x": x})

That environment needs numpy and onnxruntime, and nothing of this package. The file is to have been read by the runtime's bounded reader
before: the other ONNX Runtime opens it as it is.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from onnxferry.export.options import Feeds
from onnxferry.export.source import as_array
from onnxferry.runtime.errors import ExportError, InputError

SECONDS = 600.0
"""That opening the file or one run may take."""

PROGRAM = """
import json, sys
import numpy as np
try:
    import onnxruntime
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    print(json.dumps({"version": onnxruntime.__version__}), flush=True)
except Exception as error:
    print(json.dumps({"error": type(error).__name__ + ": " + str(error)[:2000]}), flush=True)
    sys.exit(0)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        with np.load(asked["feeds"]) as arrays:
            feeds = {name: arrays[key] for name, key in asked["keys"].items()}
        for name, array in feeds.items():
            if array.dtype.kind == "U":
                feeds[name] = array.astype(object)
        answers = {}
        for number, value in enumerate(session.run(None, feeds)):
            answers[str(number)] = value.astype(str) if value.dtype.kind == "O" else value
        np.savez(asked["answers"], **answers)
        print(json.dumps({"names": [output.name for output in session.get_outputs()]}), flush=True)
    except Exception as error:
        print(json.dumps({"error": type(error).__name__ + ": " + str(error)[:2000]}), flush=True)
"""


class OtherRuntime:
    """``python``: the interpreter of that environment. Raises InputError where it has no ONNX Runtime, ExportError where that cannot
    open the file."""

    def __init__(self, python: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
        self._python = os.fspath(python)
        if shutil.which(self._python) is None:
            raise InputError(f"there is no program {self._python}: give the Python of an environment that has onnxruntime")
        self._folder = tempfile.TemporaryDirectory(prefix="onnxferry-")
        self._lock = threading.Lock()
        self._errors = (Path(self._folder.name) / "errors.txt").open("w+b")
        self._process = subprocess.Popen(
            [self._python, "-I", "-c", PROGRAM, str(Path(path).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.version: str = str(self._answer("opening the file")["version"])
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, doing: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=SECONDS)
        except queue.Empty as error:
            raise ExportError(f"{self._python} took more than {SECONDS:.0f} s for {doing}") from error
        try:
            found = json.loads(line)
        except ValueError:
            found = {"error": self._last_words()}
        if not isinstance(found, dict) or "error" in found:
            words = str(found.get("error", found) if isinstance(found, dict) else found).strip().splitlines() or ["it ended"]
            if "No module named" in words[0]:
                raise InputError(f"{self._python} cannot be the reference ({words[0]}): {self._python} -m pip install onnxruntime")
            raise ExportError(f"the ONNX Runtime of {self._python} fails in {doing}: {words[0][:500]}")
        return found

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "the process ended without a word"

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name. Raises ExportError where that ONNX Runtime fails."""
        with self._lock:
            folder = Path(self._folder.name)
            keys = {name: str(number) for number, name in enumerate(feeds)}
            named: dict[str, Any] = {keys[name]: as_array(array) for name, array in feeds.items()}
            np.savez(folder / "feeds.npz", **named)
            asked = {"feeds": str(folder / "feeds.npz"), "answers": str(folder / "answers.npz"), "keys": keys}
            stdin = self._process.stdin
            try:
                if stdin is None:
                    raise OSError("closed")
                stdin.write(json.dumps(asked) + "\n")
                stdin.flush()
            except OSError as error:
                raise ExportError(f"the ONNX Runtime of {self._python} has ended: {self._last_words()}") from error
            names = self._answer("a run")["names"]
            with np.load(folder / "answers.npz") as arrays:
                return {str(name): arrays[str(number)] for number, name in enumerate(names)}

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                self._process.kill()  # it has ended, or does not read
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
