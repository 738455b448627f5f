"""Speaker-name augmentation: the same play, in which the speakers have other names.

A model that knows only the names of its training plays predicts every heading of a new play wrongly. It should learn that
names repeat. So each time the text is read, the speakers of a passage get other names, the same ones wherever they speak or
are mentioned in it. Only the training text is augmented.

Speakers are found in headings, lines such as ``KING RICHARD II:``. A word of a heading that also occurs in lower case
(king, first, lady) is not a name.
"""

from __future__ import annotations

import re

import numpy as np

_HEADING = re.compile(rb"^([A-Z][A-Za-z' ]{1,30}):$", re.MULTILINE)


_WORD = re.compile(rb"[A-Za-z]+")


_SMALL = re.compile(rb"\b[a-z]+\b")


_PASSAGE = (6_000, 40_000)  # bytes; scenes and acts are in this range


_INVENTED = 0.5  # share of the new names that are made up: the start of one name and the end of another


def speaker_names(text: bytes) -> list[bytes]:
    """The names of the speakers, capitalized, in alphabetical order."""
    words = {word for heading in _HEADING.findall(text) for word in _WORD.findall(heading) if len(word) > 2}
    small = set(_SMALL.findall(text))
    return sorted({word.capitalize() for word in words if word.lower() not in small})


def rename_speakers(text: np.ndarray, names: list[bytes], share: float, rng: np.random.Generator) -> np.ndarray:
    """``text`` uint8 (n,) with the speakers of a ``share`` of its passages renamed: uint8 (about n,).

    ``names``: from :func:`speaker_names`, of the training text. Upper case stays upper case.
    """
    if share <= 0 or len(names) < 2:
        return text
    whole = text.tobytes()
    known = frozenset(names)
    pieces = []
    start = 0
    while start < len(whole):
        end = whole.find(b"\n\n", start + int(rng.integers(*_PASSAGE)))
        end = len(whole) if end < 0 else end + 2
        piece = whole[start:end]
        pieces.append(_rename(piece, names, known, rng) if rng.random() < share else piece)
        start = end
    return np.frombuffer(b"".join(pieces), np.uint8)


def _rename(piece: bytes, names: list[bytes], known: frozenset[bytes], rng: np.random.Generator) -> bytes:
    present = sorted({word.capitalize() for word in _WORD.findall(piece) if word[:1].isupper()} & known)
    others: dict[bytes, bytes] = {}
    taken: set[bytes] = set()
    for name in present:
        other = _new_name(names, rng)
        while other in taken:
            other = _new_name(names, rng)
        taken.add(other)
        others[name] = other

    def replace(match: re.Match[bytes]) -> bytes:
        word = match[0]
        other = others.get(word.capitalize()) if word[:1].isupper() else None
        if other is None:
            return word
        return other.upper() if word.isupper() else other

    return _WORD.sub(replace, piece)


def _new_name(names: list[bytes], rng: np.random.Generator) -> bytes:
    first = names[int(rng.integers(len(names)))]
    if rng.random() >= _INVENTED:
        return first
    second = names[int(rng.integers(len(names)))]
    return first[: (len(first) + 1) // 2] + second[len(second) // 2 :]
