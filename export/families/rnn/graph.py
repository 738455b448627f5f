"""A text generator as one graph: reads a prompt, then writes a byte for every uniform number it is given.

Built node by node, because exporters unroll or clone the sampling loop. Every weight is stored in the file
once, in the outer graph, in the layout of the LSTM and GRU operators; what the loop needs besides (a byte's embedding times
the first layer's weights, as one row of a table) is computed from constants, which runtimes do once, when they load the file.

Inputs ("= …": optional, with that default)
    prompt            uint8    (batch, length)         bytes to read first; the length may be 0
    uniforms          float32  (batch, steps)          one number in [0, 1) for every byte to write
    prompt_length     int64    (batch,)          = -1  bytes of each row that count, from its start; -1: all
    temperature       float32  ()                = 1   0: always the likeliest byte
    top_k             int64    ()                = 0   keep the k likeliest bytes; 0: all
    top_p             float32  ()                = 1   keep the likeliest bytes that hold this share; 1: all
    state             float32  (batch, slots, width)   what was read before; by default, a line break
Outputs
    bytes             uint8    (batch, steps)          what was written
    log_probabilities float32  (batch, length)         of each prompt byte, given all before it: nats; 0 beyond a row's length
    next_logits       float32  (batch, 256)            of the byte after the prompt
    state_after       float32  (batch, slots, width)   after everything that was read and written

The optional inputs' axes may also be 1, for all rows. How a byte is chosen: ``onnxferry.train.families.rnn.choose``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.families.nodes import Nodes
from onnxferry.export.graphs.nodes import OPSET, ir_version
from onnxferry.train.families.rnn import HIGHEST_UNIFORM, SHARPEST, START, VOCABULARY, Rnn, RnnConfig, state_after

# Gates of a layer as PyTorch stores them and as ONNX wants them: i f g o -> i o f g, r z n -> z r n.
GATE_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


def text_graph(network: Rnn) -> onnx.ModelProto:
    """The whole-task graph of ``network``, in standard ONNX operators of opset 18."""
    config = network.config
    outer = Nodes()
    _constants(outer, config)
    _weights(outer, network)
    start = state_after(network, START).numpy()
    for name, value in (
        ("prompt_length", np.array([-1], np.int64)),
        ("temperature", np.array(1.0, np.float32)),
        ("top_k", np.array(0, np.int64)),
        ("top_p", np.array(1.0, np.float32)),
        ("state", start.astype(np.float32)),
    ):
        outer.initializers.append(numpy_helper.from_array(value, name))
    read = _read_prompt(outer, config)
    _sampling(outer)
    after = _writing(outer, config, read)
    columns = [outer.add("Unsqueeze", name, "axis_1") for name in after]
    outer.add("Concat", *columns, to="state_after", axis=1)

    def info(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(shape))

    slots, width = config.slots, config.width
    graph = helper.make_graph(
        outer.nodes,
        "text_generator",
        [
            info("prompt", TensorProto.UINT8, "batch", "length"),
            info("uniforms", TensorProto.FLOAT, "batch", "steps"),
            info("prompt_length", TensorProto.INT64, "batch_or_1"),
            info("temperature", TensorProto.FLOAT),
            info("top_k", TensorProto.INT64),
            info("top_p", TensorProto.FLOAT),
            info("state", TensorProto.FLOAT, "batch_or_1", slots, width),
        ],
        [
            info("bytes", TensorProto.UINT8, "batch", "steps"),
            info("log_probabilities", TensorProto.FLOAT, "batch", "length"),
            info("next_logits", TensorProto.FLOAT, "batch", VOCABULARY),
            info("state_after", TensorProto.FLOAT, "batch", slots, width),
        ],
        outer.initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version(OPSET), producer_name="onnxferry")
    onnx.checker.check_model(model, full_check=True)
    return model


def _constants(outer: Nodes, config: RnnConfig) -> None:
    width = config.width
    for axis in (0, 1, 2):
        outer.constant(f"axis_{axis}", [axis])
    outer.constant("zero", 0)
    outer.constant("unit", 1)
    outer.constant("zeros", [0])
    outer.constant("last_byte", [VOCABULARY - 1])
    outer.constant("last_place", VOCABULARY - 1)
    outer.constant("vocabulary", [VOCABULARY])
    outer.constant("one", 1.0, np.float32)
    outer.constant("none", 0.0, np.float32)
    outer.constant("two", 2.0, np.float32)
    outer.constant("infinity", np.inf, np.float32)
    outer.constant("sharpest", SHARPEST, np.float32)
    outer.constant("highest_uniform", HIGHEST_UNIFORM, np.float32)
    outer.constant("state_slots", [1] * config.slots)
    if config.cell == "lstm":
        outer.constant("gate_sizes", [3 * width, width])
        outer.constant("part_sizes", [width] * 3)
    else:
        outer.constant("gate_sizes", [2 * width, width])
        outer.constant("part_sizes", [width] * 2)


def _weights(outer: Nodes, network: Rnn) -> None:
    config = network.config
    weights = {name: w.detach().cpu().numpy() for name, w in network.state_dict().items()}
    order = GATE_ORDER[config.cell]

    def gates(name: str) -> np.ndarray:
        blocks = np.split(weights[name], len(order), axis=0)
        return np.concatenate([blocks[gate] for gate in order])

    outer.stored("embedding", weights["embed.weight"])
    for layer in range(config.depth):
        outer.stored(f"w_{layer}", gates(f"layers.{layer}.weight_ih_l0")[None])  # (1, gates x width, inputs)
        outer.stored(f"r_{layer}", gates(f"layers.{layer}.weight_hh_l0")[None])  # (1, gates x width, width)
        outer.stored(f"wb_{layer}", gates(f"layers.{layer}.bias_ih_l0"))
        outer.stored(f"rb_{layer}", gates(f"layers.{layer}.bias_hh_l0"))
        # For the operator, and for the loop.
        outer.add("Concat", f"wb_{layer}", f"rb_{layer}", to=f"b_flat_{layer}", axis=0)
        outer.add("Unsqueeze", f"b_flat_{layer}", "axis_0", to=f"b_{layer}")
        outer.add("Squeeze", f"w_{layer}", "axis_0", to=f"w2_{layer}")
        outer.add("Squeeze", f"r_{layer}", "axis_0", to=f"r2_{layer}")
        bias = f"wb_{layer}"
        if config.cell == "lstm":
            # Its two biases are only ever summed; the GRU's recurrent one stands inside the reset gate's product.
            bias = outer.add("Add", f"wb_{layer}", f"rb_{layer}", to=f"bias_{layer}")
        if layer == 0:
            outer.add("Gemm", "embedding", "w2_0", bias, to="table", transB=1)  # (256, gates x width): a byte's share of the gates
    if config.tied:
        outer.stored("projection", weights["head.weight"])
        outer.add("MatMul", "embedding", "projection", to="head")
    else:
        outer.stored("head", weights["head.weight"])
    outer.stored("head_bias", weights["bias"])


def _read_prompt(outer: Nodes, config: RnnConfig) -> list[str]:
    """Nodes that read the prompt. Returns the names of the state's slots after it, each (batch, width)."""
    shape = outer.add("Shape", "prompt")
    batch = outer.add("Gather", shape, "zeros", axis=0)  # (1,)
    length = outer.add("Gather", shape, "axis_1", axis=0)
    all_of_it = outer.add("Less", "prompt_length", "zeros")
    lengths = outer.add("Where", all_of_it, length, "prompt_length")
    lengths = outer.add("Expand", lengths, batch)  # (batch,)
    lengths32 = outer.cast(lengths, TensorProto.INT32)
    empty = outer.add("Equal", outer.add("Unsqueeze", lengths, "axis_1"), "zeros")  # (batch, 1)
    rows = outer.add("Concat", batch, "axis_1", "axis_1", axis=0)  # (batch, 1, 1)
    state = outer.add("Expand", "state", rows)  # (batch, slots, width)
    slots = [
        outer.add("Squeeze", column, "axis_1", to=f"before_{slot}")
        for slot, column in enumerate(outer.split(state, [f"column_{s}" for s in range(config.slots)], "state_slots", 1))
    ]
    bytes_ = outer.cast(outer.add("Transpose", "prompt", perm=[1, 0]), TensorProto.INT64)  # (length, batch)
    inputs = outer.add("Gather", "embedding", bytes_, axis=0)
    total = ""
    after: list[str] = []
    for layer in range(config.depth):
        mine = slots[layer * config.parts : (layer + 1) * config.parts]
        initial = [outer.add("Unsqueeze", name, "axis_0") for name in mine]  # (1, batch, width)
        outputs = [f"read_{layer}", *(f"final_{layer}_{part}" for part in range(config.parts))]
        attributes: dict[str, Any] = {"hidden_size": config.width}
        if config.cell == "gru":
            attributes["linear_before_reset"] = 1  # the reset gate multiplies what the recurrent weights give, as in PyTorch
        outer.add(
            "LSTM" if config.cell == "lstm" else "GRU",
            inputs,
            f"w_{layer}",
            f"r_{layer}",
            f"b_{layer}",
            lengths32,
            *initial,
            to=outputs,
            **attributes,
        )
        read = outer.add("Squeeze", outputs[0], "axis_1")  # (length, batch, width)
        for before, final in zip(mine, outputs[1:], strict=True):
            # The operators give zeros for a sequence without bytes: there, the state stays what it was.
            after.append(outer.add("Where", empty, before, outer.add("Squeeze", final, "axis_0")))
        total = outer.add("Add", total, read) if total and config.skip else read
        inputs = total
    before_all = outer.add("Unsqueeze", _heard(outer, slots, config), "axis_0")
    # What each byte was predicted from: all states but the last.
    heard = outer.add("Slice", outer.add("Concat", before_all, total, axis=0), "zeros", length, "axis_0")
    scores = outer.add("LogSoftmax", _head(outer, heard, "MatMul"), axis=2)
    picked = outer.add("GatherElements", scores, outer.add("Unsqueeze", bytes_, "axis_2"), axis=2)
    picked = outer.add("Transpose", outer.add("Squeeze", picked, "axis_2"), perm=[1, 0])  # (batch, length)
    length_scalar = outer.add("Squeeze", length, "axis_0")
    positions = outer.add("Range", "zero", length_scalar, "unit")
    counts = outer.add("Less", outer.add("Unsqueeze", positions, "axis_0"), outer.add("Unsqueeze", lengths, "axis_1"))
    outer.add("Where", counts, picked, "none", to="log_probabilities")
    _head(outer, _heard(outer, after, config), "Gemm", to="next_logits")
    return after


