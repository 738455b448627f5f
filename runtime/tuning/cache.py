"""Results of tuning, kept in the user's cache folder.

One JSON file per model and situation. The key holds everything that the result depends on (the bytes of the model's files, the CPU and
its features, ONNX Runtime's version, the device, the numbers of threads), so a change of any of them is another file. The entry holds
a plan for each batch size that was measured. An invalid file, or one that another
user could have written, counts as absent; a file that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxferry.runtime.files import cache_folder, only_this_user_writes, written_whole

_MAX_BYTES = 4 * 2**20


_SCHEMA = 2  # 1: chosen by proof at 99 %, which kept the default too often


def read_entry(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document kept under this key; None if there is none, or it is invalid."""
    path = _path(key)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path is None:
            return None
        with path.open("rb") as file:
            if not only_this_user_writes(os.fstat(file.fileno())):
                return None
            content = file.read(_MAX_BYTES + 1)
        document = json.loads(content) if len(content) <= _MAX_BYTES else None
        # The file's name is a truncated hash, and another program may have written it: the key inside must be equal.
        if isinstance(document, dict) and document.get("schema") == _SCHEMA and document.get("key") == json.loads(json.dumps(key)):
            return document
    return None


def write_entry(key: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Keeps a document under its key. Returns the reason if that failed, else "". Of two writers the last one wins."""
    path = _path(key)
    if path is None:
        return "this user has no folder for caches, or ONNXFERRY_CACHE is empty"
    text = json.dumps({**document, "schema": _SCHEMA, "key": key}, indent=1, allow_nan=False)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.touch(mode=0o600)
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"{path.parent} cannot be written ({error.strerror or error})"
    return ""


def forget_entries(file_hash: str) -> int:
    """Removes all entries of a model's file, for any machine and settings. Returns how many there were."""
    folder = cache_folder()
    paths = [] if folder is None else list(folder.glob(f"tune-{file_hash[:16]}-*.json"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _path(key: Mapping[str, Any]) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"tune-{str(key['file'])[:16]}-{digest[:24]}.json"
