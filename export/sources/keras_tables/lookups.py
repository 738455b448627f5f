"""StringLookup, TextVectorization and IntegerLookup of Keras in standard operators.

TensorFlow's strings are bytes of UTF-8 to these layers: lower case is that of the letters A to Z alone, punctuation is that of ASCII, and
white space is the six characters of ASCII. Other characters, such as a Turkish capital I, stay as they are, in Keras and in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.tensors import ML_DOMAIN, GraphBuilder, Tensor, Whole
from onnxferry.export.sources.sklearn.converters.text.vectorizers import TEXT_OPSET, Words, grams_of, replaced, required
from onnxferry.runtime.errors import ExportError

PUNCTUATION = "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'"
"""What Keras strips: each of these characters is deleted, wherever it is."""

SPACES = "\t\n\x0b\x0c\r"
"""White space besides the space."""


def looked_up(graph: GraphBuilder, table: Mapping[str, Any], x: Tensor, rank: int, last: int | None) -> Tensor:
    """What the layer gives for ``x``, which has ``rank`` axes, the last of size ``last`` (None where it is open)."""
    if table["unknowns"] > 1 and (table["kind"] != "IntegerLookup" or table["method"] != "floormod"):
        raise _refused(table, f"num_oov_indices={table['unknowns']}, which hashes with FarmHash, and ONNX has not: take 1")
    if table["kind"] != "TextVectorization":
        return _encoded(graph, table, _places(graph, table, x), rank, last)
    graph.needs_opset(TEXT_OPSET)
    if table["split"] == "character":
        raise _refused(table, "split='character', and ONNX has no operator that takes a string apart by characters: split by white space")
    if table["mode"] == "one_hot":
        raise _refused(table, "output_mode='one_hot', whose answer is ragged: take 'multi_hot'")
    if table["split"] is None:
        return _whole_texts(graph, table, x, rank, last)
    if rank > 2 or (rank == 2 and last != 1):
        raise _refused(table, f"an input of {rank} axes: give it Input(()) or Input((1,))")
    return _sequences(graph, table, x.flat()) if table["mode"] == "int" else _bags(graph, table, x.flat())


def _refused(table: Mapping[str, Any], why: str) -> ExportError:
    return ExportError(f"the {table['kind']} {table['layer']!r} has {why}")


def _places(graph: GraphBuilder, table: Mapping[str, Any], x: Tensor) -> Tensor:
    """The place of each entry: in bags, masked ones have that behind the last."""
    first, mask, bag = table["first"], table["mask"], table["mode"] != "int"
    default = table["unknown"] if table["unknowns"] == 1 else -1
    keys, values = table["vocabulary"], list(range(first, first + len(table["vocabulary"])))
    if x.dtype == "str":
        found = x.label(keys, values, default)
    else:
        x = x.cast("int64")
        found = graph.op("LabelEncoder", [x], "int64", domain=ML_DOMAIN, keys_int64s=keys, values_int64s=values, default_int64=default)
    if table["unknowns"] > 1:
        rest = graph.op("Mod", [x, Whole(table["unknowns"])], "int64") + Whole(table["unknown"])
        found = graph.where(found.equal(Whole(-1)), rest, found)
    if mask is not None:
        found = graph.where(x.equal(mask if x.dtype == "str" else Whole(mask)), Whole(table["depth"] if bag else 0), found)
    if table["unknowns"] == 0:
        found = found + required(graph, found >= Whole(0), f"{table['layer']}_has_no_place_for_what_it_does_not_know")
    return found


def _encoded(graph: GraphBuilder, table: Mapping[str, Any], places: Tensor, rank: int, last: int | None) -> Tensor:
    mode, depth = table["mode"], table["depth"]
    if mode == "int":
        return places
    if mode == "one_hot" and rank > 1 and last == 1:
        places = graph.op("Squeeze", [places, Whole([-1])], "int64")
    elif mode != "one_hot" and rank != 2:
        raise _refused(table, f"output_mode={mode!r} on an input of {rank} axes, batch included: give it Input((n,))")
    hot = graph.op("OneHot", [places, Whole(depth), graph.constant(np.array([0, 1]))], "int64", axis=-1)
    if mode == "one_hot":
        return hot
    return _weighted(graph, table, hot.max(1) if mode == "multi_hot" else hot.sum(1))


def _weighted(graph: GraphBuilder, table: Mapping[str, Any], counts: Tensor) -> Tensor:
    if table["mode"] == "multi_hot":
        return counts.minimum(Whole(1))
    if table["mode"] == "count":
        return counts
    return counts.cast("float32") * graph.constant(np.array(table["weights"], np.float32), "float32")


def _standardized(words: Words, table: Mapping[str, Any]) -> None:
    how = table["standardize"] or ""
    if "lower" in how:
        # In the locale "C" these are the letters A to Z, as in TensorFlow.
        words.pieces = words.graph.op("StringNormalizer", [words.pieces], "str", case_change_action="LOWER", locale="C")
    if "strip_punctuation" in how:
        words.only_if(words.any_of(PUNCTUATION), _strip)


def _strip(words: Words) -> None:
    for character in PUNCTUATION:
        words.pieces = replaced(words.graph, words.pieces, character, "", words.any_of(character))


def _whole_texts(graph: GraphBuilder, table: Mapping[str, Any], x: Tensor, rank: int, last: int | None) -> Tensor:
    """split=None: every entry is one word."""
    if table["ngrams"]:
        raise _refused(table, "ngrams with split=None: split by white space")
    shape = x.shape()
    flat = x.flat()
    words = Words(graph, flat, _zeros(graph, flat.shape()))
    _standardized(words, table)
    places = _places(graph, table, graph.op("Reshape", [words.pieces, shape], "str"))
    length = table["length"]
    if length is None or rank < 2:
        return _encoded(graph, table, places, rank, last)
    cut = graph.op("Slice", [places, Whole([0]), Whole([length]), Whole([rank - 1])], "int64")
    have = graph.op("Gather", [cut.shape(), Whole([rank - 1])], "int64")
    ends = graph.concat([graph.constant(np.zeros(2 * rank - 1, np.int64)), Whole([length]) - have], axis=0)
    return graph.op("Pad", [cut, ends], "int64")


def _words(graph: GraphBuilder, table: Mapping[str, Any], texts: Tensor) -> tuple[Words, Tensor, list[int]]:
    """The words, the number of texts, and the lengths of n-grams. Behind the texts are rows of one word, so that there always are some."""
    lengths = sorted(table["ngrams"] or [1])
    extra = max(lengths)
    rows = graph.op("Squeeze", [texts.shape()], "int64")
    owners = graph.op("Range", [Whole(0), rows + Whole(extra), Whole(1)], "int64")
    words = Words(graph, graph.concat([texts, graph.constant(["a"] * extra)], axis=0), owners)
    words.split(None)  # at spaces
    for space in SPACES:
        words.split(space)
    _standardized(words, table)
    words.keep(~words.pieces.equal(""))
    return words, rows, list(table["ngrams"] or [1])


def _zeros(graph: GraphBuilder, count: Tensor) -> Tensor:
    return graph.op("Expand", [Whole([0]), count.reshape(1)], "int64")


def _added(graph: GraphBuilder, cells: Tensor, places: Tensor, amounts: Tensor) -> Tensor:
    return graph.op("ScatterElements", [cells, places, amounts], "int64", axis=0, reduction="add")


def _sequences(graph: GraphBuilder, table: Mapping[str, Any], texts: Tensor) -> Tensor:
    """(texts, time): all words of a text, then its pairs, and so on; 0 behind its end."""
    words, rows, lengths = _words(graph, table, texts)
    every = rows + Whole(max(lengths))
    counts = _added(graph, _zeros(graph, every), words.owners, (words.owners >= Whole(0)).cast("int64"))
    starts = graph.op("CumSum", [counts, Whole(0)], "int64", exclusive=1)
    before = _zeros(graph, every)  # n-grams of the lengths that came before
    found = []
    for length in lengths:
        grams, owner, valid = grams_of(words, length, rows)
        order = graph.op("Range", [Whole(0), graph.op("Squeeze", [owner.shape()], "int64"), Whole(1)], "int64")
        place = order - starts.take(owner) + before.take(owner)
        found.append((_places(graph, table, grams), owner, place, valid))
        before = before + graph.op("Max", [counts - Whole(length - 1), Whole(0)], "int64")
    if table["length"] is None:
        known = graph.concat([graph.constant(np.array([0])), before], axis=0)  # the largest of none is 0
        time = graph.op("Slice", [known, Whole([0]), rows.reshape(1) + Whole([1])], "int64").max(0)
    else:
        time = graph.constant(np.array(table["length"]))
    behind = rows * time
    cells = _zeros(graph, behind + Whole(1))
    for number, owner, place, valid in found:
        fits = valid & (place < time)
        cells = _added(graph, cells, graph.where(fits, owner * time + place, behind), graph.where(fits, number, Whole(0)))
    inner = graph.op("Slice", [cells, Whole([0]), behind.reshape(1)], "int64")
    return graph.op("Reshape", [inner, graph.concat([rows.reshape(1), time.reshape(1)], axis=0)], "int64", allowzero=1)


def _bags(graph: GraphBuilder, table: Mapping[str, Any], texts: Tensor) -> Tensor:
    """(texts, vocabulary)."""
    words, rows, lengths = _words(graph, table, texts)
    depth = table["depth"]
    behind = rows * Whole(depth)
    cells = _zeros(graph, behind + Whole(1))
    for length in lengths:
        grams, owner, valid = grams_of(words, length, rows)
        number = _places(graph, table, grams)
        fits = valid & (number < Whole(depth))
        cells = _added(graph, cells, graph.where(fits, owner * Whole(depth) + number, behind), fits.cast("int64"))
    inner = graph.op("Slice", [cells, Whole([0]), behind.reshape(1)], "int64")
    shape = graph.concat([rows.reshape(1), graph.constant(np.array([depth]))], axis=0)
    return _weighted(graph, table, graph.op("Reshape", [inner, shape], "int64", allowzero=1))
