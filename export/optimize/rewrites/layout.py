"""Exact rewrites for graphs that run in 8 bits: what lies between convolutions, in the order in which they keep their numbers.

ONNX Runtime's 8-bit convolutions take and give images with their channels last. An operator that it has only for channels
first (DepthToSpace, Resize) costs two transpositions, and is slow by itself: together more than the convolutions around it.
As Transpose and Reshape of images with channels last they move whole rows of channels, and the transpositions cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnxferry.export.graphs.graph import Graph, attributes, everywhere
from onnxferry.export.optimize.rewrites.upsampling import nearest_factor

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


UNARY = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Round", "Clip", "Cast", "QuantizeLinear")
"""Operators of one moving input that work on each number alone."""


FEW_OUTPUTS = 4
"""A convolution that makes no more channels runs a row at once."""


MAX_ROW_WEIGHTS = 2**19
"""Of such a convolution; beyond it, zeros cost more than they save."""


def channels_last(model: onnx.ModelProto) -> int:
    """All of this module's rewrites, in the order in which they make room for each other; how many places were changed."""
    steps = (
        ("Add", _conditional_norm),
        ("Cast", _bytes),
        ("Resize", _repeat_in_convolution),
        ("Resize", _repeat_copies),
        ("Conv", _whole_rows),
        ("DepthToSpace", _interleave),
        ("Reshape", _dense_last),
    )
    return sum(everywhere(model, operator, rewrite) for operator, rewrite in steps)


def _conditional_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """BatchNormalization × gain[label] + bias[label] as x × gain'[label] + bias'[label], tables with the channels' own axis last.

    ``node``: the Add. What follows without moving numbers (a rectifier) stays behind it, before channels come first again.
    """
    times = _producer(graph, node.input[0], "Mul")
    bias = _table(graph, node.input[1])
    gain = None if times is None else _table(graph, times.input[1])
    if times is None or bias is None or gain is None or graph.readers[times.output[0]] != 1:
        return False
    if gain[0].shape != bias[0].shape:
        return False
    gains, biases, source, old = gain[0].astype(np.float64), bias[0].astype(np.float64), times.input[0], [times, node]
    norm = _producer(graph, source, "BatchNormalization")
    if norm is not None and graph.readers[source] == 1 and all(name in graph.constants for name in norm.input[1:5]):
        scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
        scale = scale / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
        biases, gains = biases + gains * (shift - scale * mean), gains * scale
        source, old = norm.input[0], [norm, *old]
    output = node.output[0]
    follower, active = graph.sole_reader(output), ""
    if follower is not None and follower.op_type == "Relu" and not follower.domain:
        old.append(follower)
        active = follower.output[0]
    names = {part: graph.name(f"{output}_{part}") for part in ("last", "gain", "bias", "scaled", "shifted", "active")}
    dtype = gain[0].dtype
    tables = [graph.constant(f"{output}_{part}s", t.astype(dtype)[:, None, None, :]) for part, t in (("gain", gains), ("bias", biases))]
    new = [
        helper.make_node("Gather", [tables[0], gain[1]], [names["gain"]], name=names["gain"]),
        helper.make_node("Gather", [tables[1], bias[1]], [names["bias"]], name=names["bias"]),
        helper.make_node("Transpose", [source], [names["last"]], name=names["last"], perm=LAST),
        helper.make_node("Mul", [names["last"], names["gain"]], [names["scaled"]], name=names["scaled"]),
        helper.make_node("Add", [names["scaled"], names["bias"]], [names["shifted"]], name=names["shifted"]),
    ]
    if active:
        new.append(helper.make_node("Relu", [names["shifted"]], [names["active"]], name=names["active"]))
    new.append(
        helper.make_node("Transpose", [new[-1].output[0]], [active or output], name=graph.name(f"{output}_channels_first"), perm=FIRST)
    )
    graph.replace(old, new)
    return True


