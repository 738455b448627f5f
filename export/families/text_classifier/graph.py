"""A text classifier as one graph: bytes of texts in; classes, attention and each token's evidence out.

Built node by node: which tokens a text has depends on its bytes, and no exporter captures that. The first half is the arithmetic of
``onnxferry.train.data.text_tokens`` in int64, and must give the same hashes to the last bit. It works on all texts at once, one behind the
other, each with its end, and pads only in the end, so that the recurrent operator gets rows of tokens.

Inputs ("= …": optional, with that default)
    text          uint8    (batch, length)                bytes of UTF-8; the length may be 0
    text_length   int64    (batch,)                 = -1  bytes of each row that count, from its start; -1: all
Outputs
    probabilities float32  (batch, classes)
    class_index   int64    (batch,)
    attention     float32  (batch, tokens)                shares, whose sum is 1; 0 behind a text's end
    evidence      float32  (batch, tokens, classes)       what each token adds to the logits; 0 behind a text's end
    starts        int64    (batch, tokens)                the byte where each token begins; the text's length for its end and behind
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxferry.export.families.nodes import Nodes
from onnxferry.export.families.rnn.graph import GATE_ORDER
from onnxferry.export.graphs.nodes import OPSET, ir_version
from onnxferry.train.data.text_tokens import (
    CLASSES,
    END,
    FOLDED,
    FOLLOWS,
    LONGEST_PLACE,
    MORE_BYTES,
    MULTIPLIER,
    NEXT,
    NEXT_TWO,
    PREFIX,
    PRIME,
    SIGN,
    SPACE,
    TWO_BYTES,
    WORD,
)
from onnxferry.train.families.text_classifier import EMBEDDED, OFF, TextClassifierConfig, TextNetwork


def text_classifier_graph(network: TextNetwork) -> onnx.ModelProto:
    """The whole-task graph of ``network``, in standard ONNX operators of opset 18."""
    config = network.config
    graph = _Graph()
    graph.initializers.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), "text_length"))
    _weights(graph, network)
    _hashes(graph)
    _answer(graph, config)
    classes = len(config.labels)
    made = helper.make_graph(
        graph.nodes,
        "text_classifier",
        [
            helper.make_tensor_value_info("text", TensorProto.UINT8, ["batch", "length"]),
            helper.make_tensor_value_info("text_length", TensorProto.INT64, ["batch_or_1"]),
        ],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("class_index", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["batch", "tokens"]),
            helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["batch", "tokens", classes]),
            helper.make_tensor_value_info("starts", TensorProto.INT64, ["batch", "tokens"]),
        ],
        graph.initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=ir_version(OPSET), producer_name="onnxferry")
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph(Nodes):
    """The nodes, and constants that are made where they are used."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[Any, ...], str] = {}

    def whole(self, *values: int) -> str:
        """A constant of int64 numbers, (n,)."""
        return self._constant(values, np.int64)

    def real(self, *values: float) -> str:
        """A constant of float32 numbers, (n,)."""
        return self._constant(values, np.float32)

    def _constant(self, values: tuple[float, ...], dtype: Any) -> str:
        key = (dtype, *values)
        if key not in self._made:
            self._made[key] = self.constant(f"constant_{len(self._made)}", list(values), dtype)
        return self._made[key]

    def size(self, value: str, axis: int) -> str:
        """The size of an axis, int64 (1,)."""
        return self.add("Shape", value, start=axis, end=axis + 1)

    def up_to(self, size: str) -> str:
        """0, 1, … below ``size`` int64 (1,)."""
        scalar = self.add("Squeeze", size)
        return self.add("Range", self._scalar(0), scalar, self._scalar(1))

    def _scalar(self, value: int) -> str:
        key = ("scalar", value)
        if key not in self._made:
            self._made[key] = self.constant(f"scalar_{value}", value)
        return self._made[key]


def _weights(graph: _Graph, network: TextNetwork) -> None:
    config = network.config
    weights = {name: weight.detach().cpu().numpy() for name, weight in network.state_dict().items()}
    order = GATE_ORDER[config.cell]

    def gates(name: str) -> np.ndarray:
        both = []
        for direction in ("", "_reverse"):
            blocks = np.split(weights[f"recurrent.{name}_l0{direction}"], len(order), axis=0)
            both.append(np.concatenate([blocks[gate] for gate in order]))
        return np.stack(both)

    # A column a bucket in the file, a row a bucket where they are looked up.
    for name in ("embed", "linear", "rarity"):
        graph.add("Transpose", graph.stored(f"{name}_columns", weights[name]), to=name, perm=[1, 0])
    graph.stored("w", gates("weight_ih"))  # (2, gates x width, embedding)
    graph.stored("r", gates("weight_hh"))
    graph.stored("b", np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1))
    graph.stored("attend", weights["attend.weight"].T)
    graph.stored("attend_bias", weights["attend.bias"])
    graph.stored("score", weights["score.weight"].T)
    # What each half counts is part of its weights here.
    mix, bias = weights["mix"], network.bias.detach().cpu().numpy()
    graph.stored("head", weights["head.weight"].T * mix[0])
    graph.constant("linear_share", mix[1:], np.float32)
    graph.constant("loudness", weights["loudness"], np.float32)
    graph.stored("bias", bias)
    graph.constant("byte_classes", CLASSES)
    graph.constant("folded_bytes", FOLDED)


