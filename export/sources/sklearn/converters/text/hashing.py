"""HashingVectorizer: MurmurHash3 of words, in standard operators.

ONNX has no operator that takes a string apart. The bits of a word's characters are read with regular expressions, one for each place
and bit ("is the third character one of those with bit 5 set?"), so that words have a longest length: a text with a longer one, or with
a word that is not ASCII, makes the run fail. The hash itself is 32-bit arithmetic in int64.

A. Appleby, MurmurHash3_x86_32, https://github.com/aappleby/smhasher; FeatureHasher takes its sign and remainder.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.registry import TRANSFORM, Input, converts, unsupported
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole
from onnxferry.export.sources.sklearn.converters.text.vectorizers import Table, required

LONGEST = 32
"""Characters of one word."""

FURTHER = 16
"""Characters more for every further word of an n-gram."""

MOST_FEATURES = 1 << 16

MASK = 0xFFFFFFFF
BLOCK = (0xCC9E2D51, 0x1B873593)
FINAL = (0x85EBCA6B, 0xC2B2AE35)


@converts(TRANSFORM, "HashingVectorizer")
def _hashing(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.n_features > MOST_FEATURES:
        raise unsupported(
            model,
            f"n_features={model.n_features}, whose rows are dense in a file; take n_features={MOST_FEATURES} or fewer, or TfidfVectorizer",
        )
    if model.strip_accents is not None:
        raise unsupported(model, f"strip_accents={model.strip_accents!r}: do that step before the file, or use TfidfVectorizer")
    table = Table(graph, model, x, model.n_features)
    hits = Table(graph, model, x, model.n_features) if model.binary else None
    for length in table.lengths:
        grams, owner, valid = table.grams(length)
        place = LONGEST + (length - 1) * FURTHER
        fine = graph.op("RegexFullMatch", [grams], "bool", pattern=f"[\\x20-\\x7e]{{0,{place}}}") | ~valid
        table.require(required(graph, fine, f"a_word_is_not_ascii_or_longer_than_{place}_characters"))
        number = _hash(graph, _bytes(graph, grams, place))
        negative = number >= Whole(1 << 31)
        size = graph.where(negative, Whole(1 << 32) - number, number)
        column = graph.op("Mod", [size, Whole(model.n_features)], "int64")
        lowest = size.equal(Whole(1 << 31))
        column = graph.where(lowest, Whole((2**31 - 1 - (model.n_features - 1)) % model.n_features), column)
        sign = graph.where(negative, graph.constant(-1.0), graph.constant(1.0)) if model.alternate_sign else None
        table.add(owner, column, valid, sign)
        if hits is not None:
            hits.add(owner, column, valid)
    found = table.finished() if hits is None else hits.finished().minimum(1.0)
    if model.norm is None:
        return found
    total = (found * found).sum(keep=True).sqrt() if model.norm == "l2" else found.abs().sum(keep=True)
    return found / graph.where(total.equal(np.float64(0)), graph.constant(1.0), total)


def _bytes(graph: GraphBuilder, grams: Tensor, longest: int) -> list[Tensor]:
    """The character at each place, int64 (grams,); 0 behind the end."""
    made = []
    for place in range(longest):
        total: Tensor | None = None
        for bit in range(7):
            known = "".join(f"\\x{code:02x}" for code in range(0x20, 0x7F) if code >> bit & 1)
            has = graph.op("RegexFullMatch", [grams], "bool", pattern=f".{{{place}}}[{known}].*")
            share = has.cast("int64") * Whole(1 << bit)
            total = share if total is None else total + share
        assert total is not None  # noqa: S101 - there are bits
        made.append(total)
    return made


def _hash(graph: GraphBuilder, characters: list[Tensor]) -> Tensor:
    """MurmurHash3_x86_32 with the seed 0, from 0 to 2**32 - 1."""

    def low(value: Tensor) -> Tensor:
        return graph.op("BitwiseAnd", [value, Whole(MASK)], "int64")

    def mixed(a: Tensor, b: Tensor) -> Tensor:
        return graph.op("BitwiseXor", [a, b], "int64")

    def turned(value: Tensor, by: int) -> Tensor:
        return low(value * Whole(1 << by)) + value / Whole(1 << (32 - by))

    length = graph.constant(np.array(0))
    for each in characters:
        length = length + (each > Whole(0)).cast("int64")
    state = length * Whole(0)
    for start in range(0, len(characters), 4):
        block: Tensor | None = None
        for place, each in enumerate(characters[start : start + 4]):
            share = each * Whole(1 << (8 * place))
            block = share if block is None else block + share
        assert block is not None  # noqa: S101 - no block is empty
        block = low(turned(low(block * Whole(BLOCK[0])), 15) * Whole(BLOCK[1]))
        joined = mixed(state, block)
        full = low(turned(joined, 13) * Whole(5) + Whole(0xE6546B64))
        state = graph.where(length >= Whole(start + 4), full, graph.where(length > Whole(start), joined, state))
    state = mixed(state, length)
    for shift, factor in ((16, FINAL[0]), (13, FINAL[1])):
        state = low(mixed(state, state / Whole(1 << shift)) * Whole(factor))
    return mixed(state, state / Whole(1 << 16))
