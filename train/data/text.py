"""Text to train on: a file, a folder of files, or a named text, as bytes, split into train, validation and test.

===================  ==================================================================================================
``pydoc-topics``     CPython's own documentation of its language (``pydoc_data.topics``), about 0.7 MB of English on
                     every machine that runs Python: no network, the default.
``tinyshakespeare``  1,115,394 bytes of Shakespeare's plays as Karpathy's char-rnn (2015) ships them; public domain.
a path               any file, or a folder whose files are read in the order of their names. Any bytes are accepted.
===================  ==================================================================================================

The last tenth is the test and is never used to choose anything; the last ``validation`` of the nine tenths before it is for that.
"""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.runtime.files import downloads_folder
from onnxferry.train.data.download import fetch
from onnxferry.train.data.progress import Progress, no_progress

EMBEDDED = "pydoc-topics"


SHAKESPEARE = "tinyshakespeare"


SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


SHAKESPEARE_BYTES = 1_115_394


NAMES = (EMBEDDED, SHAKESPEARE)


VALIDATION = 0.05  # share of the first nine tenths that is held out to choose by


MIN_BYTES = 200  # fewer cannot be split into three useful parts


MAX_BYTES = 2**30


BYTES = "bytes"
"""In place of an encoding: train on the bytes as they are."""


@dataclass(frozen=True, eq=False)
class TextSplits:
    """Three consecutive parts of one text."""

    name: str
    train: np.ndarray  # uint8 (n,)
    validation: np.ndarray  # uint8 (n,); empty with validation=0
    test: np.ndarray  # uint8 (n,): the last tenth
    sha256: str  # of all bytes, hex
    source: str  # in short words, without a local path


def load_text(
    name: str = EMBEDDED,
    data: Path | None = None,
    *,
    validation: float = VALIDATION,
    encoding: str = BYTES,
    progress: Progress = no_progress,
) -> TextSplits:
    """The text called ``name`` (see the module), or the file or folder ``name``; ``data``: where a named text's file is.

    ``validation``: share of the first nine tenths that is held out to choose by, 0 … 0.5. ``encoding``: of a text of your own, which
    becomes UTF-8; ``bytes`` takes any bytes as they are. ``progress``: called during a download.
    Raises DataError for a text that is missing, unreadable, too short or not what its checksum says, InputError for a share out
    of range.
    """
    if not 0 <= validation <= 0.5:
        raise InputError(f"the share of text held out for validation must be 0 … 0.5, got {validation}")
    if name == SHAKESPEARE:
        text, source = _shakespeare(data, progress), "Tiny Shakespeare (Karpathy, char-rnn), public domain"
    elif name == EMBEDDED and data is None:
        text, source = _topics(), "CPython's pydoc_data.topics (PSF licence)"
    else:
        path = data if data is not None else Path(name)
        text, source = _read(path, encoding), f"the user's own text, {path.name}"
        name = path.stem if name in ("", EMBEDDED) or Path(name) == path else name
    if len(text) < MIN_BYTES:
        raise DataError(
            f"the training text {name!r} has {len(text)} bytes; at least {MIN_BYTES} are needed, and a few hundred kB to learn words"
        )
    bytes_ = np.frombuffer(text, np.uint8)
    nine = len(bytes_) * 9 // 10
    first = nine - int(nine * validation)
    return TextSplits(name, bytes_[:first], bytes_[first:nine], bytes_[nine:], hashlib.sha256(text).hexdigest(), source)


USUAL_ENCODINGS = ("utf-8-sig", "utf-16", "gb18030", "big5", "shift_jis", "euc_kr", "cp1252")
"""Tried in this order to guess the encoding of a text that is not UTF-8, for the message."""


