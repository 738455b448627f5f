"""Pairs from a file, and dates: what is refused, what is held out, and that no date that is made is ambiguous."""

from __future__ import annotations

import datetime
import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.train.data.pairs import dates
from onnxferry.train.data.pairs.date_writing import LOCALES, Format, Names, era_year, han_number
from onnxferry.train.data.pairs.dates import DateWriter, load_dates
from onnxferry.train.data.pairs.tsv import MIN_PAIRS, load_pairs

LINES = [f"text {number}\ttarget {number % 7}" for number in range(200)]


def written(tmp_path: Path, lines: list[str], name: str = "pairs.tsv") -> Path:
    path = tmp_path / name
    path.write_bytes("\n".join(lines).encode())
    return path


def test_a_file_is_split_by_its_sources(tmp_path: Path) -> None:
    splits = load_pairs(written(tmp_path, [*LINES, "", *LINES]), validation=0.2)
    parts = [{source for source, _ in part} for part in (splits.train, splits.validation, splits.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(map(len, parts)) == 200
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 400
    assert all(parts)
    more = load_pairs(written(tmp_path, [*LINES, "one more\tline"]), validation=0.2)
    assert {source for source, _ in more.test} >= parts[2]  # a file that grows keeps its test
    packed = tmp_path / "pairs.tsv.gz"
    packed.write_bytes(gzip.compress("\r\n".join(LINES).encode()))
    assert load_pairs(packed).train == load_pairs(written(tmp_path, LINES)).train


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no tab here", "line 201 of pairs.tsv has no tab"),
        ("a\tb\tc", "line 201 of pairs.tsv has 2 tabs"),
        ("a\t ", "line 201 of pairs.tsv has an empty target"),
        (" \tb", "line 201 of pairs.tsv has an empty source"),
        ("a" * 1001 + "\tb", "line 201 of pairs.tsv has a source of 1,001 bytes"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        load_pairs(written(tmp_path, [*LINES, line]))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_pairs_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no file"):
        load_pairs(tmp_path / "gone.tsv")
    with pytest.raises(DataError, match=rf"has 1 pair; at least {MIN_PAIRS} are needed"):
        load_pairs(written(tmp_path, LINES[:1]))
    with pytest.raises(DataError, match="too few different sources"):
        load_pairs(written(tmp_path, LINES[:1] * 50))
    path = tmp_path / "latin.tsv"
    path.write_bytes("\n".join([*LINES, "février\tf"]).encode("cp1252"))
    with pytest.raises(DataError, match=r"latin\.tsv is not utf-8"):
        load_pairs(path)
    assert len(load_pairs(path, encoding="cp1252").train)
    with pytest.raises(InputError, match="not bytes"):
        load_pairs(path, encoding="bytes")
    with pytest.raises(DataError, match="is a folder"):
        load_pairs(tmp_path)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"a\tb\n" * 1000)[:-10])
    with pytest.raises(DataError, match="cannot be read"):
        load_pairs(cut)


def test_eras_and_chinese_numbers() -> None:
    assert [han_number(value) for value in (1, 10, 12, 20, 31)] == ["一", "十", "十二", "二十", "三十一"]
    day = datetime.date
    assert era_year(day(2019, 4, 30)) == "平成31"
    assert era_year(day(2019, 5, 1)) == "令和元"
    assert era_year(day(1926, 12, 25), latin=True) == "S1"
    assert era_year(day(1926, 12, 24), latin=True) == "T15"


@pytest.mark.parametrize(
    ("text", "day", "certain"),
    [
        ("{M}/{d}/{y}", (2019, 3, 4), False),
        ("{M}/{d}/{y}", (2019, 3, 13), True),
        ("{d}/{M}/{y}", (2019, 3, 3), True),
        ("{d}.{M}.{y}", (2019, 3, 4), True),
        ("{y}/{M}/{d}", (2019, 3, 4), True),
        ("{dd}.{MM}.{yy}", (2019, 3, 4), False),
        ("{dd}.{MM}.{yy}", (1997, 3, 4), True),
        ("{MMM} {d}, '{yy}", (2019, 3, 4), True),
        ("{MMM} {d}, '{yy}", (1950, 3, 4), False),
        ("{E}, {M}/{d}/{y}", (2019, 3, 4), False),
        ("民國{roc}年{M}月{d}日", (1911, 3, 4), False),
    ],
)
def test_what_is_ambiguous_is_left_out(text: str, day: tuple[int, int, int], certain: bool) -> None:
    assert Format("en", text).certain(datetime.date(*day)) is certain


@pytest.mark.parametrize("language", LOCALES)
def test_each_language_holds_out_formats_whose_parts_are_known(language: str) -> None:
    writer = DateWriter(Names(language))
    train, test = writer.formats["train"], writer.formats["test"]
    assert test
    assert writer.formats["validation"]
    known = {field for form in train for field in form.fields}
    for form in test:
        assert form not in train
        assert form.key not in {other.key for other in train}
        assert form.shared or set(form.fields) <= known


def test_dates_are_held_out_and_nothing_is_ambiguous() -> None:
    splits = load_dates(1000, 20)
    days = [{target for _, target in part} for part in (splits.train, splits.validation, splits.test)]
    assert not days[0] & days[1]
    assert not days[0] & days[2]
    assert not days[1] & days[2]
    meanings: dict[bytes, bytes] = {}
    for source, target in (*splits.train, *splits.validation, *splits.test):
        datetime.date.fromisoformat(target.decode())
        assert meanings.setdefault(source, target) == target, source.decode()
    assert len(splits.groups["dates"]) == len(splits.groups["formats"]) == 20 * len(LOCALES)
    assert set(LOCALES) <= set(splits.groups)
    again = load_dates(1000, 20)
    assert again.sha256 == splits.sha256
    assert load_dates(1000, 20, seed=1).sha256 != splits.sha256


def test_hands_change_no_number() -> None:
    generator = np.random.default_rng(0)
    for language in LOCALES:
        for _ in range(30):
            text = dates.by_hand("3. März, 2019", language, language in ("ar", "hi", "th"), generator)
            digits = "".join(str(int(c)) for c in text if c.isdigit())
            assert digits == "32019"
