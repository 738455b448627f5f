"""Tokens of texts and their hashes: where words begin, what counts as the same, and numbers that files rely on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxferry.train.data.text_tokens import FEATURES, PRIME, tokens

HASHES = [
    [1164210142, 1164210142, 626539259, 1285083497],
    [1986162804, 1986162804, 567234857, 1974548623],
    [1639268550, 1639268550, 1934152967, 1306815553],
]


def words(text: str) -> list[str]:
    content = text.encode()
    starts = tokens(content).starts
    return [content[start:end].decode().rstrip() for start, end in itertools.pairwise(starts.tolist())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a lovely  film!", ["It's", "a", "lovely", "film", "!"]),
        ("房间很好，", ["房", "间", "很", "好", "，"]),
        ("naïve Ünder не ω", ["naïve", "Ünder", "не", "ω"]),
        ("R400不错", ["R400", "不", "错"]),
        ("wow...🙂", ["wow", ".", ".", ".", "🙂"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_words_are_runs_of_letters_and_other_characters_stand_alone(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_end_is_a_token_and_begins_where_the_text_ends() -> None:
    assert tokens(b"").starts.tolist() == [0]
    assert tokens(b"good ").starts.tolist() == [0, 5]


def test_hashes_are_those_of_the_files_that_were_exported() -> None:
    """Numbers of this version: others would give every exported file and every checkpoint other words."""
    found = tokens("Good 好".encode()).hashes
    assert found.shape == (3, FEATURES)
    assert found.dtype == np.int64
    assert found.min() >= 0
    assert found.max() < PRIME
    assert found.tolist() == tokens(b"good \xe5\xa5\xbd").hashes.tolist()  # without case
    assert found.tolist() == HASHES


def test_a_hash_is_of_letters_and_their_order_and_neighbours() -> None:
    own, prefix, pair, three = tokens(b"abc abd cab abcdef abcdeg abc abd x").hashes.T
    assert len(set(own[:5].tolist())) == 5
    assert own[0] == own[5]
    assert pair[0] == pair[5]  # abc abd
    assert three[0] != three[5]  # abc abd cab, abc abd x
    assert prefix[3] == prefix[4]  # abcde
    assert pair[0] != pair[1]


def test_bytes_that_are_no_utf_8_have_tokens_too() -> None:
    everything = bytes(range(256))
    found = tokens(everything)
    assert found.starts[-1] == 256
    assert (np.diff(found.starts) > 0).all()
    assert tokens(b"\x80\x80 \xe5").starts.tolist() == [0, 3, 4]


def test_a_long_word_is_no_overflow() -> None:
    found = tokens(b"a" * 100_000).hashes
    assert ((found >= 0) & (found < PRIME)).all()
