"""Pairs of texts in a file: a line a pair, source and target with a tab between them, gzip or not.

    Guten Morgen	good morning

Blank lines are skipped, and spaces around a text do not belong to it.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TypeAlias

from onnxferry.runtime.errors import DataError, DataNotFoundError

Pair: TypeAlias = tuple[bytes, bytes]
"""Source and target, UTF-8."""


MAX_TEXT_BYTES = 1000
"""Of a source or a target: longer ones would take all memory, and a recurrent network forgets their beginning."""


MAX_FILE_BYTES = 2**30


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a file in UTF-8, in its order; raises DataError and DataNotFoundError as the functions below, and for no pairs.

    read_pairs(Path("german-english.tsv.gz"))[0]    # (b"Guten Morgen", b"good morning")
    """
    content = unpacked(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.start}): convert it, for example with iconv") from error
    pairs = pairs_in(text, path.name)
    if not pairs:
        raise DataError(f"{path.name} is empty: expected lines of source, tab, target")
    return pairs


def pairs_in(text: str, name: str) -> list[Pair]:
    """The pairs of a text; ``name``: of its file, for messages.

    Raises DataError, with the line's number, for a line without a tab or with more than one, with an empty text, or one above
    MAX_TEXT_BYTES.
    """
    return [_pair(line, number, name) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _pair(line: str, number: int, name: str) -> Pair:
    parts = line.split("\t")
    if len(parts) != 2:
        found = "has no tab" if len(parts) == 1 else f"has {len(parts) - 1} tabs"
        raise DataError(f"line {number} of {name} {found}; expected: source, one tab, target")
    source, target = (part.strip().encode() for part in parts)
    for which, content in (("source", source), ("target", target)):
        if not content:
            raise DataError(f"line {number} of {name} has an empty {which}; give both texts, or leave the line out")
        if len(content) > MAX_TEXT_BYTES:
            raise DataError(
                f"line {number} of {name} has a {which} of {len(content):,} bytes, at most {MAX_TEXT_BYTES:,} are read; "
                "split it into sentences"
            )
        if b"\0" in content:
            raise DataError(f"line {number} of {name} has a {which} with a NUL character, which no text has")
    return source, target


def unpacked(path: Path) -> bytes:
    """The bytes of a file, of a gzip one what it holds. Raises DataNotFoundError, or DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            content: bytes = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}; expected lines of source, tab, target", path) from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; give a file with lines of source, tab, target") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{path.name} has more than {MAX_FILE_BYTES:,} bytes; give a part of it")
    return content
