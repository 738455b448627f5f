"""A translator as one graph: reads texts, then writes a translation of each, byte by byte, by greedy or beam search.

Built node by node, as the text generator's is. Inside, a byte is its place among those that are written. There are two loops, of which
one makes no step: greedy search needs no order of beams, and takes half the operators. Its loop is in the outer graph itself, because
ONNX Runtime lays out weights for its kernels beforehand only where they are one subgraph away; that of the beams is in a branch, so that
it costs nothing where there is one beam.

Inputs ("= …": optional, with that default)
    text              uint8    (batch, length)         UTF-8; the length may be 0
    text_length       int64    (batch,)          = -1  bytes of each row that count, from its start; -1: all
    beam              int64    ()                = 1   translations that are followed at once, 1: greedy search; at most as many as there
                                                       are bytes that the network writes, its training's, and the 0
    max_bytes         int64    ()                      of a translation; by default what the training data needs
    length_penalty    float32  ()                = 1   beams are ordered by their log-probability / length ** this (Wu et al. 2016)
Outputs, the best beam first; steps is the length of the longest translation and 1, for the 0 that ends it, or max_bytes
    bytes             uint8    (batch, beam, steps)    the translations; 0 from their end on
    log_probability   float32  (batch, beam)           of each translation's bytes and its end together: nats
    attention         float32  (batch, beam, steps, length + 1)  what each byte was read from, the last place being the text's end
                                                       for a row without padding; 0 after a translation's end

The axis of text_length may also be 1, for all rows. The network is ``onnxferry.train.families.seq2seq``.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.families.nodes import Nodes
from onnxferry.export.graphs.nodes import OPSET, ir_version
from onnxferry.train.families.seq2seq import END, NO_WEIGHT, Seq2Seq, Seq2SeqConfig

CERTAIN = 1e30
"""Logit of END after END, so that a finished translation goes on with zeros, at no cost."""


IMPOSSIBLE = -1e30
"""Log-probability of the beams that do not exist before the first step."""


FLOAT, INT64, UINT8, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL


def translator_graph(network: Seq2Seq) -> onnx.ModelProto:
    """The whole-task graph of ``network``, in standard ONNX operators of opset 18."""
    config = network.config
    outer = Nodes()
    _constants(outer, config)
    _weights(outer, network)
    for name, value in (
        ("text_length", np.array([-1], np.int64)),
        ("beam", np.array(1, np.int64)),
        ("max_bytes", np.array(config.max_bytes, np.int64)),
        ("length_penalty", np.array(1.0, np.float32)),
    ):
        outer.initializers.append(numpy_helper.from_array(value, name))
    _read(outer, config)
    _options(outer)
    greedy = _greedy(outer, config)
    beams = _beam_search(config)
    chosen = ["chosen_bytes", "chosen_attention"]
    outer.add("If", "is_greedy", to=[chosen[0], "log_probability", chosen[1]], then_branch=greedy, else_branch=beams)
    if config.alphabet:
        outer.add("Gather", outer.constant("alphabet", config.alphabet, np.uint8), chosen[0], to="bytes")
    else:
        outer.cast(chosen[0], UINT8, to="bytes")
    writing = outer.add("Unsqueeze", _writing(outer, chosen[0], axis=2), "axis_3")
    outer.add("Where", writing, chosen[1], "none", to="attention")

    def info(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(shape))

    graph = helper.make_graph(
        outer.nodes,
        "translation",
        [
            info("text", UINT8, "batch", "length"),
            info("text_length", INT64, "batch_or_1"),
            info("beam", INT64),
            info("max_bytes", INT64),
            info("length_penalty", FLOAT),
        ],
        [
            info("bytes", UINT8, "batch", "beams", "steps"),
            info("log_probability", FLOAT, "batch", "beams"),
            info("attention", FLOAT, "batch", "beams", "steps", "places"),
        ],
        outer.initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version(OPSET), producer_name="onnxferry")
    onnx.checker.check_model(model, full_check=True)
    return model


def start_row(config: Seq2SeqConfig) -> int:
    """What stands for the byte before the first one: a row of the table. The network's own is END, whose row a finished translation has."""
    return len(config.writable)