def to_utf8(content: bytes, encoding: str, name: str) -> bytes:
    """``content`` in ``encoding`` as UTF-8; unchanged for ``BYTES``. ``name``: of the file, for messages.

    Raises InputError for an encoding that Python does not know, DataError for content that is not in it, and for NUL characters, which
    text does not have.
    """
    if encoding == BYTES:
        return content
    try:
        text = content.decode(encoding).removeprefix("\ufeff")  # a mark of the encoding, which editors put in front
    except LookupError:
        raise InputError(f"unknown encoding {encoding!r}; expected utf-8, gbk, big5, shift_jis, utf-16, cp1252 …, or bytes") from None
    except (UnicodeError, ValueError) as error:
        at = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{name} is not {encoding}{at}: {_cure(content, encoding)}") from error
    if "\0" in text:
        raise DataError(f"{name} holds NUL characters and is hardly text: {_cure(content, encoding)}")
    return text.encode()


def _cure(content: bytes, encoding: str) -> str:
    """Which --encoding to try. A guess by letters: most of a text in a wrong encoding is made of rare ones."""
    guess = next((name for name in USUAL_ENCODINGS if name != encoding and _reads_well(content[: 1 << 16], name)), "")
    name = {"gb18030": "gbk", "utf-8-sig": "utf-8"}.get(guess, guess)
    words = f"give its encoding, --encoding {name} perhaps" if name else "give its encoding with --encoding, gbk or cp1252 for example"
    return f"{words}; --encoding {BYTES} trains on its bytes as they are"


def _reads_well(content: bytes, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()  # incremental: the cut may go through a letter
    try:
        text = decoder.decode(content)
    except UnicodeError:
        return False
    printable = sum(c.isprintable() or c in "\t\r\n" for c in text)
    # cp1252 reads anything: then most of it has to be ASCII.
    letters = sum(c.isascii() for c in text) if encoding == "cp1252" else len(text)
    return bool(text) and printable > 0.98 * len(text) and letters > 0.5 * len(text)


def prompt_of(text: np.ndarray) -> str:
    """The first words of a line in uint8 (n,), to try a generator with: some 12 characters; "" for what is no text."""
    for line in text[:20_000].tobytes().decode("utf-8", errors="ignore").splitlines():
        words = " ".join(line.split())
        if len(words) >= 4 and words.isprintable() and any(c.isalpha() for c in words):
            cut = words[:12]
            return cut.rpartition(" ")[0] if words[12:13].strip() and " " in cut else cut
    return ""


def _topics() -> bytes:
    from pydoc_data import topics

    return "\n\n".join(topics.topics[key].strip() for key in sorted(topics.topics)).encode()


def _read(path: Path, encoding: str = BYTES) -> bytes:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
        if not files:
            raise DataError(f"the folder {path.name!r} holds no text: no file in it")
    elif path.is_file():
        files = [path]
    else:
        raise DataNotFoundError(f"no text at {path}: expected a file, a folder of files, or one of {', '.join(NAMES)}", path)
    size = sum(file.stat().st_size for file in files)
    if size > MAX_BYTES:
        raise DataError(f"{path.name} holds {size} bytes of text; at most {MAX_BYTES} are read into memory: give a part of it")
    try:
        return b"\n".join(to_utf8(file.read_bytes(), encoding, file.name) for file in files)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _shakespeare(data: Path | None, progress: Progress) -> bytes:
    if data is not None:
        text = _read(data / "tinyshakespeare.txt" if data.is_dir() else data)
        _verify(text, data.name)
        return text
    destination = downloads_folder() / "tinyshakespeare.txt"
    return fetch("Tiny Shakespeare", [SHAKESPEARE_URL], SHAKESPEARE_SHA256, SHAKESPEARE_BYTES, destination, progress).read_bytes()


def _verify(text: bytes, what: str) -> None:
    found = hashlib.sha256(text).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise DataError(
            f"{what} is not Tiny Shakespeare: {len(text)} bytes with SHA-256 {found[:12]}…, "
            f"expected {SHAKESPEARE_BYTES} with {SHAKESPEARE_SHA256[:12]}…; "
            "delete it and fetch it again, or name it as a text of your own"
        )
