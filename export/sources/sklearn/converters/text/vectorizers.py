"""Text vectorizers, in standard string operators of ONNX operator set 20.

A text is split at every character that is no part of a word, one StringSplit each; rare ones stand in branches that run only where a
text has one. What is left are words with the number of their row. n-grams are joined, looked up in the vocabulary, and counted.
A text with a character that the graph does not know (of a rare script, a rare emoji) makes the run fail; it is never counted wrongly.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxferry.export.sources.sklearn.converters.registry import TRANSFORM, Columns, Input, converts, matrix, unsupported
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole
from onnxferry.export.sources.sklearn.converters.text.token_pattern import PatternError, class_of, is_word, words_pattern
from onnxferry.runtime.errors import ExportError

TEXT_OPSET = 20

ASCII = [chr(code) for code in range(33, 127) if not is_word(chr(code))]

RARE = list(
    "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xab\xac\xad\xae\xaf\xb0\xb1\xb4\xb6\xb7\xb8\xbb\xbf\xd7\xf7"
    "\u2009\u200b\u200d\u2010\u2011\u2012\u2013\u2014\u2015\u2018\u2019\u201a\u201c\u201d\u201e\u2020\u2022\u2026\u2028\u2029\u202f\u2030\u2032"
    "\u2033\u2039\u203a\u20ac\u2116\u2122\u2190\u2191\u2192\u2193\u21d2\u2212\u2248\u2260\u2264\u2265\u2605\u2713\u3000\u3001\u3002\u300c\u300d"
    "\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\ufe0f\ufeff\ufffd"
)

EMOJI = list(
    "\u2600\u263a\u2728\u2764\u2b50\u2705\u274c\u2757\U0001f389\U0001f44c\U0001f44d\U0001f44e\U0001f44f\U0001f494\U0001f495\U0001f499\U0001f4aa\U0001f4af"
    "\U0001f525\U0001f600\U0001f601\U0001f602\U0001f603\U0001f604\U0001f605\U0001f606\U0001f609\U0001f60a\U0001f60d\U0001f60e\U0001f60f\U0001f610\U0001f612"
    "\U0001f614\U0001f618\U0001f61c\U0001f620\U0001f621\U0001f622\U0001f629\U0001f62d\U0001f62e\U0001f631\U0001f633\U0001f634\U0001f642\U0001f643\U0001f644"
    "\U0001f64f\U0001f680\U0001f914\U0001f917\U0001f923\U0001f970\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
)

BLOCKS = (range(0xC0, 0x100), range(0x100, 0x180), range(0x386, 0x3D0), range(0x400, 0x460))
"""Letters with another lower case, or an accent: Latin, Greek, Cyrillic. Each block is a branch."""


class Words:
    """Texts being split: pieces and the row of each, as vectors. The last pieces are of extra rows, so that there always are some."""

    def __init__(self, graph: GraphBuilder, pieces: Tensor, owners: Tensor) -> None:
        self.graph, self.pieces, self.owners = graph, pieces, owners

    def inside(self, graph: GraphBuilder) -> Words:
        return Words(graph, Tensor(graph, self.pieces.name, "str"), Tensor(graph, self.owners.name, "int64"))

    def keep(self, flags: Tensor) -> None:
        self.pieces = self.graph.op("Compress", [self.pieces, flags], "str", axis=0)
        self.owners = self.graph.op("Compress", [self.owners, flags], "int64", axis=0)

    def split(self, delimiter: str | None) -> None:
        """At one character; None: at white space."""
        attributes = {} if delimiter is None else {"delimiter": delimiter}
        parts, _ = self.graph.ops("StringSplit", [self.pieces], ["str", "int64"], **attributes)
        spread = self.graph.op("Expand", [self.owners.reshape(-1, 1), parts.shape()], "int64")
        self.pieces, self.owners = parts.reshape(-1), spread.reshape(-1)
        self.keep(~self.pieces.equal(""))

    def matches(self, pattern: str) -> Tensor:
        return self.graph.op("RegexFullMatch", [self.pieces], "bool", pattern=pattern)

    def any_of(self, characters: Sequence[str]) -> Tensor:
        inside = "".join(f"\\x{{{ord(each):x}}}" for each in characters)
        return self.matches(f"(?s).*[{inside}].*").cast("int64").max(0).cast("bool")

    def only_if(self, condition: Tensor, change: Callable[[Words], None]) -> None:
        """The change, in a branch that runs where the condition holds."""

        def yes(graph: GraphBuilder) -> Sequence[Tensor]:
            inner = self.inside(graph)
            change(inner)
            return [inner.pieces, inner.owners]

        self.pieces, self.owners = self.graph.branch(condition, yes, [self.pieces, self.owners])


def replaced(graph: GraphBuilder, texts: Tensor, old: str, new: str, needed: Tensor | None = None) -> Tensor:
    """The texts with every ``old``, one character, as ``new``, which does not hold it. ``needed``: a flag, whether any text has it."""
    body = graph.subgraph()
    given = Tensor(body, body.fresh("texts"), "str")
    parts, _ = body.ops("StringSplit", [given], ["str", "int64"], delimiter=old, maxsplit=1)
    padded = body.op("Concat", [parts, body.op("Expand", [body.constant(""), _pairs(body, given)], "str")], "str", axis=1)
    first, second = padded.columns(0), padded.columns(1)
    has = body.op("RegexFullMatch", [given], "bool", pattern=f"(?s).*\\x{{{ord(old):x}}}.*")
    joined = body.op("StringConcat", [body.op("StringConcat", [first, body.constant(new)], "str"), second], "str")
    changed = body.where(has, joined, given)
    again = has.cast("int64").max(0).cast("bool")
    graph.names = body.names
    number, before = graph.fresh("iteration"), graph.fresh("before")
    inner = helper.make_graph(
        body.nodes,
        "replace",
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(before, TensorProto.BOOL, []),
            helper.make_tensor_value_info(given.name, TensorProto.STRING, None),
        ],
        [
            helper.make_tensor_value_info(again.name, TensorProto.BOOL, []),
            helper.make_tensor_value_info(changed.name, TensorProto.STRING, None),
        ],
    )
    return graph.op("Loop", [Tensor(graph, "", "int64"), graph.constant(True) if needed is None else needed, texts], "str", body=inner)


def _pairs(graph: GraphBuilder, vector: Tensor) -> Tensor:
    return graph.op("Concat", [vector.shape(), Whole([2])], "int64", axis=0)


def stripped(character: str, how: str | None) -> str:
    """As ``strip_accents``."""
    if how is None:
        return character
    parts = unicodedata.normalize("NFKD", character)
    if how == "ascii":
        return parts.encode("ascii", "ignore").decode()
    return "".join(each for each in parts if not unicodedata.combining(each))


def _changed(lowercase: bool, accents: str | None) -> Callable[[str], str]:
    return lambda character: stripped(character.lower() if lowercase else character, accents)


def _normalized(words: Words, model: Any) -> None:
    """Lower case and accents."""
    change = _changed(model.lowercase, model.strip_accents)
    if model.lowercase:
        # In the locale "C", which is everywhere: ASCII alone.
        words.pieces = words.graph.op("StringNormalizer", [words.pieces], "str", case_change_action="LOWER", locale="C")
    # Hashes are of ASCII alone: other letters stay, and the run says so.
    for block in () if type(model).__name__ == "HashingVectorizer" else BLOCKS:
        # A capital sigma is another letter at the end of a word: it is left, and refused.
        known = [chr(code) for code in block if change(chr(code)) != chr(code) and chr(code) != "\u03a3"]
        if known:
            words.only_if(words.any_of(known), partial(_replace_all, change=change, letters=known))


def _replace_all(words: Words, letters: Sequence[str], change: Callable[[str], str]) -> None:
    for each in letters:
        words.pieces = replaced(words.graph, words.pieces, each, change(each))


def _tokens(graph: GraphBuilder, model: Any, texts: Tensor) -> tuple[Words, Tensor]:
    """The words of all texts, and a number that is 0, or makes the run fail where a character is not known."""
    _check(model)
    try:
        inner = words_pattern(model.token_pattern)
    except PatternError as error:
        raise unsupported(model, f"token_pattern={model.token_pattern!r}: {error}") from error
    extra = model.ngram_range[1]
    rows = texts.shape()
    total = graph.op("Squeeze", [rows], "int64") + Whole(extra)
    owners = graph.op("Range", [Whole(0), total, Whole(1)], "int64")
    words = Words(graph, graph.concat([texts, graph.constant(["a"] * extra)], axis=0), owners)
    _normalized(words, model)
    words.split(None)  # at spaces
    _split_everywhere(words, "\t\n\r")
    change = _changed(model.lowercase, model.strip_accents)
    if inner is not None:
        _split_everywhere(words, ASCII)
        for known in (RARE, EMOJI):
            # A trade mark sign without its accents is the letters TM.
            ends = [each for each in known if not any(map(is_word, change(each)))]
            words.only_if(words.any_of(ends), partial(_split_everywhere, delimiters=ends))
        fine = words.matches(f"[{class_of(lambda each: is_word(each) and _final(each, change))}]*")
    else:
        spaces = [each for each in RARE if each.isspace()]
        words.only_if(words.any_of(spaces), partial(_split_everywhere, delimiters=spaces))
        fine = words.matches(f"(?s)[^{class_of(lambda each: each.isspace() or not _final(each, change))}]*")
    failing = required(graph, fine, "a_text_has_a_character_that_this_file_does_not_know")
    if inner is not None:
        words.keep(words.matches(inner) | (words.owners >= rows))
    stops = sorted(model.get_stop_words() or ())
    if stops:
        words.keep((words.pieces.label(stops, [1] * len(stops), 0) < Whole(1)) | (words.owners >= rows))
    return words, failing


def _split_everywhere(words: Words, delimiters: Sequence[str]) -> None:
    for each in delimiters:
        words.split(each)


def _final(character: str, change: Callable[[str], str]) -> bool:
    """True for a character that lower case and accents leave as it is."""
    return change(character) == character and character != "\u03a3"


def required(graph: GraphBuilder, flags: Tensor, name: str) -> Tensor:
    """0 where all flags hold; else the run fails, and ONNX Runtime's error names the node, which says why."""
    lowest = graph.concat([flags.cast("int64").reshape(-1), graph.constant(np.array([1]))], axis=0).min(0)
    place = Whole(1) - lowest
    made = graph.op("Gather", [graph.constant(np.array([0])), place], "int64")
    graph.nodes[-1].name = f"{name}_{graph.names}"
    return made