def _constants(outer: Nodes, config: Seq2SeqConfig) -> None:
    for axis in (0, 1, 2, 3):
        outer.constant(f"axis_{axis}", [axis])
    outer.constant("zero", 0)
    outer.constant("unit", 1)
    count = len(config.writable)
    outer.constant("most_beams", count)  # more beams than there are bytes would begin with ones that hold nothing
    outer.constant("minus_one", [-1])
    outer.constant("vocabulary", count)
    outer.constant("vocabulary_1", [count])
    outer.constant("start", start_row(config))
    outer.constant("one_place_more", [0, 1])
    outer.constant("one_step_later", [1, -1])
    outer.constant("both", [0, 0, 2 * config.encoder])
    outer.constant("no_byte", 0, np.uint8)
    outer.constant("none", 0.0, np.float32)
    outer.constant("no_weight", NO_WEIGHT, np.float32)
    outer.constant("impossible", IMPOSSIBLE, np.float32)
    outer.constant("true", True, np.bool_)
    width, both = config.decoder, 2 * config.encoder
    outer.constant("gate_sizes", [width, width])
    outer.constant("state_sizes", [2 * width, width, config.attention + 1])
    outer.constant("input_sizes", [2 * width, width, count])
    outer.constant("cell_sizes", [config.embedding, both])
    outer.constant("head_sizes", [width, both, config.embedding])


def _weights(outer: Nodes, network: Seq2Seq) -> None:
    weights = {name: w.detach().cpu().numpy() for name, w in network.state_dict().items()}
    weights["written.weight"] = weights["written.weight"][list(network.config.writable)]
    rest = 3 * network.config.decoder

    def gates(name: str) -> np.ndarray:
        """PyTorch's r z n as ONNX wants them: z r n."""
        r, z, n = np.split(weights[name], 3, axis=0)
        return np.concatenate([z, r, n])

    for direction in ("forwards", "backwards"):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            outer.stored(f"{direction}_{name}", gates(f"{direction}.{name}_l0"))
        outer.add("Concat", f"{direction}_bias_ih", f"{direction}_bias_hh", to=f"{direction}_bias", axis=0)
    for part in ("weight_ih", "weight_hh", "bias"):
        both = [outer.add("Unsqueeze", f"{direction}_{part}", "axis_0") for direction in ("forwards", "backwards")]
        outer.add("Concat", *both, to=f"encoder_{part}", axis=0)
    for name in ("embed.weight", "written.weight", "bridge.weight", "bridge.bias", "key.weight", "key.bias", "query.weight", "head.weight"):
        outer.stored(name.replace(".", "_"), weights[name])
    outer.stored("head_bias", weights["head.bias"])
    outer.stored("energy", weights["energy"][None])
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        outer.stored(f"cell_{name}", gates(f"cell.{name}"))
    # What is computed from the same vector is one product: of the state the recurrent gates and the query; of the encoder's outputs the
    # other half of the gates and their share of the output. The byte before gives a row of a table, which holds the biases too.
    # The last number that state and text are compared in is the mask: 0 in the query, and beyond a text far below 0 in its keys.
    outer.add("Concat", "energy", outer.constant("energy_of_mask", [[-NO_WEIGHT]], np.float32), to="energies", axis=1)
    unasked = outer.constant("no_query", np.zeros((1, network.config.decoder)), np.float32)
    outer.add("Concat", "cell_weight_hh", "query_weight", unasked, to="of_state", axis=0)
    outer.add("Concat", "cell_bias_hh", "key_bias", outer.constant("no_bias", [0], np.float32), to="of_state_bias", axis=0)
    outer.add("Split", "cell_weight_ih", "cell_sizes", to=["cell_of_byte", "cell_of_context"], axis=1)
    outer.add("Split", "head_weight", "head_sizes", to=["head_of_state", "head_of_context", "head_of_byte"], axis=1)
    outer.add("Concat", "cell_of_context", "head_of_context", to="of_context", axis=0)
    of_byte = outer.add("Concat", "cell_of_byte", "head_of_byte", axis=0)
    bias = outer.add("Concat", "cell_bias_ih", "head_bias", axis=0)
    after = outer.add("Gemm", "written_weight", of_byte, bias, transB=1)  # (n, 3 x decoder + n)
    ending = np.zeros((1, rest + len(network.config.writable)), np.float32)
    ending[0, rest + END] = CERTAIN
    rows = [outer.constant("after_end", ending, np.float32), outer.add("Slice", after, "axis_1", "vocabulary_1", "axis_0")]
    outer.add("Concat", *rows, outer.add("Gather", after, outer.constant("end_row", [END]), axis=0), to="table", axis=0)


