"""A text's tokens and their hashed n-grams, as whole numbers: what a text classifier reads.

A token is a word (a run of ASCII letters, digits and ``'``, and of letters that UTF-8 writes in two bytes: é, я, ω), or any other
character by itself: a sign, or one of a script that has no spaces between its words. ASCII letters count as small ones. Each text ends
with one token more, its end, so that a text without words has one too.

A token is described by FEATURES hashes, each below PRIME (feature hashing, Weinberger et al. 2009, arXiv 0902.2206): of itself, of its
first PREFIX bytes, of itself and the next one, and of itself and the next two. There is no vocabulary: a network takes a hash modulo its
number of buckets. Everything is integer arithmetic below 2**63, so that a graph of ONNX operators gives the same numbers exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PRIME = 2**31 - 1


FEATURES = 4


PREFIX = 5  # bytes


LONGEST_PLACE = 255
"""Bytes of a token behind this one count as if they stood here: the products below stay under 2**63."""


END = 256
"""In place of a byte: the end of a text."""


SPACE, WORD, SIGN, TWO_BYTES, MORE_BYTES, FOLLOWS = range(6)
"""What a byte is: between tokens; of a word; a token by itself; the first of two, or of more, bytes of a character; one of the others."""


MULTIPLIER, NEXT, NEXT_TWO = 2654435761, 9973, 40503
"""Odd constants of the hashes: Knuth's for the bytes, two primes' products for neighbours."""


def _classes() -> np.ndarray:
    classes = np.full(END + 1, SIGN, np.int64)
    classes[:33] = SPACE
    classes[127] = SPACE
    classes[list(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'")] = WORD
    classes[0x80:0xC0] = FOLLOWS
    classes[0xC0:0xE0] = TWO_BYTES
    classes[0xE0:END] = MORE_BYTES
    return classes


CLASSES = _classes()
"""int64 (257,): what each byte is, and END."""


FOLDED = np.where((np.arange(END + 1) >= 65) & (np.arange(END + 1) <= 90), np.arange(END + 1) + 32, np.arange(END + 1))
"""int64 (257,): each byte, capital ASCII letters as small ones, and END."""


class Tokens(NamedTuple):
    """A text's tokens, its end the last of them."""

    starts: np.ndarray  # int64 (tokens,): the byte where each begins; the text's length for its end
    hashes: np.ndarray  # int64 (tokens, FEATURES), 0 … PRIME - 1


def mixed(value: np.ndarray) -> np.ndarray:
    """One more step of a hash: ``value`` int64 below 2**31 → value · (value + 1) mod PRIME."""
    result: np.ndarray = (value * value + value) % PRIME
    return result


def tokens(text: bytes) -> Tokens:
    """The tokens of a text in UTF-8; any other bytes have tokens too.

    >>> tokens("It's 好!".encode()).starts.tolist()
    [0, 5, 8, 9]
    """
    content = np.concatenate([np.frombuffer(text, np.uint8).astype(np.int64), [END]])
    kind = CLASSES[content]
    before = np.concatenate([[SPACE], kind[:-1]])
    before_that = np.concatenate([[SPACE], before[:-1]])
    in_word = (before == WORD) | (before == TWO_BYTES) | ((before == FOLLOWS) & (before_that == TWO_BYTES))
    of_word = (kind == WORD) | (kind == TWO_BYTES)
    begins = (kind != SPACE) & ((kind == SIGN) | (kind == MORE_BYTES) | (of_word & ~in_word) | (before == SPACE))
    starts = np.flatnonzero(begins)
    owner = np.cumsum(begins) - 1  # the token that each byte belongs to; -1 before the first
    place = np.minimum(np.arange(len(content)) - starts[np.maximum(owner, 0)], LONGEST_PLACE)
    value = mixed((place * (END + 1) + FOLDED[content] + 1) * MULTIPLIER % PRIME)
    total = np.concatenate([[0], np.cumsum(np.where(kind == SPACE, 0, value))])
    ends = np.concatenate([starts[1:], [len(content)]])
    own = (total[ends] - total[starts]) % PRIME
    prefix = (total[np.minimum(starts + PREFIX, ends)] - total[starts]) % PRIME
    after = np.concatenate([own[1:], [0]])
    after_that = np.concatenate([after[1:], [0]])
    pair = mixed((own * NEXT_TWO + after * NEXT + 7) % PRIME)
    three = mixed((pair * NEXT_TWO + after_that * NEXT + 11) % PRIME)
    return Tokens(starts, np.stack([own, prefix, pair, three], axis=1))
