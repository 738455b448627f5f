"""Texts that a variant of a text classifier or translator is scored on: its inputs ``text`` and ``text_length``, and the right answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.kinds import Kind

DATES = "dates"
"""The name of the dates that the shipped translator has learnt."""


CLASSIFIED, TRANSLATED = 2000, 2700
"""Texts that are scored at most: a whole set of reviews takes minutes a candidate."""


MOST_BYTES = 1000
"""Longer texts are left out: what a variant gains and loses does not depend on them, and padding to one would slow all the others."""


Part = tuple[Sequence[bytes], np.ndarray]
"""Texts and their answers, int64 (n,) classes or translations as an array of bytes objects (n,)."""


def labelled_texts(kind: Kind, data: str | os.PathLike[str] | None, labels: Sequence[str]) -> tuple[Part, Part, str]:
    """The training and the test part, and what they are.

    ``data``: a named set, or a path that ``load_text_set`` or ``load_pairs`` takes. Raises InputError where it is missing, DataError for
    what is no such data, or has other classes than ``labels``.
    """
    if kind.returns == "translation":
        return _pairs(data)
    return _classes(data, labels)


def padded_feeds(texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """``text`` uint8 (n, longest), 0 beyond each, and ``text_length`` int64 (n,)."""
    lengths = np.array([len(text) for text in texts], np.int64)
    text = np.zeros((len(texts), int(lengths.max(initial=0))), np.uint8)
    for row, each in zip(text, texts, strict=True):
        row[: len(each)] = np.frombuffer(each, np.uint8)
    return {"text": text, "text_length": lengths}


def _classes(data: str | os.PathLike[str] | None, labels: Sequence[str]) -> tuple[Part, Part, str]:
    from onnxferry.train.data.text_sets import NAMES, load_text_set

    if data is None:
        raise InputError(
            f"a text classifier is scored on labelled texts: give --data {', '.join(NAMES)}, a folder, or a .csv, .tsv, .jsonl"
        )
    splits = load_text_set(str(data)) if str(data) in NAMES else load_text_set(data=Path(data))
    if labels and splits.classes != tuple(labels):
        raise DataError(f"{splits.name} has the classes {', '.join(splits.classes)}, and the model knows {', '.join(labels)}")
    first, second = (_short(part.texts, part.labels, CLASSIFIED) for part in (splits.train, splits.test))
    return first, second, f"texts with labels: {splits.source}"


def _pairs(data: str | os.PathLike[str] | None) -> tuple[Part, Part, str]:
    from onnxferry.train.data.pairs.dates import load_dates
    from onnxferry.train.data.pairs.tsv import load_pairs

    if data is None:
        raise InputError(f"a translator is scored on pairs: give --data {DATES}, or a .tsv of source, tab, target")
    splits = load_dates(TRANSLATED) if str(data) == DATES else load_pairs(Path(data))
    parts = []
    for pairs in (splits.train, splits.test):
        answers = np.empty(len(pairs), object)
        answers[:] = [target for _, target in pairs]
        parts.append(_short([source for source, _ in pairs], answers, TRANSLATED))
    return parts[0], parts[1], f"pairs: {splits.source}"


def _short(texts: Sequence[bytes], answers: np.ndarray, most: int) -> Part:
    """At most so many of those that are no longer than MOST_BYTES, by length: texts of a batch need little padding."""
    places = np.array([place for place, text in enumerate(texts) if len(text) <= MOST_BYTES], np.int64)
    if not len(places):
        raise DataError(f"no text of the data has at most {MOST_BYTES} bytes")
    if len(places) > most:
        places = np.random.default_rng(0).permutation(places)[:most]
    places = np.array(sorted(places, key=lambda place: len(texts[place])), np.int64)
    return [texts[place] for place in places], answers[places]