def _read(outer: Nodes, config: Seq2SeqConfig) -> None:
    """The encoder: ``values`` (batch, places, n), ``keys`` (batch, attention + 1, places), ``first``.

    ``values`` are the encoder's outputs times what a step does with their mean, which is the same and needs no product at each step.
    """
    outer.add("Shape", "text", to="batch_size", start=0, end=1)  # (1,)
    length = outer.add("Shape", "text", start=1, end=2)
    lengths = outer.add("Where", outer.add("Less", "text_length", "zero"), length, outer.add("Min", "text_length", length))
    lengths = outer.add("Expand", lengths, "batch_size")  # (batch,)
    end = outer.add("Squeeze", outer.add("Add", length, "unit"), "axis_0")
    places = outer.add("Range", "zero", end, "unit")  # 0 … length
    column = outer.add("Unsqueeze", lengths, "axis_1")
    bytes_ = outer.cast(outer.add("Pad", "text", "one_place_more", "no_byte", "axis_1"), INT64)
    bytes_ = outer.add("Where", outer.add("Less", places, column), bytes_, "zero")  # a text, its 0, and padding, which is not read
    inputs = outer.add("Gather", "embed_weight", outer.add("Transpose", bytes_, perm=[1, 0]), axis=0)
    counts = outer.cast(outer.add("Add", lengths, "unit"), TensorProto.INT32)
    outer.add(
        "GRU", inputs, "encoder_weight_ih", "encoder_weight_hh", "encoder_bias", counts, to=["read", "last"],
        hidden_size=config.encoder, direction="bidirectional", linear_before_reset=1,
    )  # fmt: skip
    by_row = outer.add("Transpose", "read", perm=[2, 0, 1, 3])  # (batch, places, 2, encoder)
    read = outer.add("Reshape", by_row, "both")
    outer.add("MatMul", read, outer.add("Transpose", "of_context", perm=[1, 0]), to="values")
    keys = outer.add("Transpose", outer.add("MatMul", read, outer.add("Transpose", "key_weight", perm=[1, 0])), perm=[0, 2, 1])
    within = outer.add("LessOrEqual", places, column)
    mask = outer.add("Unsqueeze", outer.add("Where", within, "none", "no_weight"), "axis_1")
    outer.add("Concat", keys, mask, to="keys", axis=1)
    backwards = outer.add("Gather", "last", "unit", axis=0)
    outer.add("Tanh", outer.add("Gemm", backwards, "bridge_weight", "bridge_bias", transB=1), to="first")


def _of_int64(value: int) -> onnx.TensorProto:
    return helper.make_tensor("value", INT64, [1], [value])


def _options(outer: Nodes) -> None:
    """How many steps are made at most, and whether the loop of greedy search makes any."""
    outer.add("Max", "max_bytes", "unit", to="most_steps")
    outer.add("LessOrEqual", "beam", "unit", to="is_greedy")


def _step(body: Nodes, byte: str, state: str, of: str = "") -> tuple[str, str, str]:
    """One byte: the byte before (rows,), the state (rows, decoder) → logits, state, attention (rows, 1, places).

    ``of``: before the names of the encoder's outputs.
    """
    from_state = body.add("Gemm", state, "of_state", "of_state_bias", transB=1)
    open_h, new_h, query = body.split(from_state, ["open_h", "new_h", "query"], "state_sizes", 1)
    compared = body.add("Tanh", body.add("Add", f"{of}keys", body.add("Unsqueeze", query, "axis_2")))
    attention = body.add("Softmax", body.add("MatMul", "energies", compared), axis=2)  # (rows, 1, places)
    context = body.add("Squeeze", body.add("MatMul", attention, f"{of}values"), "axis_1")
    from_context = body.add("Add", context, body.add("Gather", "table", byte, axis=0))
    open_in, new_in, heard = body.split(from_context, ["open_in", "new_in", "heard"], "input_sizes", 1)
    z, r = body.split(body.add("Sigmoid", body.add("Add", open_in, open_h)), ["z", "r"], "gate_sizes", 1)
    new = body.add("Tanh", body.add("Add", new_in, body.add("Mul", r, new_h)))
    after = body.add("Add", new, body.add("Mul", z, body.add("Sub", state, new)))
    return body.add("Gemm", after, "head_of_state", heard, transB=1), after, attention


