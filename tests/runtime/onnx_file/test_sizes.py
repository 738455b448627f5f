"""Sizes inside a graph, from the shapes of a run's inputs: as ONNX Runtime has them, and never an empty one for an operator that ends the
process by it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.onnx_file.sizes import Input, size_of, sliced

GATES = {"LSTM": 4, "GRU": 3}
FAR = 2**63 - 1


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attributes)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, Any], outputs: list[str], opset: int, functions: Any = ()) -> bytes:
    """``x``: float32 of three open axes."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", "batch", "width"])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends, [helper.make_empty_tensor_value_info(name) for name in outputs], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions).SerializeToString()


def recurrent(operator: str, nodes: list[onnx.NodeProto], constants: dict[str, Any], *, opset: int = 20, functions: Any = ()) -> bytes:
    """``e`` of three axes, made of ``x``, goes into the operator. Its last axis is 2."""
    weights = {"W": np.ones((1, GATES[operator] * 3, 2), np.float32), "R": np.ones((1, GATES[operator] * 3, 3), np.float32)}
    nodes = [*nodes, node(operator, "e W R", "y", hidden_size=3)]
    return graph_of(nodes, {**weights, **constants}, ["y"], opset, functions)


def cut(start: int, end: int, axis: int = 1) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    return [node("Slice", "x start end axis", "e")], {"start": [start], "end": [end], "axis": [axis]}


def in_a_function() -> Any:
    opsets = [helper.make_opsetid("", 20)]
    return [helper.make_function("f", "Cut", ["a", "start", "end", "axis"], ["b"], [node("Slice", "a start end axis", "b")], opsets)]


PERMUTED = {"start": [4], "end": [FAR], "axis": [0]}
# What makes the batch, as a list of nodes and constants; the shape of x that leaves none, and one that leaves some.
EMPTIED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "Slice 4:": (*cut(4, FAR), (3, 4, 2), (3, 5, 2)),
    "Slice :-4": (*cut(0, -4), (3, 4, 2), (3, 5, 2)),
    "Slice 7:32768": (*cut(7, 2**15), (3, 2, 2), (3, 8, 2)),
    "two Slices": (
        [node("Slice", "x a b axis", "s"), node("Relu", "s", "r"), node("Slice", "r a b axis", "e")],
        {"a": [2], "b": [-1], "axis": [1]},
        (3, 6, 2),
        (3, 7, 2),
    ),
    "Transpose, Slice, Transpose": (
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("Slice", "t start end axis", "s"),
            node("Transpose", "s", "e", perm=[1, 0, 2]),
        ],
        PERMUTED,
        (3, 4, 2),
        (3, 5, 2),
    ),
    "Split": ([node("Split", "x", "s e", axis=1, num_outputs=2)], {}, (3, 1, 2), (3, 2, 2)),
    "Unsqueeze, Squeeze": (
        [node("Unsqueeze", "x first", "u"), node("Slice", "u start end axis", "s"), node("Squeeze", "s first", "e")],
        {"first": [0], "start": [4], "end": [FAR], "axis": [2]},
        (3, 4, 2),
        (3, 5, 2),
    ),
    "Concat of nothing": (
        [node("Slice", "x start end axis", "s"), node("Concat", "s s", "e", axis=1)],
        {"start": [4], "end": [FAR], "axis": [1]},
        (3, 4, 2),
        (3, 5, 2),
    ),
    "Reshape": (
        [node("Slice", "x start end axis", "s"), node("Reshape", "s shape", "e")],
        {"start": [4], "end": [FAR], "axis": [1], "shape": [0, -1, 2]},
        (3, 4, 2),
        (3, 5, 2),
    ),
    "MatMul": (
        [node("Slice", "x start end axis", "s"), node("MatMul", "s m", "e")],
        {"start": [4], "end": [FAR], "axis": [1], "m": np.ones((2, 2), np.float32)},
        (3, 4, 2),
        (3, 5, 2),
    ),
}


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("how", EMPTIED)
def test_inputs_that_leave_nothing_for_a_recurrent_operator(how: str, operator: str) -> None:
    nodes, constants, none, some = EMPTIED[how]
    with Engine(recurrent(operator, nodes, constants), device="cpu") as engine:
        assert engine.run({"x": np.ones(some, np.float32)})["y"].size
        for run in (engine.run, lambda feeds: engine.run_into(feeds, {}), engine.run_dlpack):
            with pytest.raises(InputError, match=f"leave nothing for the graph's operator {operator}, which ends the whole process"):
                run({"x": np.ones(none, np.float32)})


