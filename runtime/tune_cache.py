"""What was found to run a model best on this machine, kept in the user's cache folder.

One JSON file a model and situation: the key holds everything that the answer depends on (the bytes of the model's files, the
CPU and its features, ONNX Runtime's version, the device, the threads there are), so a change of any of them is another file.
A file that cannot be read as what it should be counts as absent; one that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "ONNXFERRY_CACHE"

_MOST_BYTES = 4 * 2**20
_SCHEMA = 1


def cache_folder() -> Path:
    """``ONNXFERRY_CACHE`` where it is set, else ``onnxferry`` in the system's folder for caches. It need not exist."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "onnxferry"


@functools.cache
def machine_name() -> str:
    """The CPU: its model's name and, hashed, its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return f"{platform.processor() or platform.machine()} {platform.machine()}"
    facts = dict.fromkeys(("model name", "flags", "Features", "CPU part"), "")
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in facts and not facts[name.strip()]:
            facts[name.strip()] = value.strip()
    features = hashlib.sha256(f"{facts['flags']}{facts['Features']}{facts['CPU part']}".encode()).hexdigest()[:12]
    return f"{facts['model name'] or platform.machine()}, features {features}"


def read_entry(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document kept under this key, or None where there is none, or none that is whole."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with _path(key).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        document = json.loads(content) if len(content) <= _MOST_BYTES else None
        # The file's name is a hash cut short, and anybody may have written it: the key inside must be the same.
        if isinstance(document, dict) and document.get("schema") == _SCHEMA and document.get("key") == json.loads(json.dumps(key)):
            return document
    return None


def write_entry(key: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Keeps a document under its key. Returns why it could not be kept, "" where it was. Of two writers the last one wins."""
    path = _path(key)
    text = json.dumps({**document, "schema": _SCHEMA, "key": key}, indent=1, allow_nan=False)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)  # noqa: PTH105 (mkstemp gives a str)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        return f"{path.parent} cannot be written ({error.strerror or error})"
    return ""


def forget_entries(file_hash: str) -> int:
    """Removes everything kept for a model's file, whatever the machine and settings. Returns how much was there."""
    removed = 0
    for path in cache_folder().glob(f"tune-{file_hash[:16]}-*.json"):
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def _path(key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"tune-{str(key['file'])[:16]}-{digest[:24]}.json"
