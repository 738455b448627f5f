"""Results of tuning, kept in the user's cache folder.

One JSON file per model and situation. The key holds everything that the result depends on (the bytes of the model's files, the CPU and
its features, ONNX Runtime's version, the device, the numbers of threads), so a change of any of them is another file. The entry holds
a plan for each batch size that was measured, and the rounds that it was chosen by, to which later searches add. An invalid file, or one
that another user could have written, counts as absent; a file that cannot be written is no error.
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


_SCHEMA = 4  # 1: chosen by proof at 99 %, which kept the default too often; 2: knew no other back ends; 3: kept verdicts alone


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


def problem_of(key: Mapping[str, Any]) -> str:
    """Why :func:`read_entry` gives nothing although the model was tuned before, in a line; "" where nothing is kept of it."""
    path = _path(key)
    if path is None:
        return ""
    if path.is_file():
        return f"{path} is torn, of another version of onnxferry, or could be written by other users; it is replaced"
    for other in sorted(path.parent.glob(f"{path.name.rpartition('-')[0]}-*.json")):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if other.stat().st_size > _MAX_BYTES:
                continue
            known = json.loads(other.read_bytes()).get("key")
            changed = [name for name in key if known.get(name) != json.loads(json.dumps(key[name]))]
            if changed and set(changed) <= set(_CHANGES):
                return "; ".join(_CHANGES[name] for name in changed) + " since it was tuned"
    return ""


_CHANGES = {
    "machine": "the CPU or what it can do has changed",
    "onnxruntime": "the version of ONNX Runtime has changed",
    "backends": "the installed back ends or their versions have changed",
    "variants": "the variants beside the file have changed",
}


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
