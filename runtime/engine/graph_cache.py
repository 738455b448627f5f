"""Graphs as ONNX Runtime has rewritten them, kept on this machine, so that the next process need not rewrite them again.

Used by :class:`~onnxferry.runtime.engine.engine.Engine` (``cache=``). An entry is a file ``<key>-<checksum>.onnx``. The key is made of
everything that the rewriting depends on: the file's SHA-256, ONNX Runtime's version and build, the graph level, and the CPU's
features, since the result holds layouts and operators made for one CPU. (Threads are not in it: no rewrite looks at them.)

What it brings is small, so it is used by itself only where it pays (:func:`pays`): it saves about 25 µs a node of rewriting, and
costs two SHA-256 (of the file and of the entry, 1.3 ms a megabyte together, on a CPU with SHA instructions) and about 1 ms of
look-up. Milliseconds to open a model, plain and cached (two-core EPYC, ONNX Runtime 1.31.1; python tests/bench/bench_engine.py):

    ==========================  =====  ======
    model                       plain  cached
    ==========================  =====  ======
    digits (174 nodes, 1 MB)     19.6    17.5
    fashion (90 nodes)           15.7    13.1
    digits-gan (55 nodes)         8.8    11.7
    digits-ae (114 nodes)        19.6    14.6
    408 nodes, 0.4 MB            19.1    12.3
    1,632 nodes, 1.7 MB          77.9    36.7
    3,264 nodes, 3.3 MB         209.1    84.3
    ==========================  =====  ======

None of the shipped models would start sooner by an amount that shows; the text model's loop cannot be kept at all, and its rewritten
graph would be four times its file. A ResNet-18's rewriting (20 ms) takes less than the checksums of its 47 MB twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path

from onnxferry.runtime.engine import ort
from onnxferry.runtime.machine.cpu import cpu_features
from onnxferry.runtime.onnx_file.reader import file_sha256
from onnxferry.runtime.onnx_file.summary import ModelSummary

MAX_BYTES = 512 * 2**20
"""Of all entries together; the ones used longest ago go first."""


LARGEST_BYTES = 128 * 2**20
"""Of a model that is cached at all: beyond it, checksums take longer than rewriting."""


_SECONDS_A_NODE = 25e-6


_SECONDS_A_BYTE = 1.3e-9


_SECONDS_AT_ALL = 1e-3


_WORTH_SECONDS = 10e-3


_ENTRY = re.compile(r"[0-9a-f]{40}-[0-9a-f]{64}\.onnx")  # what names of entries look like: the folder may hold models of the user's own


_WRITING = ".writing-"  # what names of temporary files begin with


_STALE_SECONDS = 3600.0  # a temporary file this old was left behind by a process that died


def can_hold(summary: ModelSummary) -> bool:
    """Whether a model's rewritten graph can be kept.

    Not with weights in other files, which an entry would not notice changing, nor with graphs in graphs: what ONNX Runtime
    writes of those it may refuse to read (microsoft/onnxruntime#25510).
    """
    return summary.depth == 0 and summary.file_bytes <= LARGEST_BYTES and not any(each.location for each in summary.initializers)


def pays(summary: ModelSummary) -> bool:
    """Whether it is expected to save at least 10 ms of a start."""
    saved = summary.nodes * _SECONDS_A_NODE - summary.file_bytes * _SECONDS_A_BYTE - _SECONDS_AT_ALL
    return saved >= _WORTH_SECONDS


class GraphCache:
    """One folder of rewritten graphs. Nothing here raises for a folder that cannot be read or written: it is a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, model: str | bytes, graph_level: str) -> str | None:
        """What an entry of this model on this machine is called; None where the file cannot be read any more."""
        try:
            digest = _sha256(model)
        except OSError:
            return None
        runtime = ort.onnxruntime()
        build = runtime.get_build_info() if hasattr(runtime, "get_build_info") else ""
        parts = [1, digest, runtime.__version__, build, graph_level, cpu_features()]
        return _sha256(json.dumps(parts).encode())[:40]

    def find(self, key: str) -> Path | None:
        """An entry that is whole and our own; a damaged one is deleted."""
        for path in self._entries(f"{key}-*.onnx"):
            if not _is_ours(path):
                continue
            with contextlib.suppress(OSError):
                if _sha256(os.fspath(path)) == path.stem.partition("-")[2]:
                    os.utime(path)  # used now: it is not the next to go
                    return path
            self.drop(path)
        return None

    def drop(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    def temporary(self) -> Path | None:
        """A new file in the folder for ONNX Runtime to write to; None where none can be made."""
        import tempfile

        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_WRITING, suffix=".onnx", dir=self.folder)
        except OSError:
            return None
        os.close(handle)
        return Path(name)

    def keep(self, temporary: Path, key: str) -> None:
        """Makes a temporary file the key's entry. Two processes that do so at the same time both succeed."""
        with contextlib.suppress(OSError):
            temporary.replace(self.folder / f"{key}-{_sha256(os.fspath(temporary))}.onnx")
        self.prune()

    def prune(self, most: int = MAX_BYTES) -> None:
        """Deletes what was used longest ago until no more than ``most`` bytes are left, and what dead writers left behind."""
        files: list[tuple[float, int, Path]] = []
        for path in self._entries("*.onnx"):
            if not _ENTRY.fullmatch(path.name) and not path.name.startswith(_WRITING):
                continue
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        newest = max((time for time, _, _ in files), default=0.0)
        total = sum(size for _, size, _ in files)
        for time, size, path in sorted(files):
            abandoned = path.name.startswith(_WRITING) and time < newest - _STALE_SECONDS
            if total > most or abandoned:
                self.drop(path)
                total -= size

    def _entries(self, pattern: str) -> list[Path]:
        try:
            return sorted(self.folder.glob(pattern))  # names that begin with a dot too
        except OSError:
            return []


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written it: a model from the cache is not looked at again before it is run."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows: the folder's own rights have to do
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sha256(model: str | bytes) -> str:
    import hashlib

    return hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else file_sha256(Path(model))