def _sampling(outer: Nodes) -> None:
    """What the loop needs of temperature, top_k and top_p, computed once."""
    greedy = outer.add("LessOrEqual", "temperature", "none")
    outer.add("Where", greedy, "sharpest", outer.add("Min", outer.add("Reciprocal", "temperature"), "sharpest"), to="sharpness")
    usable = outer.add("Clip", "uniforms", "none", "highest_uniform")
    outer.add("Where", greedy, "none", usable, to="draws")
    k_off = outer.add("LessOrEqual", "top_k", "zero")
    p_on = outer.add("Less", "top_p", "one")
    outer.add("Or", outer.add("Not", k_off), p_on, to="filtered")
    # top_k as the place of the last byte that it keeps, top_p as a share that is never reached where it is off.
    place = outer.add("Where", k_off, "last_place", outer.add("Sub", "top_k", "unit"))
    place = outer.add("Min", place, "last_place")
    outer.add("Unsqueeze", place, "axis_0", to="kept_place")
    outer.add("Where", p_on, "top_p", "two", to="kept_share")
    steps = outer.add("Gather", outer.add("Shape", "uniforms"), "unit", axis=0)
    outer.add("Equal", steps, "zero", to="silent")


def _writing(outer: Nodes, config: RnnConfig, read: Sequence[str]) -> list[str]:
    """The loop, and the names of the state's slots after it.

    It stands in the outer graph itself: ONNX Runtime lays out weights for its kernels beforehand only where they are one
    subgraph away, and a byte of a loop inside an If takes 1.6 times as long. For the same reason what top_k and top_p do is
    chosen in the loop, and a text of no bytes, for which ONNX Runtime's Scan refuses to run, is one byte that is thrown away.
    """
    shape = outer.add("Shape", "uniforms")
    batch, steps = outer.add("Gather", shape, "zeros", axis=0), outer.add("Gather", shape, "axis_1", axis=0)  # (1,) each
    missing = outer.add("Unsqueeze", outer.cast("silent", TensorProto.INT64), "axis_0")
    nothing = outer.add("ConstantOfShape", outer.add("Concat", batch, missing, axis=0))  # float32 zeros
    draws = outer.add("Concat", "draws", nothing, axis=1)
    outputs = [*(f"written_{slot}" for slot in range(config.slots)), "written_bytes"]
    outer.add(
        "Scan",
        *read,
        draws,
        to=outputs,
        body=_step(config),
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    outer.add("Slice", outputs[-1], "zeros", steps, "axis_1", to="bytes")
    return [outer.add("Where", "silent", before, after) for before, after in zip(read, outputs[:-1], strict=True)]


def _choice(prefix: str, weights: str, filtered: bool) -> onnx.GraphProto:
    """A branch: the weights as top_k and top_p leave them, or as they are."""
    branch = Nodes(f"{prefix}{'filtered' if filtered else 'plain'}_")
    chosen = _filtered(branch, weights) if filtered else branch.add("Identity", weights)
    value = helper.make_tensor_value_info(chosen, TensorProto.FLOAT, ["batch", VOCABULARY])
    return helper.make_graph(branch.nodes, f"{branch.prefix}branch", [], [value])


def _step(config: RnnConfig) -> onnx.GraphProto:
    """One byte: from the state's slots, each (batch, width), and a uniform number a row, to the slots after it, and the byte."""
    prefix = "step_"
    body = Nodes(prefix)
    slots = [f"{prefix}slot_{slot}" for slot in range(config.slots)]
    draw = f"{prefix}draw"
    logits = _head(body, _heard(body, slots, config), "Gemm")
    weights = body.add("Softmax", body.add("Mul", logits, "sharpness"), axis=1)  # (batch, 256)
    chosen = f"{prefix}weights"
    body.add(
        "If",
        "filtered",
        to=chosen,
        then_branch=_choice(prefix, weights, True),
        else_branch=_choice(prefix, weights, False),
    )
    weights = chosen
    running = body.add("CumSum", weights, "unit")
    threshold = body.add("Mul", body.add("Unsqueeze", draw, "axis_1"), body.add("Gather", running, "last_byte", axis=1))
    beyond = body.cast(body.add("Greater", running, threshold), TensorProto.INT32)
    byte = body.add("ArgMax", beyond, axis=1, keepdims=0)  # the first beyond
    after = []
    total = ""
    for layer in range(config.depth):
        mine = slots[layer * config.parts : (layer + 1) * config.parts]
        bias = f"bias_{layer}" if config.cell == "lstm" else f"wb_{layer}"
        inputs = body.add("Gather", "table", byte, axis=0) if layer == 0 else body.add("Gemm", total, f"w2_{layer}", bias, transB=1)
        parts = _lstm(body, layer, inputs, *mine) if config.cell == "lstm" else _gru(body, layer, inputs, *mine)
        after += parts
        total = body.add("Add", total, parts[0]) if total and config.skip else parts[0]
    written = body.cast(byte, TensorProto.UINT8)
    float_info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", config.width]) for name in slots]
    inputs_info = [*float_info, helper.make_tensor_value_info(draw, TensorProto.FLOAT, ["batch"])]
    outputs_info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", config.width]) for name in after]
    outputs_info.append(helper.make_tensor_value_info(written, TensorProto.UINT8, ["batch"]))
    return helper.make_graph(body.nodes, f"{prefix}body", inputs_info, outputs_info)


def _filtered(body: Nodes, weights: str) -> str:
    """Weights with what top_k and then top_p leave out set to 0."""
    ordered = f"{body.prefix}ordered"
    body.add("TopK", weights, "vocabulary", to=[ordered, f"{body.prefix}ordered_bytes"], axis=1)
    by_k = body.add("Gather", ordered, "kept_place", axis=1)
    ordered_k = body.add("Where", body.add("Less", ordered, by_k), "none", ordered)
    before = body.add("CumSum", ordered_k, "unit", exclusive=1)
    share = body.add("Mul", body.add("ReduceSum", ordered_k, "axis_1"), "kept_share")
    # The lightest that is kept: those beyond the share count as infinitely heavy here.
    by_p = body.add("ReduceMin", body.add("Where", body.add("Less", before, share), ordered_k, "infinity"), "axis_1")
    return body.add("Where", body.add("Less", weights, body.add("Max", by_k, by_p)), "none", weights)


def _lstm(body: Nodes, layer: int, inputs: str, h: str, c: str) -> list[str]:
    """``inputs`` (batch, 4 width): the inputs' share of the gates i o f g, bias included."""
    gates = body.add("Gemm", h, f"r2_{layer}", inputs, transB=1)
    open_, new = body.split(gates, ["open", "new"], "gate_sizes", 1)
    i, o, f = body.split(body.add("Sigmoid", open_), ["i", "o", "f"], "part_sizes", 1)
    cell = body.add("Add", body.add("Mul", f, c), body.add("Mul", i, body.add("Tanh", new)))
    return [body.add("Mul", o, body.add("Tanh", cell)), cell]


def _gru(body: Nodes, layer: int, inputs: str, h: str) -> list[str]:
    """``inputs`` (batch, 3 width): the inputs' share of the gates z r n, bias included."""
    recurrent = body.add("Gemm", h, f"r2_{layer}", f"rb_{layer}", transB=1)
    open_in, new_in = body.split(inputs, ["open_in", "new_in"], "gate_sizes", 1)
    open_h, new_h = body.split(recurrent, ["open_h", "new_h"], "gate_sizes", 1)
    z, r = body.split(body.add("Sigmoid", body.add("Add", open_in, open_h)), ["z", "r"], "part_sizes", 1)
    new = body.add("Tanh", body.add("Add", new_in, body.add("Mul", r, new_h)))
    return [body.add("Add", new, body.add("Mul", z, body.add("Sub", h, new)))]


def _heard(nodes: Nodes, state: Sequence[str], config: RnnConfig) -> str:
    """What the head reads of a state's slots: the last layer's h, or with skip connections the sum of every layer's."""
    hidden = state[:: config.parts]
    if not config.skip:
        return hidden[-1]
    total = hidden[0]
    for name in hidden[1:]:
        total = nodes.add("Add", total, name)
    return total


def _head(nodes: Nodes, value: str, operator: str, to: str = "") -> str:
    """Logits (…, 256) of what the head reads (…, width)."""
    if operator == "Gemm":
        return nodes.add("Gemm", value, "head", "head_bias", to=to, transB=1)
    product = nodes.add("MatMul", value, nodes.add("Transpose", "head", perm=[1, 0]))
    return nodes.add("Add", product, "head_bias", to=to)