def test_within_a_function_and_in_an_older_opset() -> None:
    nodes, constants = [node("Cut", "x start end axis", "e", domain="f")], {"start": [4], "end": [FAR], "axis": [1]}
    older = [node("Slice", "x", "e", starts=[4], ends=[FAR], axes=[1])]
    for data in (recurrent("LSTM", nodes, constants, functions=in_a_function()), recurrent("LSTM", older, {}, opset=9)):
        with Engine(data, device="cpu") as engine:
            engine.run({"x": np.ones((3, 5, 2), np.float32)})
            with pytest.raises(InputError, match="leave nothing for the graph's operator LSTM"):
                engine.run({"x": np.ones((3, 4, 2), np.float32)})


def test_that_alone_onnx_runtime_ends_the_process(tmp_path: Path) -> None:
    """Should this fail, ONNX Runtime was fixed, and the checks can go from that version on."""
    path = tmp_path / "cut.onnx"
    path.write_bytes(recurrent("LSTM", *cut(4, FAR)))
    program = "import sys, numpy, onnxruntime; onnxruntime.InferenceSession(sys.argv[1]).run(None, {'x': numpy.ones((3, 4, 2), 'f')})"
    assert subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=False).returncode < 0


@pytest.mark.parametrize("size", range(7))
def test_slices_as_onnx_has_them(size: int) -> None:
    """Starts and ends are clamped, for negative steps to [0, size - 1] and [-1, size - 1]; INT64_MAX is then the first element."""
    bounds = [-(2**63), -9, *range(-4, 5), 9, FAR]
    nodes = [node("Slice", "x start end axis step", "y")]
    cases = [(start, end, step) for start in bounds for end in bounds for step in (1, 2, -1, -3, FAR, -(2**63) + 1)]
    constants = {"axis": [0]}
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])]
    ends += [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("start", "end", "step")]
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends, [helper.make_empty_tensor_value_info("y")], tensors)
    with Engine(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()) as engine:
        for start, end, step in cases:
            feeds = {"x": np.zeros(size, np.float32)} | {k: np.array([v]) for k, v in (("start", start), ("end", end), ("step", step))}
            found = size_of(sliced(Input("x", 0), start, end, step), {"x": (size,)})
            assert found == len(engine.run(feeds)["y"]), (size, start, end, step)


OPERATORS = (
    *("Slice", "Transpose", "Unsqueeze", "Concat", "Gather", "Split", "Tile", "Relu", "Add", "Expand", "Reshape", "Mul"),
    *("Pad", "Resize", "OneHot", "Einsum", "MatMul"),
)


def random_graph(rng: random.Random) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """A few operators in a row on ``x``, of which the last gives ``z``; the number of axes stays known."""
    nodes, constants, rank, last = [], {}, 3, "x"

    def numbers(*values: int) -> str:
        name = f"c{len(constants)}"
        constants[name] = np.array(values, np.int64)
        return name

    for turn in range(rng.randrange(1, 6)):
        axis, out = rng.randrange(rank), f"v{turn}"
        choice = rng.choice(OPERATORS)
        if choice == "Slice":
            bounds = (numbers(rng.randrange(-4, 5)), numbers(rng.choice((-3, 2, 3, FAR))))
            nodes.append(node("Slice", f"{last} {bounds[0]} {bounds[1]} {numbers(axis - rank)}", out))
        elif choice == "Transpose":
            nodes.append(node("Transpose", last, out, **({"perm": rng.sample(range(rank), rank)} if turn % 2 else {})))
        elif choice == "Unsqueeze" and rank < 5:
            nodes.append(node("Unsqueeze", f"{last} {numbers(axis)}", out))
            rank += 1
        elif choice == "Concat":
            nodes.append(node("Concat", f"{last} {last} {last}", out, axis=axis))
        elif choice == "Gather":
            nodes.append(node("Gather", f"{last} {numbers(0, 0)}", out, axis=axis))
        elif choice == "Split":
            nodes.append(node("Split", last, f"{out} {out}b", axis=axis, num_outputs=2))
        elif choice == "Tile":
            nodes.append(node("Tile", f"{last} {numbers(*(rng.randrange(3) for _ in range(rank)))}", out))
        elif choice in ("Add", "Mul"):
            nodes.append(node(choice, f"{last} {last}", out))
        elif choice == "Expand":
            nodes.append(node("Expand", f"{last} {numbers(2, *[1] * rank)}", out))
            rank += 1
        elif choice == "Pad":
            pads = numbers(*(rng.randrange(-1, 3) for _ in range(2 * rank)))
            nodes.append(node("Pad", f"{last} {pads}", out))
        elif choice == "Resize":
            scales = f"s{turn}"
            constants[scales] = np.array([rng.choice((1, 0.5, 2, 1 / 3, 1.7)) for _ in range(rank)], np.float32)
            nodes.append(node("Resize", f"{last} _ {scales}", out))
        elif choice == "OneHot":
            constants |= {"depth": np.array(3), "values": np.array([0, 1], np.float32)}
            nodes += [node("Cast", last, f"{out}i", to=7), node("OneHot", f"{out}i depth values", out, axis=axis - rank)]
            rank += 1
        elif choice == "Einsum":
            letters = "abcdefgh"[:rank]
            nodes.append(node("Einsum", f"{last} {last}", out, equation=f"{letters}, {letters} -> {letters[::-1]}"))
        elif choice == "MatMul":
            turned = [*range(rank - 2), rank - 1, rank - 2]
            nodes += [node("Transpose", last, f"{out}t", perm=turned), node("MatMul", f"{last} {out}t", out)]
        elif choice == "Reshape":
            nodes.append(node("Reshape", f"{last} {numbers(*[0] * (rank - 1), -1, 1)}", out))
            rank += 1
        else:
            nodes.append(node("Relu", last, out))
        last = out
    nodes.append(node("Identity", last, "z"))
    return nodes, constants


