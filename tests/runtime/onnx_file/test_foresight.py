"""Files whose own constants end the process, or take all memory, in ONNX Runtime: each kind refused, and its harmless neighbour opened."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import UntrustedModelError
from onnxferry.runtime.onnx_file import trees
from onnxferry.runtime.onnx_file.constants import attribute_ints
from onnxferry.runtime.onnx_file.protobuf import ProtobufReader
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.onnx_file.summary import Limits

FLOAT, INT32, INT64, STRING, BOOL = (getattr(TensorProto, name) for name in ("FLOAT", "INT32", "INT64", "STRING", "BOOL"))
LEAST = {np.int32: -(2**31), np.int64: -(2**63)}
LEAST64 = -(2**63)

Node = onnx.NodeProto


def node(operator: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> Node:
    return helper.make_node(operator, inputs.split(), outputs.split(), domain=domain, **attributes)


def model(
    nodes: list[Node], constants: dict[str, Any] | None = None, inputs: dict[str, tuple[int, list[Any]]] | None = None, **changes: Any
) -> bytes:
    ends = [helper.make_tensor_value_info(name, *what) for name, what in (inputs or {}).items()]
    out = helper.make_tensor_value_info("y", changes.pop("out", INT64), None)
    tensors = (constants or {}).values()
    initializers = [each if isinstance(each, TensorProto) else numpy_helper.from_array(np.asarray(each)) for each in tensors]
    for each, name in zip(initializers, constants or {}, strict=True):
        each.name = name
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", changes.pop("ml", 5)), helper.make_opsetid("f", 1)]
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    graph = helper.make_graph(nodes, "g", ends, [out], initializers)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **changes).SerializeToString()


def branch(nodes: list[Node], output: str, constants: dict[str, Any] | None = None) -> onnx.GraphProto:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info(output, INT64, None)], initializers)


# The smallest whole number by -1


def direct(operator: str, dtype: Any, divisor: int = -1) -> bytes:
    return model(
        [node(operator, "a b", "y")],
        {"a": np.array([5, LEAST[dtype]], dtype), "b": np.array([3, divisor], dtype)},
        out=INT32 if dtype is np.int32 else INT64,
    )


def through_nodes(*chain: Node, a: Any = LEAST64, b: Any = -1) -> bytes:
    return model([*chain, node("Div", "c d", "y")], {"a": np.array([a]), "b": np.array([b]), "one": np.array([1]), "shape": np.array([1])})


def in_a_branch() -> bytes:
    inner = branch([node("Mod", "a b", "z")], "z", {"b": np.array([-1])})
    other = branch([node("Identity", "a", "w")], "w")
    return model([node("If", "c", "y", then_branch=inner, else_branch=other)], {"a": np.array([LEAST64])}, {"c": (BOOL, [])})


def in_a_function() -> bytes:
    opsets = [helper.make_opsetid("", 20)]
    constant = node("Constant", "", "b")
    constant.attribute.append(onnx.AttributeProto(name="value_int", ref_attr_name="by", type=onnx.AttributeProto.INT))
    function = helper.make_function("f", "Divided", ["a"], ["q"], [constant, node("Div", "a b", "q")], opsets, ["by"])
    return model([node("Divided", "a", "y", "f", by=-1)], {"a": np.array([LEAST64])}, functions=[function])


def out_of_a_branch() -> bytes:
    sides = {"then_branch": branch([node("Identity", "a", "z")], "z"), "else_branch": branch([node("Identity", "a", "w")], "w")}
    return model([node("If", "t", "c", **sides), node("Div", "c b", "y")], {"a": np.array([LEAST64]), "b": np.array([-1]), "t": True})


def typed_data(dtype: int, least: int) -> bytes:
    return model(
        [node("Mod", "a b", "y")], {"a": helper.make_tensor("a", dtype, [1], [least]), "b": helper.make_tensor("b", dtype, [1], [-1])}
    )


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(direct(op, dtype), id=f"{op} {dtype.__name__}") for op in ("Div", "Mod") for dtype in (np.int32, np.int64)),
        pytest.param(typed_data(INT32, -(2**31)), id="int32_data"),
        pytest.param(typed_data(INT64, -(2**63)), id="int64_data"),
        pytest.param(through_nodes(node("Identity", "a", "c"), node("Reshape", "b shape", "d")), id="Identity, Reshape"),
        pytest.param(through_nodes(node("Sub", "a one", "c"), node("Neg", "one", "d"), a=LEAST64 + 1), id="arithmetic"),
        pytest.param(through_nodes(node("Add", "a a", "c"), node("Identity", "b", "d"), a=2**62), id="overflow"),
        pytest.param(through_nodes(node("BitwiseNot", "a", "c"), node("Identity", "b", "d"), a=2**63 - 1), id="BitwiseNot"),
        pytest.param(through_nodes(node("Concat", "one a", "c", axis=0), node("Concat", "b one", "d", axis=0)), id="Concat"),
        pytest.param(
            through_nodes(node("Constant", "", "c", value_ints=[1, LEAST64]), node("Constant", "", "d", value_int=-1)),
            id="Constant",
        ),
        pytest.param(
            through_nodes(
                node("ConstantOfShape", "shape", "c", value=numpy_helper.from_array(np.array([LEAST64]))),
                node("Identity", "b", "d"),
            ),
            id="ConstantOfShape",
        ),
        pytest.param(in_a_branch(), id="in a branch"),
        pytest.param(in_a_function(), id="in a function"),
        pytest.param(out_of_a_branch(), id="out of a branch"),
    ],
)
def test_the_smallest_number_by_minus_one(data: bytes) -> None:
    with pytest.raises(UntrustedModelError, match=r"divides constants, the smallest whole number by -1, which ends the whole process"):
        read_model(data)


@pytest.mark.parametrize(
    "data",
    [
        direct("Div", np.int64, 2),
        direct("Mod", np.int32, 7),
        through_nodes(node("Sub", "a one", "c"), node("Identity", "b", "d"), a=17),
        through_nodes(node("Shape", "a", "c"), node("Identity", "b", "d")),
        through_nodes(node("BitwiseNot", "a", "c"), node("Identity", "b", "d"), a=3, b=2),
        model([node("Div", "x b", "y")], {"b": np.array([-1])}, {"x": (INT64, ["n"])}),
        model([node("Div", "a b", "y")], {"a": np.float32([-(2**31)]), "b": np.float32([-1])}, out=FLOAT),
        model([node("Mod", "a b", "y", fmod=1)], {"a": np.array([LEAST64]), "b": np.array([-1])}),
    ],
)
def test_other_divisions_are_opened(data: bytes) -> None:
    Engine(data, device="cpu").close()


# Trees deeper than the stack


def deep_tree(kind: str, depth: int) -> bytes:
    """One path of ``depth`` nodes, each with a leaf beside the next."""
    x = {"x": (FLOAT, ["n", 1])}
    if kind == "TreeEnsemble":
        attributes: dict[str, Any] = {
            "tree_roots": [0],
            "n_targets": 1,
            "nodes_featureids": [0] * depth,
            "nodes_modes": numpy_helper.from_array(np.zeros(depth, np.uint8)),
            "nodes_splits": numpy_helper.from_array(np.zeros(depth, np.float32)),
            "nodes_truenodeids": [*range(1, depth), 0],
            "nodes_trueleafs": [0] * (depth - 1) + [1],
            "nodes_falsenodeids": [0] * depth,
            "nodes_falseleafs": [1] * depth,
            "leaf_targetids": [0],
            "leaf_weights": numpy_helper.from_array(np.ones(1, np.float32)),
        }
        return model([node(kind, "x", "y", "ai.onnx.ml", **attributes)], {}, x, out=FLOAT)
    inner, total = depth - 1, 2 * depth - 1
    attributes = {
        "nodes_treeids": [0] * total,
        "nodes_nodeids": list(range(total)),
        "nodes_featureids": [0] * total,
        "nodes_modes": ["BRANCH_LEQ"] * inner + ["LEAF"] * (total - inner),
        "nodes_values": [0.0] * total,
        "nodes_truenodeids": [i + 1 for i in range(inner)] + [0] * (total - inner),
        "nodes_falsenodeids": [depth + i for i in range(inner)] + [0] * (total - inner),
    }
    of = "target" if kind == "TreeEnsembleRegressor" else "class"
    attributes |= {f"{of}_treeids": [0], f"{of}_nodeids": [inner], f"{of}_ids": [0], f"{of}_weights": [1.0]}
    attributes |= {"n_targets": 1} if of == "target" else {"classlabels_int64s": [0, 1]}
    outputs = "y" if of == "target" else "y scores"
    return model([node(kind, "x", outputs, "ai.onnx.ml", **attributes)], {}, x, out=FLOAT if of == "target" else INT64, ml=3)


@pytest.mark.parametrize("kind", ["TreeEnsemble", "TreeEnsembleRegressor", "TreeEnsembleClassifier"])
def test_trees(kind: str) -> None:
    Engine(deep_tree(kind, 9_000), device="cpu").close()
    with pytest.raises(UntrustedModelError, match=r"tree depth 10001, allowed 10000; .*--limit tree_depth=10001"):
        read_model(deep_tree(kind, 10_002))
    read_model(deep_tree(kind, 10_002), Limits(tree_depth=20_000))


def test_a_tree_without_end_and_one_of_many_nodes() -> None:
    circle = {"tree_roots": [0], "nodes_truenodeids": [0], "nodes_trueleafs": [0], "nodes_falsenodeids": [0], "nodes_falseleafs": [1]}
    assert trees.deeper_than(100, "TreeEnsemble", lambda name: np.array(circle.get(name, [])))
    nodes = 2**12 - 1  # full, 12 levels, numbered from 7 upside down
    numbers = np.arange(nodes)[::-1] + 7
    full = {
        "nodes_treeids": np.full(nodes, 3),
        "nodes_nodeids": numbers,
        "nodes_truenodeids": np.where(np.arange(nodes) < nodes // 2, numbers[np.minimum(2 * np.arange(nodes) + 1, nodes - 1)], 0),
        "nodes_falsenodeids": np.where(np.arange(nodes) < nodes // 2, numbers[np.minimum(2 * np.arange(nodes) + 2, nodes - 1)], 0),
    }
    assert not trees.deeper_than(12, "TreeEnsembleRegressor", full.__getitem__)
    assert trees.deeper_than(11, "TreeEnsembleRegressor", full.__getitem__)


def test_numbers_of_an_attribute_packed_or_not() -> None:
    numbers = [0, 64, -1, 2**63 - 1, -(2**63), 300]
    attribute = helper.make_attribute("ints", numbers).SerializeToString()
    assert attribute_ints(ProtobufReader(attribute, 100), (0, len(attribute))).tolist() == numbers
    packed = b"\x42\x04\x05\xac\x02\x40"
    both = packed + b"\x40\x07"
    assert attribute_ints(ProtobufReader(both, 100), (0, len(both))).tolist() == [5, 300, 64, 7]


# Recurrent operators on what the graph has emptied


def recurrent(operator: str, emptied: list[Node], constants: dict[str, Any] | None = None) -> bytes:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    weights = {"W": np.ones((1, gates * 3, 2), np.float32), "R": np.ones((1, gates * 3, 3), np.float32)}
    nodes = [*emptied, node(operator, "e W R", "y", hidden_size=3)]
    return model(nodes, {**weights, **(constants or {})}, {"x": (FLOAT, ["steps", "batch", 2])}, out=FLOAT)


def sliced(start: int, end: int, step: int = 1) -> tuple[list[Node], dict[str, Any]]:
    constants = {name: np.array([value]) for name, value in (("start", start), ("end", end), ("axis", 1), ("step", step))}
    return [node("Slice", "x start end axis step", "e")], constants


EMPTIED: dict[str, tuple[list[Node], dict[str, Any]]] = {
    "Slice 0:0": sliced(0, 0),
    "Slice 5:5": sliced(5, 5),
    "Slice 7:3": sliced(7, 3),
    "Slice -1:-1": sliced(-1, -1),
    "Slice far": sliced(2**62, 2**63 - 1),
    "Slice backwards": sliced(2, 4, -1),
    "Slice before the start": sliced(2**15, -(2**63)),
    "Slice before the start, whatever the start": sliced(-5, -(2**62)),
    "then Relu and Transpose": (
        [
            node("Slice", "x zero zero axis", "s"),
            node("Relu", "s", "r"),
            node("Add", "one r", "a"),
            node("Transpose", "a", "e", perm=[0, 1, 2]),
        ],
        {"zero": np.array([0]), "axis": np.array([1]), "one": np.float32(1)},
    ),
    "Gather of none": ([node("Gather", "x none", "e", axis=1)], {"none": np.zeros(0, np.int64)}),
    "Tile 0": ([node("Tile", "x times", "e")], {"times": np.array([1, 0, 1])}),
    "Expand 0": ([node("Expand", "one shape", "e")], {"one": np.ones((1, 1, 2), np.float32), "shape": np.array([4, 0, 2])}),
    "ConstantOfShape": ([node("ConstantOfShape", "shape", "e")], {"shape": np.array([4, 0, 2])}),
    "an initializer": ([], {"e": np.zeros((4, 0, 2), np.float32)}),
    "Reshape": ([node("Reshape", "x shape", "e", allowzero=1)], {"shape": np.array([4, 0, 2])}),
    "Split": ([node("Split", "x parts", "s e", axis=1)], {"parts": np.array([5, 0])}),
    "Compress": ([node("Compress", "x mask", "e", axis=1)], {"mask": np.array([False, False])}),
    "TopK": ([node("TopK", "x k", "e i", axis=1)], {"k": np.array([0])}),
}


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("how", EMPTIED)
def test_recurrent_operators_on_nothing(how: str, operator: str) -> None:
    with pytest.raises(UntrustedModelError, match=rf"its operator {operator} gets a tensor without elements, by the graph's own constants"):
        read_model(recurrent(operator, *EMPTIED[how]))


@pytest.mark.parametrize(
    "how",
    [
        sliced(0, 2**63 - 1),
        sliced(-3, -1),
        sliced(1, -1),
        sliced(-1, -(2**63), -1),
        sliced(-1, 2**63 - 1, -1),  # to ONNX Runtime, that is the first element
        ([node("Concat", "none x", "e", axis=1)], {"none": np.zeros((4, 0, 2), np.float32)}),
        ([node("Reshape", "x shape", "e")], {"shape": np.array([0, 0, 2])}),
    ],
)
def test_recurrent_operators_on_something(how: tuple[list[Node], dict[str, Any]]) -> None:
    with Engine(recurrent("GRU", *how), device="cpu") as engine:
        engine.run({"x": np.ones((4, 5, 2), np.float32)})


# What fills memory


def doubled(operator: str, times: int, first: Any, dtype: int, **attributes: Any) -> bytes:
    nodes = [
        node(operator, f"{'a' if i == 0 else f'v{i}'} " * 2, f"v{i + 1}" if i + 1 < times else "y", **attributes) for i in range(times)
    ]
    constants, inputs = ({"a": first}, {}) if first is not None else ({}, {"a": (dtype, ["n"])})
    return model(nodes, constants, inputs, out=dtype)


TEXT = helper.make_tensor("a", STRING, [1], [b"12345678"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (doubled("StringConcat", 40, TEXT, STRING), "elements made in memory"),
        (doubled("StringConcat", 40, None, STRING), "elements made in memory"),
        (doubled("Concat", 40, TEXT, STRING, axis=0), "elements made in memory"),
        (doubled("Concat", 40, None, FLOAT, axis=0), "elements made in memory"),
        (model([node("ConstantOfShape", "s", "y")], {"s": np.array([2**20, 2**20])}, out=FLOAT), f"elements made in memory {2**40}"),
        (model([node("Expand", "x s", "y")], {"s": np.array([2**40])}, {"x": (FLOAT, [1])}, out=FLOAT), f"elements made in memory {2**40}"),
        (model([node("Tile", "x s", "y")], {"s": np.array([2**40])}, {"x": (FLOAT, [1])}, out=FLOAT), f"elements made in memory {2**40}"),
        (
            model([node("Range", "z s o", "y")], {"z": np.array(0), "s": np.array(2**40), "o": np.array(1)}),
            f"elements made in memory {2**40}",
        ),
        (model([node("RandomNormal", "", "y", shape=[2**15, 2**15])], out=FLOAT), f"elements made in memory {2**30}"),
        (model([node("HannWindow", "s", "y")], {"s": np.array(2**40)}, out=FLOAT), f"elements made in memory {2**40}"),
        (
            model([node("Multinomial", "x", "y", sample_size=2**30, dtype=INT64)], {}, {"x": (FLOAT, [1, 2])}),
            f"samples {2**30}, allowed {2**24}",
        ),
    ],
)
def test_what_fills_memory_or_never_ends(data: bytes, words: str) -> None:
    with pytest.raises(UntrustedModelError, match=words):
        read_model(data)


def looped(nodes: list[Node], rounds: Any, x: tuple[int, list[Any]] = (FLOAT, ["n", 4]), *, cond: str = "") -> bytes:
    """``v`` becomes ``w`` in each round; ``y`` is the last."""
    go_on = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "go", "on"), *nodes],
        "body",
        [go_on("i", INT64, []), go_on("go", BOOL, []), go_on("v", x[0], None)],
        [go_on("on", BOOL, []), go_on("w", x[0], None)],
    )
    loop = helper.make_node("Loop", ["rounds" if rounds is not None else "", cond, "x"], ["y"], body=body)
    constants = {"true": np.array(True), "one": np.array([1]), "three": np.array([3]), "far": np.array([2**62]), "zero": np.array([0])}
    if rounds is not None:
        constants["rounds"] = np.array(rounds)
    return model([loop], {**constants, "flat": np.array([-1])}, {"x": x}, out=x[0])


JOINED = [node("Concat", "v v", "w", axis=0)]
ROTATED = [node("Slice", "v one far zero", "a"), node("Slice", "v zero one zero", "b"), node("Concat", "a b", "w", axis=0)]
OUTER = [
    node("Unsqueeze", "v one", "a"),
    node("Unsqueeze", "v zero", "b"),
    node("Add", "a b", "c"),
    node("Reshape", "c flat", "w"),
]


@pytest.mark.parametrize(
    "data",
    [
        looped(JOINED, 2**63 - 1),
        looped(JOINED, 30),
        looped([node("Concat", "v v", "j", axis=1), node("Relu", "j", "w")], 40),
        looped([node("Concat", "v v v", "w", axis=-1)], None),
        looped(JOINED, None, cond="true"),
        looped([node("Relu", "v", "r"), node("Expand", "r three", "e"), node("Concat", "e e", "w", axis=0)], 64),
        looped(OUTER, 7, (FLOAT, [4])),
        looped([node("StringConcat", "v v", "w")], 40, (STRING, ["n"])),
    ],
)
def test_what_multiplies_in_each_round_of_a_loop(data: bytes) -> None:
    with pytest.raises(UntrustedModelError, match="elements made in memory"):
        read_model(data)


@pytest.mark.parametrize(
    "data",
    [
        looped(JOINED, 10),
        looped(ROTATED, 1000),
        looped([node("Concat", "v x", "w", axis=0)], 300),
        looped([node("Slice", "v three far zero", "s"), node("Concat", "s s", "j", axis=0), node("Slice", "j zero three zero", "w")], 99),
    ],
)
def test_loops_that_grow_little_are_run(data: bytes) -> None:
    with Engine(data, device="cpu") as engine:
        engine.run({"x": np.ones((5, 4), np.float32)})


def test_an_lstm_in_a_loop_is_not_taken_for_one_on_nothing() -> None:
    """A Loop is followed for axes of size 1, of which this Slice leaves none."""
    weights = {"W": np.ones((1, 12, 2), np.float32), "R": np.ones((1, 12, 3), np.float32)}
    graph = onnx.load_from_string(
        looped(
            [node("Slice", "v one far one", "c"), node("LSTM", "c W R", "o", hidden_size=3), node("Identity", "v", "w")],
            3,
            (FLOAT, ["s", "b", 2]),
        )
    )
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    with Engine(graph.SerializeToString(), device="cpu") as engine:
        engine.run({"x": np.ones((2, 2, 2), np.float32)})


# What constants make, as the file is opened

THIN, FLAT = np.ones((30_000, 1), np.float32), np.ones((1, 30_000), np.float32)
SQUARE = {"a": np.ones((200, 200), np.float32)}
WIDE = [node("ConstantOfShape", "s", "m"), node("MatMul", "m m", "y")]
COLLECTING = [
    node("SequenceEmpty", "", "none"),
    helper.make_node(
        "Loop",
        ["rounds", "", "none"],
        ["all"],
        body=helper.make_graph(
            [node("Identity", "go", "on"), node("SequenceInsert", "v big", "w")],
            "body",
            [
                helper.make_tensor_value_info("i", INT64, []),
                helper.make_tensor_value_info("go", BOOL, []),
                helper.make_tensor_sequence_value_info("v", FLOAT, None),
            ],
            [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_sequence_value_info("w", FLOAT, None)],
        ),
    ),
    node("SequenceLength", "all", "y"),
]


def scanned(rounds: int, *, until: bool = False) -> bytes:
    """What each round gives is kept. ``until``: a condition ends it, as loops are exported that have one."""
    body = helper.make_graph(
        [node("Less", "i three", "on") if until else node("Identity", "go", "on"), node("Identity", "v", "w"), node("Identity", "v", "o")],
        "body",
        [
            helper.make_tensor_value_info(name, dtype, shape)
            for name, dtype, shape in (("i", INT64, []), ("go", BOOL, []), ("v", FLOAT, None))
        ],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in (("on", BOOL), ("w", FLOAT), ("o", FLOAT))],
    )
    loop = helper.make_node("Loop", ["rounds", "", "x"], ["last", "y"], body=body)
    return model([loop], {"rounds": np.array(rounds), "three": np.array(3)}, {"x": (FLOAT, ["n"])}, out=FLOAT)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (model([node("Add", "a b", "y")], {"a": THIN, "b": FLAT}, out=FLOAT), "elements made in memory 899940000"),
        (model([node("MatMul", "a b", "y")], {"a": THIN, "b": FLAT}, out=FLOAT), "elements made in memory"),
        (model([node("Gather", "a i", "y", axis=1)], {"a": FLAT.T, "i": np.zeros(30_000, np.int64)}, out=FLOAT), "elements made in memory"),
        (model([node("Einsum", "a a", "y", equation="ij,kl->ijkl")], SQUARE, out=FLOAT), "elements made in memory"),
        (model([node("Pad", "a p", "y")], {**SQUARE, "p": np.array([0, 0, 2**17, 2**13])}, out=FLOAT), "elements made in memory"),
        (
            model([helper.make_node("Resize", ["a", "", "s"], ["y"])], {**SQUARE, "s": np.float32([99, 99])}, out=FLOAT),
            "elements made in memory",
        ),
        (
            model([node("OneHot", "i d v", "y")], {"i": np.zeros(999, np.int64), "d": np.array(2**20), "v": np.float32([0, 1])}, out=FLOAT),
            "elements made in memory",
        ),
        (
            model([node("Range", "a b c", "y")], {"a": np.float32(0), "b": np.float32(1), "c": np.float32(1e-12)}, out=FLOAT),
            "elements made in memory",
        ),
        (
            model(
                [node("ConvTranspose", "x w", "y", strides=[1, 1], output_padding=[2**15, 2**15])],
                {"w": np.ones((1, 1, 2, 2), np.float32)},
                {"x": (FLOAT, [1, 1, "h", "w"])},
                out=FLOAT,
            ),
            "elements made in memory",
        ),
        (
            model(
                [*(node("ConstantOfShape", "s", f"m{i}") for i in range(9)), node("Sum", " ".join(f"m{i}" for i in range(9)), "y")],
                {"s": np.array([2**25])},
                out=FLOAT,
            ),
            "elements made in memory",
        ),
        (model(WIDE, {"s": np.array([2**13, 2**13])}, out=FLOAT), f"constant products {2**39}, allowed {2**38}"),
        (model(COLLECTING, {"rounds": np.array(10**5), "big": np.ones((60, 60), np.float32)}), "elements made in memory 360000000"),
        (scanned(2**31), f"elements made in memory {2**31}"),
    ],
)
def test_what_constants_make(data: bytes, words: str) -> None:
    with pytest.raises(UntrustedModelError, match=words):
        read_model(data)


def dequantized() -> bytes:
    """Weights in 8 bits, a hundred times: none is larger than in the file."""
    nodes = [node("DequantizeLinear", f"q{i} s", f"w{i}") for i in range(100)]
    nodes += [node("Transpose", f"w{i}", f"t{i}") for i in range(100)] + [node("Sum", " ".join(f"t{i}" for i in range(100)), "y")]
    return model(nodes, {"s": np.float32(0.1), **{f"q{i}": np.ones((2, 3), np.int8) for i in range(100)}}, out=FLOAT)


@pytest.mark.parametrize(
    "data",
    [
        model([node("Add", "a b", "y")], {"a": THIN[:300], "b": FLAT[:, :300]}, out=FLOAT),
        model(WIDE, {"s": np.array([99, 99])}, out=FLOAT),
        model(COLLECTING, {"rounds": np.array(10), "big": np.ones((60, 60), np.float32)}),
        scanned(10),
        scanned(2**63 - 1, until=True),
        dequantized(),
    ],
)
def test_constants_that_make_little_are_run(data: bytes) -> None:
    with Engine(data, device="cpu") as engine:
        engine.run({spec.name: np.ones(3, np.float32) for spec in engine.inputs})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, 0.0, 1e38])
def test_scales_and_ranges_that_are_no_numbers_raise_nothing_else(odd: float) -> None:
    """``x`` is not known and ``a`` is."""
    for data in ("x", "a"):
        resized = helper.make_node("Resize", [data, "", "s"], ["y"])
        ranged = node("Range", "o o s1", "z")
        constants = {"a": np.ones((20, 20), np.float32), "s": np.float32([odd, odd]), "o": np.float32(odd), "s1": np.float32(1)}
        file = model([resized, ranged], constants, {"x": (FLOAT, ["n", 4])}, out=FLOAT)
        with (
            pytest.raises(UntrustedModelError, match="elements made in memory") if odd in (1e38, float("inf")) else contextlib.nullcontext()
        ):
            read_model(file)


def test_what_is_in_the_file_already_is_not_counted() -> None:
    """Large models in 8 bits, whose weights go through an operator each."""
    assert read_model(dequantized(), Limits(made_elements=1))


def test_concatenations_of_a_network_are_no_doubling() -> None:
    """As in DenseNet: each layer's output joins all before it, a hundred times."""
    nodes = []
    for a, b in itertools.pairwise(["x", *(f"x{i}" for i in range(1, 100)), "y"]):
        nodes += [node("Relu", a, f"{a}r"), node("Concat", f"{a} {a}r", b, axis=0)]
    assert read_model(model(nodes, {}, {"x": (FLOAT, ["n"])}, out=FLOAT)).nodes == 200


def test_limits_can_be_raised_for_a_file_that_is_trusted() -> None:
    data = model([node("ConstantOfShape", "s", "y")], {"s": np.array([2**29])}, out=FLOAT)
    with pytest.raises(UntrustedModelError, match="--limit made_elements=536870912"):
        read_model(data)
    assert read_model(data, Limits(made_elements=2**29)).nodes == 1