def _repeat_in_convolution(graph: Graph, node: onnx.NodeProto) -> bool:
    """A Resize that repeats pixels, after a convolution: that one makes them as often, and DepthToSpace places them."""
    conv, factor = _producer(graph, node.input[0], "Conv"), nearest_factor(graph, node)
    if conv is None or factor < 2 or graph.readers[node.input[0]] != 1 or attributes(conv).get("group", 1) != 1:
        return False
    if not all(name in graph.constants for name in conv.input[1:] if name):
        return False
    many, output = graph.name(f"{node.output[0]}_many"), node.output[0]
    inputs = [conv.input[0]]
    for name in conv.input[1:]:
        array = graph.constants[name]
        inputs.append(graph.constant(f"{name}_many", np.tile(array, (factor * factor, *[1] * (array.ndim - 1)))))
    first = helper.make_node("Conv", inputs, [many], name=many)
    first.attribute.extend(conv.attribute)
    place = helper.make_node("DepthToSpace", [many], [output], name=graph.name(f"{output}_place"), blocksize=factor, mode="DCR")
    graph.replace([conv, node], [first, place])
    return True


def _repeat_copies(graph: Graph, node: onnx.NodeProto) -> bool:
    """A Resize that repeats pixels, of any size: with channels last, copies of pixels beside each other, then copies of rows."""
    factor, shape = nearest_factor(graph, node), graph.shape(node.input[0])
    if factor < 2 or len(shape) != 4 or not shape[1]:
        return False
    output = node.output[0]
    names = [graph.name(f"{output}_{part}") for part in ("last", "pixels", "rows", "placed")]
    whole = graph.constant(f"{output}_placed_shape", np.array([0, -1, 0, shape[1]], np.int64))
    new = [
        helper.make_node("Transpose", [node.input[0]], [names[0]], name=names[0], perm=LAST),
        helper.make_node("Concat", [names[0]] * factor, [names[1]], name=names[1], axis=3),
        helper.make_node("Concat", [names[1]] * factor, [names[2]], name=names[2], axis=2),
        helper.make_node("Reshape", [names[2], whole], [names[3]], name=names[3]),
        helper.make_node("Transpose", [names[3]], [output], name=graph.name(f"{output}_channels_first"), perm=FIRST),
    ]
    graph.replace([node], new)
    return True


