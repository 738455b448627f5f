"""Weights that lie outside the .onnx file: whether what the file says of them can be followed.

ONNX Runtime opens the path a model names. An untrusted model may name any: so only a regular file in the model's own folder or
below it is accepted, long enough for what is read from it. It may be a link to a file beside the model's own file, as caches keep both
(huggingface_hub: ``snapshots/…/model.onnx`` and its data are links into ``blobs/``), and is reached through no other link.
Source: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md; CVE-2024-27318, CVE-2025-51480, CVE-2026-27489.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from onnxferry.runtime.errors import ArtifactError, UntrustedModelError

# "prepacked_…" keys, too, are known to ONNX Runtime: offsets of weights in its kernels' own layout, which cannot be checked.
_KNOWN_KEYS = frozenset({"location", "offset", "length", "checksum"})


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ExternalData:
    """The external files of one model, each looked at once. ``path``: the model's; None: it came as bytes and has no folder."""

    def __init__(self, model: str, path: Path | None) -> None:
        self._model = model
        self._path = path
        self._folder = None if path is None else path.parent
        self._sizes: dict[str, int] = {}

    def check(self, tensor: str, entries: Mapping[str, str], nbytes: int) -> str:
        """The location of a tensor of ``nbytes`` bytes. Raises UntrustedModelError or ArtifactError where it cannot be followed."""
        unknown = sorted(entries.keys() - _KNOWN_KEYS)
        if unknown:
            raise self._refused(tensor, f"has the unknown key {unknown[0]!r}")
        location = entries.get("location", "")
        size = self._sizes.get(location)
        if size is None:
            size = self._sizes[location] = self._size(tensor, location)
        offset = self._number(tensor, entries, "offset", 0)
        length = self._number(tensor, entries, "length", nbytes)
        if length != nbytes:
            raise self._refused(tensor, f"says length {length}, but the shape takes {nbytes} bytes")
        if offset + length > size:
            raise self._refused(tensor, f"needs bytes {offset} to {offset + length} of {location!r}, which has {size}; it may be cut short")
        return location

    def _size(self, tensor: str, location: str) -> int:
        if self._folder is None:
            raise ArtifactError(f"{self._model} keeps weights in the file {location!r}, and bytes have no folder; give the path instead")
        if not location or _CONTROL.search(location):
            raise self._refused(tensor, f"names no file: {location[:80]!r}")
        windows_only = "\\" in location or re.match("[A-Za-z]:", location) or (os.name == "nt" and ":" in location)
        if location.startswith("/") or windows_only:
            raise self._refused(tensor, f"must be a relative path with forward slashes, got {location[:200]!r}")
        parts = [part for part in location.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            raise self._refused(tensor, f"leaves the model's folder: {location[:200]!r}")
        path = self._folder
        for number, part in enumerate(parts, 1):
            path = path / part
            try:
                status = path.lstat()
            except OSError as error:
                raise ArtifactError(f"{self._model} needs the file {location!r} beside it: {error.strerror}") from error
            # Hard links pass: they look like the file itself, and package installers make them.
            if stat.S_ISLNK(status.st_mode):
                beside = self._beside(path) if number == len(parts) else None
                if beside is None:
                    raise self._refused(
                        tensor,
                        f"goes through a link, {str(path)!r}, out of the folder of the model's file; copy the file itself beside it",
                    )
                status = beside
        if not stat.S_ISREG(status.st_mode):
            raise self._refused(tensor, f"is not a regular file: {location[:200]!r}")
        return status.st_size

    def _beside(self, link: Path) -> os.stat_result | None:
        """The status of the file that a link stands for, if it lies in the folder of the model's own file; else None."""
        try:
            real = link.resolve(strict=True)
            return real.lstat() if self._path is not None and real.parent == self._path.resolve(strict=True).parent else None
        except (OSError, RuntimeError):  # it leads nowhere, or in a circle
            return None

    def _number(self, tensor: str, entries: Mapping[str, str], key: str, default: int) -> int:
        text = entries.get(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise self._refused(tensor, f"says {key} {text[:40]!r}, expected a whole number")
        return int(text)

    def _refused(self, tensor: str, why: str) -> UntrustedModelError:
        return UntrustedModelError(f"{self._model} is refused: the external data of tensor {tensor[:80]!r} {why}")