def _going_on(body: Nodes, bytes_: str) -> str:
    """True while a translation has no end yet."""
    return body.cast(body.add("ReduceMax", bytes_, keepdims=0), BOOL)


def _infos(*values: tuple[str, int, list[int | str]]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in values]


def _branch(nodes: Nodes, bytes_: str, score: str, attention: str) -> onnx.GraphProto:
    """The end of a search, as a branch: with no steps its shapes would not fit. Its outputs: bytes as int64, score, attention."""
    values = _infos(
        (bytes_, INT64, ["batch", "beams", "steps"]),
        (score, FLOAT, ["batch", "beams"]),
        (attention, FLOAT, ["batch", "beams", "steps", "places"]),
    )
    return helper.make_graph(nodes.nodes, f"{nodes.prefix}branch", [], values)


def _greedy(outer: Nodes, config: Seq2SeqConfig) -> onnx.GraphProto:
    """The loop that takes the likeliest byte, and what is made of its steps."""
    body = Nodes("greedy_")
    byte, state = "greedy_byte", "greedy_state"
    logits, after, attention = _step(body, byte, state)
    chosen = body.add("ArgMax", logits, axis=1, keepdims=0)
    on = _going_on(body, chosen)
    rows: list[int | str] = ["batch"]
    graph = helper.make_graph(
        body.nodes,
        "greedy_body",
        _infos(("greedy_number", INT64, []), ("greedy_on", BOOL, []), (byte, INT64, rows), (state, FLOAT, ["batch", config.decoder])),
        _infos(
            (on, BOOL, []), (chosen, INT64, rows), (after, FLOAT, ["batch", config.decoder]),
            (logits, FLOAT, ["batch", len(config.writable)]), (attention, FLOAT, ["batch", 1, "places"]),
        ),
    )  # fmt: skip
    start = outer.add("ConstantOfShape", "batch_size", value=_of_int64(start_row(config)))
    outputs = ["greedy_last", "greedy_after", "greedy_logits", "greedy_attention"]
    outer.add("Loop", "most_steps", "is_greedy", start, "first", to=outputs, body=graph)
    tail = Nodes("greedy_end_")
    bytes_ = tail.add("ArgMax", "greedy_logits", axis=2)  # (steps, batch, 1)
    likeliest = tail.add("ReduceMax", tail.add("LogSoftmax", "greedy_logits", axis=2), "axis_2")  # 0 beyond a translation's end
    return _branch(
        tail,
        tail.add("Transpose", bytes_, perm=[1, 2, 0]),
        tail.add("ReduceSum", likeliest, "axis_0", keepdims=0),
        tail.add("Transpose", "greedy_attention", perm=[1, 2, 0, 3]),
    )


def _writing(nodes: Nodes, bytes_: str, axis: int) -> str:
    """True as bytes int64: up to and including the 0 that ends a translation, along ``axis``, which are those that no 0 is before."""
    return nodes.cast(nodes.add("Pad", bytes_, "one_step_later", "start", f"axis_{axis}"), BOOL)


