"""Downloads: from the first mirror that has the file, resumed after an interruption, verified by SHA-256, one process at a time.

Environment: ``ONNXFERRY_OFFLINE=1`` forbids every download. Files are kept where :mod:`onnxferry.runtime.files` says.
Written here because downloaders such as pooch resume nothing, and compare a file's hash as it is packed, which differs by mirror.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from onnxferry.runtime.errors import DataError
from onnxferry.train.data.progress import Progress, no_progress

TIMEOUT = 30.0  # seconds without a byte


TRIES = 5  # at one mirror, each resuming where the last one stopped, before the next mirror is tried


CHUNK = 1 << 18  # bytes


class _MirrorError(Exception):
    """A mirror does not deliver the file; str() says why. Errors of the local disk are never wrapped in it."""


class _CutOffError(_MirrorError):
    """The connection ended early: the bytes so far are kept, and the rest can be requested."""


def is_offline() -> bool:
    """True if the user forbids downloads."""
    return os.environ.get("ONNXFERRY_OFFLINE", "").lower() not in ("", "0", "false", "no")


def fetch(name: str, urls: Sequence[str], sha256: str, size: int, destination: Path, progress: Progress = no_progress) -> Path:
    """``destination``, downloaded from the first of ``urls`` that has it, unless it exists already.

    ``name``: of the file, for messages. ``sha256``: hex, of the *unpacked* bytes if the file is gzipped (mirrors compress
    differently), else of the file. ``size``: of the same bytes; a mirror that sends more is left. The file is kept as it was
    received. An interrupted download leaves a ``.part`` file, which the next call resumes. If several processes call this at once,
    one downloads and the others wait for it.
    ``progress`` is called with the bytes so far.

    Raises DataError, which says which file to put where, if it cannot be downloaded.
    """
    if _holds(destination, sha256, size):
        return destination
    by_hand = f"put {destination.name} in {destination.parent} yourself"
    if is_offline():
        raise DataError(f"{name} is not on this machine and ONNXFERRY_OFFLINE forbids downloads: unset it, or {by_hand}")
    failures = []
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if _holds(destination, sha256, size):  # another process was faster
                return destination
            for url in urls:
                try:
                    return _fetch_from(url, sha256, size, destination, lambda done, total: progress(name, done, total, "bytes"))
                except _MirrorError as error:
                    failures.append(f"  {url}: {error}")
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{name}: {destination} cannot be written ({reason}): set ONNXFERRY_HOME to another folder") from error
    raise DataError(f"{name} could not be downloaded: check the network, or {by_hand}. Tried:\n" + "\n".join(failures))


def _fetch_from(url: str, sha256: str, size: int, destination: Path, show: Callable[[int, int | None], None]) -> Path:
    # A part file belongs to its URL: another mirror may have compressed the file differently.
    part = destination.with_name(f"{destination.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    had_part = part.exists()
    most = size + size // 1000 + 1024  # gzip's head, and its stored blocks where nothing can be compressed
    _download(url, part, most, show)
    if had_part and not _holds(part, sha256, size):  # the file may have changed on the server since then
        part.unlink()
        _download(url, part, most, show)
    if not _holds(part, sha256, size):
        came = part.stat().st_size
        part.unlink()
        raise _MirrorError(f"what came, {came} bytes, does not have the SHA-256 {sha256[:12]}…")
    part.replace(destination)
    return destination


def _download(url: str, part: Path, most: int, show: Callable[[int, int | None], None]) -> None:
    """Download all of ``url`` into ``part``, at ``most`` that many bytes, trying again while bytes arrive, TRIES times at most."""
    for left in reversed(range(TRIES)):
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part, most, show)
            return
        except _CutOffError:
            if not left or part.stat().st_size <= before:
                raise


def _continue(url: str, part: Path, most: int, show: Callable[[int, int | None], None]) -> None:
    """One request for the bytes missing in ``part``, or for all if the server does not support ranges (RFC 9110, section 14)."""
    start = part.stat().st_size if part.exists() else 0
    # identity: a server that compresses the response would deliver other bytes than it counts
    headers = {"User-Agent": "onnxferry", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                if error.headers.get("Content-Range") == f"bytes */{start}":
                    return  # nothing is missing
                part.unlink()
                _continue(url, part, most, show)
                return
            raise _MirrorError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorError(_words(error)) from error
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != start:
                raise _MirrorError(f"asked for bytes from {start}, got {response.headers.get('Content-Range', 'no Content-Range')}")
        else:
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        with part.open("ab" if start else "wb") as file:
            done = start
            show(done, total)
            while chunk := _read(response):
                done += len(chunk)
                if done > most:
                    break
                file.write(chunk)
                show(done, total)
    if done > most:
        part.unlink()
        raise _MirrorError(f"sends more than the {most} bytes that the file can have")
    if total is not None and done < total:
        raise _CutOffError(f"cut off after {done} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _CutOffError(f"cut off ({_words(error)})") from error


def _words(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__


def _holds(path: Path, sha256: str, size: int) -> bool:
    """True if ``path`` is a file whose content, unpacked if it is gzipped, has this size and SHA-256."""
    if not path.is_file():
        return False
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file) if packed else file
        try:
            while done <= size and (chunk := stream.read(CHUNK)):  # a small file may unpack to any size
                digest.update(chunk)
                done += len(chunk)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return False
    return done == size and digest.hexdigest() == sha256