def _hashes(graph: _Graph) -> None:
    """``hashes`` int64 (batch, tokens, FEATURES), ``counts`` int64 (batch,), ``there`` bool (batch, tokens) and ``starts``."""
    g, whole = graph, graph.whole
    zero, one = whole(0), whole(1)
    batch, length = g.size("text", 0), g.size("text", 1)
    lengths = g.add("Where", g.add("Less", "text_length", zero), length, "text_length")
    lengths = g.add("Expand", lengths, batch)  # (batch,)
    column = g.add("Unsqueeze", lengths, one)  # (batch, 1)
    counted = g.add("Less", g.up_to(length), column)  # (batch, length)
    bytes_ = g.add("Where", counted, g.cast("text", TensorProto.INT64), whole(32))
    ends = g.add("Expand", whole(END), g.add("Concat", batch, one, axis=0))
    width = g.add("Add", length, one)
    content = g.add("Reshape", g.add("Concat", bytes_, ends, axis=1), whole(-1))  # all texts, one behind the other
    kind = g.add("Gather", "byte_classes", content)
    before = _shifted(g, kind, -1, SPACE)
    before_that = _shifted(g, kind, -2, SPACE)

    def is_(value: str, what: int) -> str:
        return g.add("Equal", value, whole(what))

    in_word = g.add("Or", is_(before, WORD), is_(before, TWO_BYTES))
    in_word = g.add("Or", in_word, g.add("And", is_(before, FOLLOWS), is_(before_that, TWO_BYTES)))
    of_word = g.add("Or", is_(kind, WORD), is_(kind, TWO_BYTES))
    begins = g.add("Or", is_(kind, SIGN), is_(kind, MORE_BYTES))
    begins = g.add("Or", begins, g.add("And", of_word, g.add("Not", in_word)))
    # The end of the text before counts as no space: only its own bytes can follow one.
    begins = g.add("Or", begins, g.add("Or", is_(before, SPACE), _first_of_row(g, content, width)))
    begins = g.add("And", begins, g.add("Not", is_(kind, SPACE)))
    begin = g.cast(begins, TensorProto.INT64)
    starts = g.add("Reshape", g.add("NonZero", begins), whole(-1))  # (all tokens,)
    owner = g.add("Max", g.add("Sub", g.add("CumSum", begin, g._scalar(0)), one), zero)
    place = g.add("Sub", g.up_to(g.size(content, 0)), g.add("Gather", starts, owner))
    place = g.add("Min", place, whole(LONGEST_PLACE))
    value = g.add("Add", g.add("Mul", place, whole(END + 1)), g.add("Gather", "folded_bytes", content))
    value = _modulo(g, g.add("Mul", g.add("Add", value, one), whole(MULTIPLIER)))
    value = g.add("Where", is_(kind, SPACE), zero, _mixed(g, value))
    total = g.add("CumSum", g.add("Concat", value, zero, axis=0), g._scalar(0), exclusive=1)
    token_ends = _shifted(g, starts, 1, None, last=g.size(content, 0))
    at_start = g.add("Gather", total, starts)
    own = _modulo(g, g.add("Sub", g.add("Gather", total, token_ends), at_start))
    cut = g.add("Min", g.add("Add", starts, whole(PREFIX)), token_ends)
    prefix = _modulo(g, g.add("Sub", g.add("Gather", total, cut), at_start))
    is_end = is_(g.add("Gather", content, starts), END)
    after = g.add("Where", is_end, zero, _shifted(g, own, 1, 0))
    after_that = g.add("Where", is_end, zero, _shifted(g, after, 1, 0))
    pair = _joined(g, own, after, 7)
    three = _joined(g, pair, after_that, 11)
    features = g.add("Concat", *(g.add("Unsqueeze", each, one) for each in (own, prefix, pair, three)), axis=1)
    # Rows of tokens, each as long as the longest.
    counts = g.add("ReduceSum", g.add("Reshape", begin, g.add("Concat", batch, width, axis=0)), one, to="counts", keepdims=0)
    first = g.add("Unsqueeze", g.add("CumSum", counts, g._scalar(0), exclusive=1), one)
    most = g.add("Reshape", g.add("ReduceMax", counts, keepdims=0), whole(1))
    number = g.up_to(most)
    g.add("Less", number, g.add("Unsqueeze", counts, one), to="there")
    index = g.add("Min", g.add("Add", first, number), g.add("Sub", g.size(starts, 0), one))
    g.add("Gather", features, index, to="hashes")
    row_begin = g.add("Mul", g.up_to(batch), width)
    in_text = g.add("Sub", g.add("Gather", starts, index), g.add("Unsqueeze", row_begin, one))
    g.add("Where", "there", g.add("Min", in_text, column), column, to="starts")