def _beam_search(config: Seq2SeqConfig) -> onnx.GraphProto:
    """The loop that follows ``width`` translations of each text, and their order at its end.

    A row is a beam of a text. What a beam was at earlier steps is kept as a path: at each step the rows that its bytes stand in.
    """
    body = Nodes("beam_")
    byte, state, total, path = "beam_byte", "beam_state", "beam_total", "beam_path"
    logits, after, attention = _step(body, byte, state, of="beam_")
    scores = body.add("Add", body.add("LogSoftmax", logits, axis=1), body.add("Reshape", total, "column_shape"))
    candidates = body.add("Reshape", scores, "candidate_shape")
    best, places = "beam_best", "beam_places"
    body.add("TopK", candidates, "width_1", to=[best, places], axis=1)  # (batch, beams)
    parent = body.add("Div", places, "vocabulary")
    rows = body.add("Reshape", body.add("Add", parent, "first_rows"), "minus_one")
    chosen = body.add("Reshape", body.add("Sub", places, body.add("Mul", parent, "vocabulary")), "minus_one")
    kept = body.add("Gather", after, rows, axis=0)
    seen = body.add("Gather", attention, rows, axis=0)
    came = body.add("Concat", body.add("Gather", path, rows, axis=0), "own_rows", axis=1)
    on = _going_on(body, chosen)
    written = body.add("Identity", chosen)
    row: list[int | str] = ["rows"]
    graph = helper.make_graph(
        body.nodes,
        "beam_body",
        _infos(
            ("beam_number", INT64, []), ("beam_on", BOOL, []), (byte, INT64, row),
            (state, FLOAT, ["rows", config.decoder]), (total, FLOAT, ["batch", "beams"]), (path, INT64, ["rows", "done"]),
        ),
        _infos(
            (on, BOOL, []), (chosen, INT64, row), (kept, FLOAT, ["rows", config.decoder]),
            (best, FLOAT, ["batch", "beams"]), (came, INT64, ["rows", "done_and_one"]),
            (written, INT64, row), (seen, FLOAT, ["rows", 1, "places"]),
        ),
    )  # fmt: skip
    tail = Nodes("beam_end_")
    tail.add("Min", "beam", "most_beams", to="width")
    tail.add("Unsqueeze", "width", "axis_0", to="width_1")
    by_beam = tail.add("Concat", "batch_size", "width_1", axis=0)  # (batch, beams)
    tail.add("Mul", "batch_size", "width_1", to="row_count")
    every = tail.add("Range", "zero", tail.add("Squeeze", "row_count", "axis_0"), "unit")
    tail.add("Unsqueeze", every, "axis_1", to="own_rows")
    owners = tail.add("Div", every, "width")  # the text of each row
    first_rows = tail.add("Mul", tail.add("Range", "zero", tail.add("Squeeze", "batch_size", "axis_0"), "unit"), "width")
    tail.add("Unsqueeze", first_rows, "axis_1", to="first_rows")  # of each text, (batch, 1)
    tail.add("Concat", "row_count", "axis_1", to="column_shape", axis=0)
    tail.add("Concat", "batch_size", tail.add("Mul", "width_1", "vocabulary_1"), to="candidate_shape", axis=0)
    for name in ("keys", "values"):
        tail.add("Gather", name, owners, to=f"beam_{name}", axis=0)
    begin = tail.add("Gather", "first", owners, axis=0)
    alone = tail.add("Equal", tail.add("Range", "zero", "width", "unit"), "zero")  # of all beams, only the first exists
    totals = tail.add("Expand", tail.add("Where", alone, "none", "impossible"), by_beam)
    start = tail.add("ConstantOfShape", "row_count", value=_of_int64(start_row(config)))
    nowhere = tail.add("ConstantOfShape", tail.add("Concat", "row_count", "axis_0", axis=0), value=_of_int64(0))
    outputs = ["beam_last", "beam_after", "beam_totals", "beam_paths", "beam_bytes", "beam_attention"]
    tail.add("Loop", "most_steps", "true", start, begin, totals, nowhere, to=outputs, body=graph)
    came = tail.add("Transpose", "beam_paths", perm=[1, 0])  # (steps, rows)
    bytes_ = tail.add("GatherElements", "beam_bytes", came, axis=1)
    by_beam = tail.add("Shape", "beam_totals")
    length = tail.add("Reshape", tail.add("ReduceSum", tail.cast(_writing(tail, bytes_, axis=0), FLOAT), "axis_0", keepdims=0), by_beam)
    mean = tail.add("Div", "beam_totals", tail.add("Pow", length, "length_penalty"))
    order = "beam_end_order"
    tail.add("TopK", mean, "width_1", to=["beam_end_means", order], axis=1)
    rows = tail.add("Reshape", tail.add("Add", order, "first_rows"), "minus_one")
    shape = tail.add("Concat", by_beam, "minus_one", axis=0)
    ordered = tail.add("Reshape", tail.add("Transpose", tail.add("Gather", bytes_, rows, axis=1), perm=[1, 0]), shape)
    seen = tail.add("GatherND", "beam_attention", tail.add("Unsqueeze", came, "axis_2"), batch_dims=1)  # (steps, rows, 1, places)
    seen = tail.add("Squeeze", tail.add("Transpose", tail.add("Gather", seen, rows, axis=1), perm=[1, 2, 0, 3]), "axis_1")
    seen = tail.add("Reshape", seen, tail.add("Concat", by_beam, tail.add("Shape", seen, start=1), axis=0))
    return _branch(tail, ordered, tail.add("GatherElements", "beam_totals", order, axis=1), seen)