def _whole_rows(graph: Graph, node: onnx.NodeProto) -> bool:
    """A convolution to few channels, a row of the image at once: its pixels' numbers are channels of an image one pixel wide.

    Kernels make 16 channels in the time of one. Zeros in the weights cost less than that, and copies are of whole rows. Where
    DepthToSpace and a norm by label come before, that one goes: a row of the small image gives all the large one's rows.
    """
    weight, facts = graph.constants.get(node.input[1]), attributes(node)
    if weight is None or weight.ndim != 4 or weight.shape[0] > FEW_OUTPUTS:
        return False
    if len(node.input) > 2 and node.input[2] and node.input[2] not in graph.constants:
        return False
    outputs, channels, size, width = weight.shape
    plain = facts.get("group", 1) == 1 and facts.get("dilations", [1, 1]) == [1, 1] and facts.get("strides", [1, 1]) == [1, 1]
    if not plain or facts.get("auto_pad", b"NOTSET") != b"NOTSET" or size != width or size % 2 == 0:
        return False
    if facts.get("pads", [0] * 4) != [size // 2] * 4:
        return False
    shuffle, chain = _shuffled(graph, node)
    facts = {} if shuffle is None else attributes(shuffle)
    block, source = int(facts.get("blocksize", 1)), node.input[0] if shuffle is None else shuffle.input[0]
    shape = graph.shape(source)
    columns = shape[3] if len(shape) == 4 else 0
    # The pixel at block * j + phase reads by tap q the one at offset phase + q - size // 2 from block * j.
    low, high = -(-(size // 2) // block), (block - 1 + size // 2) // block
    if not 0 < (columns * block) ** 2 * channels * outputs * (low + high + 1) <= MAX_ROW_WEIGHTS:
        return False
    wide = np.zeros((block, columns, block, outputs, columns, block, block, channels, low + high + 1), weight.dtype)
    for a, x, b, q, p in np.ndindex(block, columns, block, size, size):
        (y, c), (dx, d) = divmod(a + q - size // 2, block), divmod(b + p - size // 2, block)
        if 0 <= x + dx < columns:
            wide[a, x, b, :, x + dx, c, d, :, y + low] = weight[:, :, q, p]
    if facts.get("mode") == b"CRD":
        wide = wide.transpose(0, 1, 2, 3, 4, 7, 5, 6, 8)
    rows = wide.reshape(block * columns * block * outputs, -1, low + high + 1, 1)
    output, value, new = node.output[0], source, list[onnx.NodeProto]()
    for each in chain:
        copy = _copied(graph, each, value)
        if each.op_type in ("Mul", "Add"):
            table, index = _rows(graph, each.input[1]) or (np.zeros(0), "")
            table = np.repeat(table, block**2, axis=-1) if facts.get("mode") == b"CRD" else np.tile(table, block**2)
            copy.input[1] = graph.name(f"{each.input[1]}_phases")
            new.append(
                helper.make_node("Gather", [graph.constant(f"{copy.input[1]}_table", table), index], [copy.input[1]], name=copy.input[1])
            )
        new.append(copy)
        value = copy.output[0]
    names = [graph.name(f"{output}_{part}") for part in ("last", "row", "row_first", "convolved", "row_last", "pixels")]
    flat = graph.constant(f"{output}_row_shape", np.array([0, -1, 1, rows.shape[1]], np.int64))
    pixels = graph.constant(f"{output}_pixels_shape", np.array([0, -1, columns * block, outputs], np.int64))
    inputs = [names[2], graph.constant(f"{output}_rows", rows)]
    if len(node.input) > 2 and node.input[2]:
        inputs.append(graph.constant(f"{output}_row_bias", np.tile(graph.constants[node.input[2]], block * columns * block)))
    new += [
        helper.make_node("Transpose", [value], [names[0]], name=names[0], perm=LAST),
        helper.make_node("Reshape", [names[0], flat], [names[1]], name=names[1]),
        helper.make_node("Transpose", [names[1]], [names[2]], name=names[2], perm=FIRST),
        helper.make_node("Conv", inputs, [names[3]], name=names[3], kernel_shape=[low + high + 1, 1], pads=[low, 0, high, 0]),
    ]
    value, old = names[3], [*chain, node] if shuffle is None else [shuffle, *chain, node]
    # What becomes of a number alone stays next to the convolution.
    after = graph.sole_reader(output)
    while after is not None and not after.domain and _alone(graph, after, output):
        old.append(after)
        new.append(_copied(graph, after, value))
        output, value = after.output[0], new[-1].output[0]
        after = graph.sole_reader(output)
    new += [
        helper.make_node("Transpose", [value], [names[4]], name=names[4], perm=LAST),
        helper.make_node("Reshape", [names[4], pixels], [names[5]], name=names[5]),
        helper.make_node("Transpose", [names[5]], [output], name=graph.name(f"{output}_channels_first"), perm=FIRST),
    ]
    graph.replace(old, new)
    return True


def _shuffled(graph: Graph, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, list[onnx.NodeProto]]:
    """The DepthToSpace that a convolution reads through nothing but a norm by label and a rectifier, and what stands between."""
    chain: list[onnx.NodeProto] = []
    name, last = node.input[0], False
    while (step := graph.producers.get(name)) is not None and not step.domain and graph.readers[name] == 1:
        if step.op_type == "DepthToSpace" and not last:
            return step, chain[::-1]
        if step.op_type == "Transpose" and tuple(attributes(step)["perm"]) == (LAST if last else FIRST):
            last = not last
        elif not (step.op_type == "Relu" or (last and step.op_type in ("Mul", "Add") and _rows(graph, step.input[1]))):
            break
        chain.append(step)
        name = step.input[0]
    return None, []


def _copied(graph: Graph, node: onnx.NodeProto, source: str) -> onnx.NodeProto:
    """The same operator on another first input, under another name."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[0] = source
    copy.name = copy.output[0] = graph.name(f"{node.output[0]}_moved")
    return copy


def _dense_last(graph: Graph, node: onnx.NodeProto) -> bool:
    """A dense layer whose numbers become an image gives them with channels last: only its weights' order changes."""
    dense = _producer(graph, node.input[0], "Gemm")
    shape = graph.constants.get(node.input[1])
    if dense is None or shape is None or shape.size != 4 or graph.readers[node.input[0]] != 1 or min(shape[1:]) < 1:
        return False
    turned = graph.sole_reader(node.output[0])
    if turned is not None and turned.op_type == "Transpose" and tuple(attributes(turned)["perm"]) == FIRST:
        return False  # done
    weight, facts = graph.constants.get(dense.input[1]), attributes(dense)
    arrays = [graph.constants.get(name) for name in dense.input[1:]]
    if weight is None or any(array is None for array in arrays):
        return False
    channels, height, width = (int(size) for size in shape[1:])
    order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
    axis = 0 if facts.get("transB", 0) else 1
    if weight.shape[axis] != len(order) or any(a is None or a.shape[-1:] != (len(order),) for a in arrays[1:]):
        return False
    output, value = node.output[0], graph.name(f"{node.output[0]}_dense")
    inputs = [dense.input[0], graph.constant(f"{dense.input[1]}_last", np.take(weight, order, axis))]
    inputs += [graph.constant(f"{name}_last", graph.constants[name][..., order]) for name in dense.input[2:]]
    first = helper.make_node("Gemm", inputs, [value], name=value)
    first.attribute.extend(dense.attribute)
    sizes = graph.constant(f"{output}_shape", np.array([shape[0], height, width, channels], np.int64))
    placed = helper.make_node("Reshape", [value, sizes], [graph.name(f"{output}_last")], name=graph.name(f"{output}_placed"))
    placed.attribute.extend(node.attribute)
    turned = helper.make_node("Transpose", [placed.output[0]], [output], name=graph.name(f"{output}_channels_first"), perm=FIRST)
    graph.replace([dense, node], [first, placed, turned])
    return True


def _bytes(graph: Graph, node: onnx.NodeProto) -> bool:
    """× 255, rounded, clipped and cast is what QuantizeLinear does; and (tanh x + 1) × 127.5 is 255 × sigmoid 2x.

    ``node``: the Cast. An 8-bit sigmoid that gives bytes is a table of 256.
    """
    clip = _producer(graph, node.input[0], "Clip")
    rounded = None if clip is None else _producer(graph, clip.input[0], "Round")
    times = None if rounded is None else _producer(graph, rounded.input[0], "Mul")
    if clip is None or rounded is None or times is None or attributes(node)["to"] != onnx.TensorProto.UINT8:
        return False
    if any(graph.readers[each.output[0]] != 1 for each in (clip, rounded, times)):
        return False
    if [_scalar(graph, name) for name in clip.input[1:]] != [0.0, 255.0]:
        return False
    factor, source, old, new = _scalar(graph, times.input[1]), times.input[0], [times, rounded, clip, node], list[onnx.NodeProto]()
    plus = _producer(graph, source, "Add")
    tanh = None if plus is None else _producer(graph, plus.input[0], "Tanh")
    conv = None if tanh is None else _producer(graph, tanh.input[0], "Conv")
    if factor == 127.5 and plus is not None and tanh is not None and conv is not None and _scalar(graph, plus.input[1]) == 1.0:
        chain = (conv, tanh, plus)
        if any(graph.readers[e.output[0]] != 1 for e in chain) or not all(n in graph.constants for n in conv.input[1:]):
            return False
        doubled = _copied(graph, conv, conv.input[0])
        for index, name in enumerate(conv.input[1:], start=1):
            doubled.input[index] = graph.constant(f"{name}_doubled", 2 * graph.constants[name])
        source = graph.name(f"{tanh.output[0]}_sigmoid")
        new, old = [doubled, helper.make_node("Sigmoid", [doubled.output[0]], [source], name=source)], [*chain, *old]
    elif factor != 255.0:
        return False
    scale = graph.constant(f"{node.output[0]}_scale", np.array(1 / 255, np.float32))
    zero = graph.constant(f"{node.output[0]}_zero", np.array(0, np.uint8))
    new.append(helper.make_node("QuantizeLinear", [source, scale, zero], [node.output[0]], name=graph.name(f"{node.output[0]}_bytes")))
    graph.replace(old, new)
    return True


def _scalar(graph: Graph, name: str) -> float | None:
    array = graph.constants.get(name)
    return float(array.ravel()[0]) if array is not None and array.size == 1 else None


def _interleave(graph: Graph, node: onnx.NodeProto) -> bool:
    """DepthToSpace (and a crop of rows and columns) of channels that come last; it needs to know the image's width."""
    facts = attributes(node)
    block = int(facts["blocksize"])
    shape = graph.shape(node.input[0])
    if facts.get("mode", b"DCR") != b"DCR" or len(shape) != 4 or not shape[1] or not shape[3]:
        return False
    channels, width = shape[1] // block**2, shape[3]
    stem, old, output = node.output[0], [node], node.output[0]
    names = [graph.name(f"{stem}_{part}") for part in ("last", "split", "moved", "rows", "cropped", "first")]
    split = graph.constant(f"{stem}_split_shape", np.array([0, -1, width, block, block * channels], np.int64))
    rows = graph.constant(f"{stem}_rows_shape", np.array([0, -1, width * block, channels], np.int64))
    new = [
        helper.make_node("Transpose", [node.input[0]], [names[0]], name=names[0], perm=LAST),
        # A pixel's channels are its rows of phases; within one, columns and channels are in order already.
        helper.make_node("Reshape", [names[0], split], [names[1]], name=names[1]),
        helper.make_node("Transpose", [names[1]], [names[2]], name=names[2], perm=(0, 1, 3, 2, 4)),
        helper.make_node("Reshape", [names[2], rows], [names[3]], name=names[3]),
    ]
    crop = graph.sole_reader(output)
    if crop is not None and crop.op_type == "Slice" and _spatial(graph, crop):
        axes = graph.constant(f"{stem}_spatial", np.array([1, 2], np.int64))
        new.append(helper.make_node("Slice", [names[3], *crop.input[1:3], axes], [names[4]], name=names[4]))
        old.append(crop)
        output = crop.output[0]
    new.append(helper.make_node("Transpose", [new[-1].output[0]], [output], name=names[5], perm=FIRST))
    graph.replace(old, new)
    return True


def _producer(graph: Graph, name: str, operator: str) -> onnx.NodeProto | None:
    node = graph.producers.get(name)
    return node if node is not None and node.op_type == operator and not node.domain else None


def _table(graph: Graph, name: str) -> tuple[np.ndarray, str] | None:
    """A constant table (rows, channels) and what chooses its rows, of Unsqueeze(Gather(table, index)) to (batch, channels, 1, 1)."""
    unsqueeze = _producer(graph, name, "Unsqueeze")
    gather = None if unsqueeze is None else _producer(graph, unsqueeze.input[0], "Gather")
    if unsqueeze is None or gather is None or attributes(gather).get("axis", 0) != 0:
        return None
    axes, table = graph.constants.get(unsqueeze.input[1]), graph.constants.get(gather.input[0])
    if axes is None or table is None or table.ndim != 2 or sorted(axes.ravel().tolist()) not in ([2, 3], [-2, -1]):
        return None
    return (table, gather.input[1]) if len(graph.shape(gather.input[1])) == 1 else None


def _rows(graph: Graph, name: str) -> tuple[np.ndarray, str] | None:
    """As :func:`_conditional_norm` writes them: a constant table (rows, 1, 1, channels) and what chooses its rows."""
    gather = _producer(graph, name, "Gather")
    table = None if gather is None else graph.constants.get(gather.input[0])
    return (table, gather.input[1]) if gather is not None and table is not None and table.ndim == 4 else None


def _alone(graph: Graph, node: onnx.NodeProto, name: str) -> bool:
    """Whether it works on each number of ``name`` alone."""
    if node.input[0] != name or len(node.output) != 1:
        return False
    others: Sequence[str] = [each for each in node.input[1:] if each]
    scalars = all(each in graph.constants and graph.constants[each].ndim == 0 for each in others)
    return scalars and (node.op_type in UNARY or node.op_type in ("Add", "Sub", "Mul", "Div"))


def _spatial(graph: Graph, node: onnx.NodeProto) -> bool:
    axes = graph.constants.get(node.input[3]) if len(node.input) == 4 else None
    return axes is not None and axes.tolist() == [2, 3]