def _first_of_row(g: _Graph, content: str, width: str) -> str:
    place = g.add("Mod", g.up_to(g.size(content, 0)), width)
    return g.add("Equal", place, g.whole(0))


def _shifted(g: _Graph, values: str, by: int, fill: int | None, last: str = "") -> str:
    """``values`` (n,) of the place ``by`` further on (1) or back (-1, -2); ``fill``, or ``last``, where there is none."""
    fills = last or (g.whole(fill or 0) if abs(by) == 1 else g.whole(fill or 0, fill or 0))
    if by > 0:
        rest = g.add("Slice", values, g.whole(by), g.whole(2**62), g.whole(0))
        return g.add("Concat", rest, fills, axis=0)
    joined = g.add("Concat", fills, values, axis=0)
    return g.add("Slice", joined, g.whole(0), g.size(values, 0), g.whole(0))


def _modulo(g: _Graph, value: str) -> str:
    return g.add("Mod", value, g.whole(PRIME))


def _mixed(g: _Graph, value: str) -> str:
    return _modulo(g, g.add("Add", g.add("Mul", value, value), value))


def _joined(g: _Graph, left: str, right: str, salt: int) -> str:
    both = g.add("Add", g.add("Mul", left, g.whole(NEXT_TWO)), g.add("Mul", right, g.whole(NEXT)))
    return _mixed(g, _modulo(g, g.add("Add", both, g.whole(salt))))


def _answer(graph: _Graph, config: TextClassifierConfig) -> None:
    g, whole, real = graph, graph.whole, graph.real
    lookup = {name: g.add("Mod", "hashes", whole(size)) for name, size in (("linear", config.linear_buckets), ("embed", config.buckets))}
    there = g.add("Unsqueeze", "there", whole(2))
    rarity = g.add("Squeeze", g.add("Gather", "rarity", lookup["linear"]), whole(3))  # (batch, tokens, FEATURES)
    rarity = g.add("Where", there, rarity, real(0.0))
    root = g.add("Sqrt", g.add("ReduceSumSquare", rarity, whole(1, 2), keepdims=1))  # (batch, 1, 1)
    words = g.add("ReduceSum", g.add("Gather", "linear", lookup["linear"]), whole(2), keepdims=0)
    linear = g.add("Mul", g.add("Div", words, root), "linear_share")  # (batch, tokens, classes)
    embedded = g.add("Slice", lookup["embed"], whole(0), whole(EMBEDDED), whole(2))
    inputs = g.add("ReduceSum", g.add("Gather", "embed", embedded), whole(2), keepdims=0)
    inputs = g.add("Concat", inputs, g.add("Mul", words, "loudness"), axis=2)
    inputs = g.add("Transpose", inputs, perm=[1, 0, 2])  # (tokens, batch, embedding)
    attributes: dict[str, Any] = {"hidden_size": config.width, "direction": "bidirectional"}
    if config.cell == "gru":
        attributes["linear_before_reset"] = 1  # the reset gate multiplies what the recurrent weights give, as in PyTorch
    operator = "LSTM" if config.cell == "lstm" else "GRU"
    states = g.add(operator, inputs, "w", "r", "b", g.cast("counts", TensorProto.INT32), **attributes)  # (tokens, 2, batch, width)
    states = g.add("Transpose", states, perm=[2, 0, 1, 3])
    states = g.add("Reshape", states, whole(0, 0, 2 * config.width))  # (batch, tokens, 2 width)
    hidden = g.add("Tanh", g.add("Add", g.add("MatMul", states, "attend"), "attend_bias"))
    scores = g.add("Squeeze", g.add("MatMul", hidden, "score"), whole(2))
    g.add("Softmax", g.add("Where", "there", scores, real(OFF)), to="attention", axis=1)
    pooled = g.add("Mul", states, g.add("Unsqueeze", "attention", whole(2)))
    said = g.add("Add", g.add("MatMul", pooled, "head"), linear)
    g.add("Where", there, said, real(0.0), to="evidence")
    logits = g.add("Add", g.add("ReduceSum", "evidence", whole(1), keepdims=0), "bias")
    g.add("Softmax", logits, to="probabilities", axis=1)
    g.add("ArgMax", logits, to="class_index", axis=1, keepdims=0)