def _check(model: Any) -> None:
    if model.analyzer != "word":
        raise unsupported(
            model, f"analyzer={model.analyzer!r}: ONNX has no operator that takes a string apart by characters; use analyzer='word'"
        )
    for name in ("preprocessor", "tokenizer"):
        if getattr(model, name) is not None:
            raise unsupported(model, f"a {name} of its own: do that step before the file, or use token_pattern")
    if model.input != "content":
        raise unsupported(model, f"input={model.input!r}: read the files before, and use input='content'")
    if callable(model.strip_accents):
        raise unsupported(model, "a function as strip_accents: use 'unicode' or 'ascii'")


def grams_of(words: Words, length: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The n-grams of a length, the row of each, and whether it lies within one row of the first ``rows``."""
    graph, total = words.graph, words.pieces.shape()

    def shifted(vector: Tensor, by: int) -> Tensor:
        end = total - Whole([length - 1 - by])
        return graph.op("Slice", [vector, Whole([by]), end], vector.dtype)

    grams = shifted(words.pieces, 0)
    for place in range(1, length):
        spaced = graph.op("StringConcat", [grams, graph.constant(" ")], "str")
        grams = graph.op("StringConcat", [spaced, shifted(words.pieces, place)], "str")
    owner = shifted(words.owners, 0)
    return grams, owner, (owner < rows) & owner.equal(shifted(words.owners, length - 1))


class Table:
    """Cells (rows, size) of a text table, float64, to which the n-grams of each length are added."""

    def __init__(self, graph: GraphBuilder, model: Any, x: Input, size: int) -> None:
        if isinstance(x, Columns) or x.dtype != "str":
            raise ExportError(
                f"{type(model).__name__} takes a vector of texts: give its ColumnTransformer one column by name, not a list of columns"
            )
        graph.needs_opset(TEXT_OPSET)
        self.graph, self.size = graph, size
        self.words, self._failing = _tokens(graph, model, x)
        self.lengths = range(model.ngram_range[0], model.ngram_range[1] + 1)
        self.rows = graph.op("Squeeze", [x.shape()], "int64")
        self._cells = self.rows * Whole(size)
        self._made = graph.op(
            "ConstantOfShape",
            [(self._cells + Whole(1)).reshape(1)],
            "float64",
            value=helper.make_tensor("zero", TensorProto.DOUBLE, [1], [0.0]),
        )

    def grams(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        return grams_of(self.words, length, self.rows)

    def add(self, owner: Tensor, column: Tensor, valid: Tensor, amount: Tensor | None = None) -> None:
        """``amount``, or 1, where ``valid``."""
        cell = self.graph.where(valid, owner * Whole(self.size) + column, self._cells)
        amount = valid.cast("float64") if amount is None else self.graph.where(valid, amount, self.graph.constant(0.0))
        self._made = self.graph.op("ScatterElements", [self._made, cell, amount], "float64", axis=0, reduction="add")

    def require(self, failing: Tensor) -> None:
        """What :func:`required` gave."""
        self._failing = self._failing + failing

    def finished(self) -> Tensor:
        graph = self.graph
        inner = graph.op("Slice", [self._made, Whole([0]), self._cells.reshape(1)], "float64")
        shape = graph.op("Concat", [self.rows.reshape(1), Whole([self.size])], "int64", axis=0)
        return graph.op("Reshape", [inner, shape], "float64") + self._failing.real()


def _counts(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """(rows, vocabulary), float64."""
    table = Table(graph, model, x, len(model.vocabulary_))
    for length in table.lengths:
        known = {gram: int(place) for gram, place in model.vocabulary_.items() if gram.count(" ") == length - 1}
        if known:
            grams, owner, valid = table.grams(length)
            number = grams.label(list(known), list(known.values()))
            table.add(owner, number, valid & (number >= Whole(0)))
    found = table.finished()
    return found.minimum(1.0) if model.binary else found


@converts(TRANSFORM, "CountVectorizer")
def _count_vectorizer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _counts(graph, model, x)


@converts(TRANSFORM, "TfidfVectorizer")
def _tfidf_vectorizer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _weighted(graph, model._tfidf, _counts(graph, model, x))


@converts(TRANSFORM, "TfidfTransformer")
def _tfidf_transformer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _weighted(graph, model, matrix(graph, x))


def _weighted(graph: GraphBuilder, model: Any, found: Tensor) -> Tensor:
    if model.sublinear_tf:
        zero = found.equal(np.float64(0))
        found = graph.where(zero, graph.constant(0.0), graph.where(zero, graph.constant(1.0), found).log() + 1.0)
    if model.use_idf:
        found = found * np.asarray(model.idf_, np.float64)
    if model.norm is None:
        return found
    length = (found * found).sum(keep=True).sqrt() if model.norm == "l2" else found.abs().sum(keep=True)
    return found / graph.where(length.equal(np.float64(0)), graph.constant(1.0), length)


def special_characters() -> list[list[str]]:
    """Those that the branches are there for."""
    rare = [each for each in RARE if not any(map(is_word, stripped(each, "unicode")))]
    return [rare, EMOJI, *([each for each in map(chr, block) if _simple(each)] for block in BLOCKS)]


def _simple(letter: str) -> bool:
    """A letter with one lower case letter: a Turkish capital I has a mark beside it, and a capital sigma two lower cases."""
    return letter.isalpha() and len(letter.lower()) == 1 and letter != "\u03a3"