def test_shapes_of_random_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dimension as it is in a run, where ONNX Runtime runs the graph at all."""
    from onnxferry.runtime.onnx_file import foresight

    followed: list[Any] = []
    real = foresight.output_shapes

    def watched(node: Any) -> Any:
        shapes = real(node)
        if node.operator == "Identity":
            followed.append(shapes[0])
        return shapes

    monkeypatch.setattr(foresight, "output_shapes", watched)
    rng, compared = random.Random(5), 0
    weights = {"W": np.ones((1, 12, 2), np.float32), "R": np.ones((1, 12, 3), np.float32)}
    for _ in range(150):
        nodes, constants = random_graph(rng)
        read_model(graph_of([*nodes, node("LSTM", "x W R", "y", hidden_size=3)], {**constants, **weights}, ["y"], 20))
        shape = followed.pop()
        try:
            opened = Engine(graph_of(nodes, constants, ["z"], 20), device="cpu")
        except ArtifactError:  # a size that is 0 whatever goes in
            continue
        with opened as engine:
            for given in ((3, 4, 5), (1, 1, 2), (2, 7, 1)):
                try:
                    found = engine.run({"x": np.zeros(given, np.float32)})["z"]
                except InputError:
                    continue
                assert tuple(size_of(size, {"x": given}) for size in shape) == found.shape, (nodes, given)
                compared += 1
    assert compared > 250


def test_a_graph_cannot_make_this_slow_or_deep() -> None:
    """Joined to itself forty times, a size would take 2^40 additions; halved 400 times, 400 calls within one another."""
    first = node("Slice", "x start end axis", "v0")
    constants = {"start": [4], "end": [FAR], "axis": [1]}
    joined = [node("Concat", f"v{turn} v{turn}", f"v{turn + 1}", axis=1) for turn in range(27)]
    halved = [node("Split", f"v{turn}", f"v{turn + 1} w{turn}", axis=1, num_outputs=2) for turn in range(400)]
    for nodes in (joined, halved):
        summary = read_model(recurrent("LSTM", [first, *nodes, node("Identity", f"v{len(nodes)}", "e")], constants))
        assert not summary.never_zero
    assert read_model(recurrent("LSTM", [first, *halved[:20], node("Identity", "v20", "e")], constants)).never_zero


def test_a_gru_with_the_lengths_of_its_sequences_takes_no_steps() -> None:
    """Its kernel ends the process for no steps only where the lengths are not given (ONNX Runtime 1.31.1 and 1.32.0)."""
    weights = {"W": np.ones((1, 9, 2), np.float32), "R": np.ones((1, 9, 3), np.float32), "lengths": np.zeros(2, np.int32)}
    nodes = [node("Slice", "x start end axis", "e"), node("GRU", "e W R _ lengths", "y", hidden_size=3)]
    cuts = {"start": [4], "end": [FAR], "axis": [0]}
    with Engine(graph_of(nodes, {**weights, **cuts}, ["y"], 20), device="cpu") as engine:
        assert engine.run({"x": np.ones((4, 2, 2), np.float32)})["y"].shape == (0, 1, 2, 3)
        with pytest.raises(InputError, match="end the whole process on an empty batch"):
            engine.run({"x": np.ones((5, 0, 2), np.float32)})
