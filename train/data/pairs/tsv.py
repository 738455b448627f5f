"""Pairs of texts to train on, split into train, validation and test.

How a file holds them is described in :mod:`onnxferry.runtime.evaluation.pairs`. The split follows from the source's bytes alone, so that a
sentence that occurs twice in the file is in one part only, and a file that grows keeps its test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.evaluation.pairs import Pair as Pair
from onnxferry.runtime.evaluation.pairs import pairs_in, unpacked
from onnxferry.train.data.text import BYTES, to_utf8

TEST_SHARE = 0.1


VALIDATION_SHARE = 0.05


MIN_PAIRS = 20
"""Fewer cannot be split into three useful parts."""


@dataclass(frozen=True, eq=False)
class PairSplits:
    """Pairs to train on, to choose by and to test on; no source of the test is in another part."""

    name: str
    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]
    sha256: str  # of all pairs, hex
    source: str  # in short words, without a local path
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of the test: name -> rows

    @property
    def longest(self) -> int:
        """Bytes of the longest target."""
        return max(len(target) for part in (self.train, self.validation, self.test) for _, target in part)


def load_pairs(path: Path, *, validation: float = VALIDATION_SHARE, encoding: str = "utf-8") -> PairSplits:
    """The pairs of a file, a tenth of them for the test. ``validation``: share of the others that is held out to choose by, 0 … 0.5.

        splits = load_pairs(Path("german-english.tsv.gz"))

    Raises InputError for a share or an encoding that is none; DataError for a file that is missing or not in ``encoding``, for lines that
    are no pair, each named by its number, and for fewer than MIN_PAIRS pairs.
    """
    if not 0 <= validation <= 0.5:
        raise InputError(f"the share of pairs held out for validation must be 0 … 0.5, got {validation}")
    if encoding == BYTES:
        raise InputError("pairs are lines of text: give --encoding utf-8, gbk, big5, …, not bytes")
    content = to_utf8(unpacked(path), encoding, path.name)
    pairs = pairs_in(content.decode("utf-8"), path.name)
    if len(pairs) < MIN_PAIRS:
        found = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        raise DataError(f"{path.name} has {found}; at least {MIN_PAIRS} are needed, and some thousands to learn to translate")
    train: list[Pair] = []
    choosing: list[Pair] = []
    test: list[Pair] = []
    for pair in pairs:
        share = _share(pair[0])
        part = test if share < TEST_SHARE else choosing if share < TEST_SHARE + (1 - TEST_SHARE) * validation else train
        part.append(pair)
    if not train or not test:  # few different sources may all fall on one side
        sources = len({source for source, _ in pairs})
        raise DataError(f"{path.name} has too few different sources to be split into train and test: {sources}; give more")
    return PairSplits(path.name.split(".")[0], train, choosing, test, digest_of(content), f"the user's own pairs, {path.name}")


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _share(source: bytes) -> float:
    """A number in [0, 1) that the source alone decides."""
    return int.from_bytes(hashlib.sha256(source).digest()[:8], "big") / 2**64
