"""The reader against the onnx package's own, and against damage, lies and bombs."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ArtifactError, UntrustedModelError
from onnxferry.runtime.onnx_file import reader as onnx_file
from onnxferry.runtime.onnx_file import summary
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.tensors import ELEMENT_TYPES

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def one_node(build_onnx, **changes) -> onnx.ModelProto:
    return build_onnx([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, [1])], [("y", FLOAT, [1])], **changes)


def nested(build_onnx, depth: int) -> onnx.ModelProto:
    """``depth`` Ifs, one within the other."""
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y0"])], "leaf", [], [helper.make_tensor_value_info("y0", FLOAT, [1])])
    for level in range(1, depth):
        node = helper.make_node("If", ["c"], [f"y{level}"], then_branch=branch, else_branch=branch if level == 1 else _leaf(level))
        branch = helper.make_graph([node], f"level{level}", [], [helper.make_tensor_value_info(f"y{level}", FLOAT, [1])])
    top = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=_leaf("top"))
    return build_onnx([top], [("x", FLOAT, [1]), ("c", BOOL, [])], [("y", FLOAT, [1])])


def _leaf(tag: object) -> onnx.GraphProto:
    name = f"z{tag}"
    return helper.make_graph([helper.make_node("Identity", ["x"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, [1])])


def rich_model(build_onnx) -> onnx.ModelProto:
    """Something of everything: subgraphs, functions, sparse and string tensors, optional inputs, metadata, attributes of all kinds."""
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("sparse", FLOAT, [2], [1.0, 2.0]), helper.make_tensor("sparse_at", INT64, [2], [1, 5]), [2, 3]
    )
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["then_y"])],
        "then",
        [],
        [helper.make_tensor_value_info("then_y", FLOAT, None)],
        [helper.make_tensor("inner", FLOAT, [1], [1.0])],
    )
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    nodes = [
        helper.make_node("If", ["c"], ["branched"], then_branch=then, else_branch=_leaf("else")),
        helper.make_node("Twice", ["branched"], ["twice"], domain="local"),
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("kv", TensorProto.INT32, [3], [1, 2, 3])),
        helper.make_node("Constant", [], ["ks"], value_strings=[b"a", b"b"]),
        helper.make_node("Constant", [], ["kf"], value_floats=[0.5] * 20),
        helper.make_node("Constant", [], ["ki"], value_ints=[-1, 2**40, *range(20)]),
        helper.make_node("FusedMatMul", ["w", "w"], ["mm"], domain="com.microsoft", transB=1),
    ]
    model = build_onnx(
        nodes,
        [
            ("x", FLOAT, ["batch", 3]),
            ("c", BOOL, []),
            ("w", FLOAT, [2, 2]),
            ("any", TensorProto.STRING, None),
            ("open", INT64, [None, -1, 0]),
        ],
        [("twice", FLOAT, None), ("mm", FLOAT, [2, 2])],
        [
            numpy_helper.from_array(np.ones((2, 2), np.float32), "w"),
            helper.make_tensor("words", TensorProto.STRING, [2], [b"x", b"y"]),
            helper.make_tensor("halves", TensorProto.FLOAT16, [2], [1.0, 2.0]),
            helper.make_tensor("empty", FLOAT, [0, 4], []),
        ],
        metadata={"author": "Zoë", "k": ""},
        domains={"local": 1, "com.microsoft": 1},
        functions=[function],
    )
    model.graph.sparse_initializer.append(sparse)
    model.producer_name, model.producer_version = "hand", "2"
    return model


def test_summary_of_a_rich_model(build_onnx):
    summary = read_model(rich_model(build_onnx).SerializeToString())
    assert (summary.ir_version, summary.producer, summary.graph_name) == (9, "hand 2", "graph")
    assert summary.opsets == {"ai.onnx": 18, "local": 1, "com.microsoft": 1}
    assert summary.operators == {
        "ai.onnx::Constant": 4,
        "ai.onnx::Add": 2,
        "ai.onnx::If": 1,
        "local::Twice": 1,
        "com.microsoft::FusedMatMul": 1,
        "ai.onnx::Identity": 1,
    }
    assert (summary.nodes, summary.depth, summary.functions) == (10, 1, 1)
    assert list(map(str, summary.inputs)) == ["x: float32 (batch, 3)", "c: bool ()", "any: str (...)", "open: int64 (?, ?, 0)"]
    assert list(map(str, summary.optional_inputs)) == ["w: float32 (2, 2)"]
    assert list(map(str, summary.outputs)) == ["twice: float32 (...)", "mm: float32 (2, 2)"]
    assert summary.metadata == {"author": "Zoë", "k": ""}
    assert {each.name: (each.dtype, each.shape, each.nbytes, each.location) for each in summary.initializers} == {
        "w": ("float32", (2, 2), 16, None),
        "words": ("str", (2,), 0, None),
        "halves": ("float16", (2,), 4, None),
        "empty": ("float32", (0, 4), 0, None),
        "sparse": ("float32", (2, 3), 24, None),
        "inner": ("float32", (1,), 4, None),
    }


def test_an_initializer_of_an_old_file_cannot_be_fed(build_onnx):
    inputs = [("x", FLOAT, [1]), ("w", FLOAT, [1])]
    weight = helper.make_tensor("w", FLOAT, [1], [1.0])
    for ir_version, optional in ((3, []), (4, ["w"])):
        model = build_onnx([helper.make_node("Add", ["x", "w"], ["y"])], inputs, [("y", FLOAT, [1])], [weight], ir_version=ir_version)
        summary = read_model(model.SerializeToString())
        assert [spec.name for spec in summary.inputs] == ["x"]
        assert [spec.name for spec in summary.optional_inputs] == optional


@pytest.mark.parametrize("code", sorted(set(ELEMENT_TYPES) & set(TensorProto.DataType.values())))
def test_every_element_type_raw_and_typed(build_onnx, code):
    """The onnx package writes the tensor, typed and raw; both pass, and both are refused with an element too few."""
    values = [b"a", b"b", b"c"] if code == TensorProto.STRING else [1, 0, 1]
    typed = helper.make_tensor("w", code, [3], values)
    kinds = [typed]
    if code != TensorProto.STRING:
        kinds.append(numpy_helper.from_array(numpy_helper.to_array(typed), "w"))
        assert kinds[1].HasField("raw_data")
    for tensor in kinds:
        model = one_node(build_onnx, initializers=[tensor])
        (initializer,) = read_model(model.SerializeToString()).initializers
        assert (initializer.name, initializer.shape) == ("w", (3,))
        assert initializer.dtype == ("str" if code == TensorProto.STRING else numpy_helper.to_array(typed).dtype.name)
        assert initializer.nbytes == (0 if code == TensorProto.STRING else (3 * ELEMENT_TYPES[code].bits + 7) // 8)
        tensor = onnx.TensorProto.FromString(tensor.SerializeToString())
        tensor.dims[0] = 9
        with pytest.raises(ArtifactError, match="do not fill"):
            read_model(one_node(build_onnx, initializers=[tensor]).SerializeToString())


def test_element_types_are_all_of_onnx():
    missing = {name for name, code in TensorProto.DataType.items() if code not in ELEMENT_TYPES}
    assert missing == {"UNDEFINED"}


def test_types_that_are_no_tensors(build_onnx):
    model = one_node(build_onnx)
    tensor = helper.make_tensor_type_proto(FLOAT, ["n"])
    types = {
        "seq(tensor(float))": helper.make_sequence_type_proto(tensor),
        "optional(tensor(float))": helper.make_optional_type_proto(tensor),
        "seq(map(int64,tensor(float)))": helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, tensor)),
        "sparse_tensor(float)": helper.make_sparse_tensor_type_proto(FLOAT, [2]),
    }
    for name, proto in types.items():
        model.graph.input.append(helper.make_value_info(name, proto))
    specs = read_model(model.SerializeToString()).inputs[1:]
    assert [(spec.name, spec.dtype, spec.shape, spec.ranked) for spec in specs] == [(name, name, (), False) for name in types]


def test_packed_and_unpacked_numbers_are_one(build_onnx):
    """Protocol Buffers allow both for any repeated number; exporters in other languages write dims packed, or float_data loose."""
    model = one_node(build_onnx).SerializeToString()
    for dims in (varint(1 << 3) + varint(2) + varint(1 << 3) + varint(3), message(1, varint(2) + varint(3))):
        for data in (message(4, struct.pack("<6f", *range(6))), b"".join(varint(4 << 3 | 5) + struct.pack("<f", x) for x in range(6))):
            tensor = dims + varint(2 << 3) + varint(1) + data + message(8, b"w")
            extended = _with_graph_field(model, message(5, tensor))
            assert onnx.load_from_string(extended).graph.initializer[0].float_data[:] == [0, 1, 2, 3, 4, 5]
            (initializer,) = read_model(extended).initializers
            assert (initializer.shape, initializer.nbytes) == ((2, 3), 24)


def _with_graph_field(model: bytes, field: bytes) -> bytes:
    """The model with bytes put at the end of its graph."""
    proto = onnx.load_from_string(model)
    graph = proto.graph.SerializeToString() + field
    proto.ClearField("graph")
    return proto.SerializeToString() + message(7, graph)


def test_million_thresholds_in_attributes(build_onnx):
    """Tree ensembles: one wire field a number, and far more of them than the budget of fields, which they do not touch."""
    rng = np.random.default_rng(0)
    node = helper.make_node("Constant", [], ["k"], value_floats=rng.standard_normal(300_000).astype(np.float32).tolist())
    ints = helper.make_node("Constant", [], ["i"], value_ints=rng.integers(-(2**62), 2**62, 300_000).tolist())
    model = build_onnx([node, ints], [], [("k", FLOAT, [300_000])])
    assert read_model(model.SerializeToString(), Limits(fields=100)).nodes == 2


def test_unknown_fields_are_passed_over(build_onnx):
    model = one_node(build_onnx).SerializeToString()
    extra = message(1000, b"later") + varint(1001 << 3) + varint(7) + varint(1002 << 3 | 5) + b"1234" + varint(1003 << 3 | 1) + b"12345678"
    assert read_model(extra + model + extra).nodes == 1


def test_maps_what_is_large(build_onnx, tmp_path, monkeypatch):
    weight = numpy_helper.from_array(np.zeros(1000, np.float32), "w")
    typed = helper.make_tensor("t", INT64, [1000], range(1000))
    path = tmp_path / "m.onnx"
    path.write_bytes(one_node(build_onnx, initializers=[weight, typed]).SerializeToString())
    read = read_model(path)
    mapped: list[mmap.mmap] = []
    contents = onnx_file._contents
    monkeypatch.setattr(onnx_file, "_READ_WHOLE", 0)
    monkeypatch.setattr(onnx_file, "_contents", lambda *arguments: mapped.append(contents(*arguments)) or mapped[0])
    assert read_model(path) == read
    assert mapped[0][0].closed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numpy's, from the onnx package's own reference implementations
def found_by_protobuf(model: onnx.ModelProto) -> tuple[Counter[str], Counter[str]]:
    """Operators and initializers' names that the onnx package finds, to compare with."""
    operators: Counter[str] = Counter()
    names: Counter[str] = Counter()
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes += graph.node
            names.update([each.name for each in graph.initializer] + [each.values.name for each in graph.sparse_initializer])
        else:
            node = nodes.pop()
            operators[f"{'ai.onnx' if node.domain in ('', 'ai.onnx') else node.domain}::{node.op_type}"] += 1
            for attribute in node.attribute:
                graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    return operators, names


def test_the_models_that_onnx_is_tested_with():
    """A model for every operator and type of ONNX, some 1,800: the same is found in each as the onnx package finds."""
    from onnx.backend.test.case.node import collect_testcases

    models = [case.model for case in collect_testcases(None) if case.model is not None]
    domains = Limits().domains | {"ai.onnx.preview", "ai.onnx.preview.training"}
    assert len(models) > 1000
    for model in models:
        summary = read_model(model.SerializeToString(), Limits(domains=domains))
        assert (summary.operators, Counter(each.name for each in summary.initializers)) == found_by_protobuf(model)
        assert [spec.name for spec in (*summary.inputs, *summary.optional_inputs)] == [each.name for each in model.graph.input]
        assert [spec.name for spec in summary.outputs] == [each.name for each in model.graph.output]


# Files that are no intact ONNX files


def test_paths_that_hold_no_file(tmp_path):
    with pytest.raises(ArtifactError, match="there is no file"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ArtifactError, match=r"is a folder|cannot be read"):
        read_model(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_model("a\0b.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(20)
def test_a_named_pipe_is_no_model_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match="not a regular file"):
        read_model(tmp_path / "pipe.onnx")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        (b"PK\x03\x04rest", "PyTorch checkpoint"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x80\x04\x95", "pickle"),
        (b"<!doctype html><html>", "is text"),
        (b'{"model": 1}', "is text"),
        (b"\x18\x00\x00\x00ORTM\x00", r"\.ort format"),
        (b"\x00" * 64, "not a readable ONNX file"),
        (b"\xff" * 64, "not a readable ONNX file"),
        (b"\x08\x09", "it has no graph"),
        (b"\x3a\x00", "it has no ir_version"),
    ],
)
def test_what_is_no_onnx_is_named(tmp_path, content, words):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words) as caught:
        read_model(path)
    assert str(path) in str(caught.value).splitlines()[0]
    with pytest.raises(ArtifactError, match=words):
        read_model(content)


def test_every_truncation_is_refused(build_onnx):
    """Cut at any byte, a file is refused, unless what is left happens to be a whole message."""
    data = rich_model(build_onnx).SerializeToString()
    intact = 0
    for length in range(len(data)):
        try:
            read_model(data[:length])
            intact += 1
        except ArtifactError:
            continue
    assert intact <= 10  # the top-level fields behind the graph: opsets, metadata, functions


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (message(5, varint(1 << 3) + varint(2**64 - 1) + varint(2 << 3) + varint(1)), "negative size"),
        (message(5, message(1, b"\x01" * 65) + varint(2 << 3) + varint(1)), "more than 64 axes"),
        (message(5, varint(2 << 3) + varint(99)), "unknown element type 99"),
        (message(5, varint(2 << 3) + varint(0)), "unknown element type 0"),
        (message(5, varint(2 << 3) + varint(1) + message(4, b"123")), "not a multiple of 4"),
        (message(5, varint(2 << 3) + varint(1) + varint(14 << 3) + varint(2**32 + 1)), "unknown data location"),
        (message(5, varint(2 << 3) + varint(8) + varint(14 << 3) + varint(1)), "keeps strings outside"),
        (message(5, message(2, b"1")), "wrong type"),
        (message(15, b""), "lacks its values"),
        (message(11, message(1, b"\xff\xfe")), "not UTF-8"),
        (message(11, message(2, b"") + message(2, b"")), "appears twice"),
        (message(11, message(1, b"x" * 20_000)), "20000 bytes"),
        (message(11, message(2, message(1, message(2, message(1, b"") * 65)))), "more than 64 axes"),
        (b"\x0b", "starts no field"),  # a group
        (b"\x07", "starts no field"),  # wire type 7
        (b"\x00\x00", "starts no field"),  # field number 0
        (b"\x0a\xff\xff\xff\xff\x0f", "are there; it may be cut short"),
        (b"\x0a" + b"\x80" * 10 + b"\x01", "more than 10 bytes"),
    ],
)
def test_lies_within_the_graph(build_onnx, field, words):
    with pytest.raises(ArtifactError, match=words):
        read_model(_with_graph_field(one_node(build_onnx).SerializeToString(), field))


def test_a_graph_that_stands_twice_is_refused(build_onnx):
    """Protocol Buffers would merge the two: what one reader looks at is not what the other runs."""
    model = one_node(build_onnx).SerializeToString()
    with pytest.raises(ArtifactError, match=r"field 7 .* appears twice"):
        read_model(model + message(7, b""))


def test_a_type_nested_without_end(build_onnx):
    inner = b""
    for _ in range(30):
        inner = message(4, message(1, inner))
    with pytest.raises(ArtifactError, match="nested deeper"):
        read_model(_with_graph_field(one_node(build_onnx).SerializeToString(), message(11, message(2, inner))))


# What is refused from a stranger


def test_operators_of_unknown_origin(build_onnx):
    node = helper.make_node("Evil", ["x"], ["y"], domain="my.ops")
    data = build_onnx([node], [("x", FLOAT, [1])], [("y", FLOAT, [1])], domains={"my.ops": 1}).SerializeToString()
    with pytest.raises(UntrustedModelError, match=r"custom operator 'my.ops::Evil', and only operators of ai.onnx, ai.onnx.ml, com"):
        read_model(data)
    assert read_model(data, Limits(domains=Limits().domains | {"my.ops"})).operators == {"my.ops::Evil": 1}


def test_a_file_that_onnx_runtime_optimized_for_one_cpu(build_onnx):
    domain = "com.microsoft.nchwc"
    node = helper.make_node("ReorderOutput", ["x"], ["y"], domain=domain)
    data = build_onnx([node], [("x", FLOAT, [1])], [("y", FLOAT, [1])], domains={domain: 1}).SerializeToString()
    with pytest.raises(UntrustedModelError, match=r"optimizing it for one CPU .*: use the original file"):
        read_model(data)


def test_operators_of_unknown_origin_are_found_in_subgraphs_and_functions(build_onnx):
    branch = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["z"], domain="my.ops")], "b", [], [helper.make_tensor_value_info("z", FLOAT, [1])]
    )
    hidden = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=_leaf(1))
    function = helper.make_function("local", "F", ["c", "x"], ["y"], [hidden], [helper.make_opsetid("", 18)])
    call = helper.make_node("F", ["c", "x"], ["y"], domain="local")
    inputs, outputs = [("x", FLOAT, [1]), ("c", BOOL, [])], [("y", FLOAT, [1])]
    for model in (build_onnx([hidden], inputs, outputs), build_onnx([call], inputs, outputs, functions=[function], domains={"local": 1})):
        with pytest.raises(UntrustedModelError, match=r"my\.ops::Evil"):
            read_model(model.SerializeToString())


@pytest.mark.parametrize(("domain", "name"), [("com.microsoft", "Gelu"), ("com.microsoft", "EPContext"), ("", "Relu"), ("ai.onnx", "Relu")])
def test_a_function_may_not_stand_before_an_operator(build_onnx, domain, name):
    """ONNX Runtime runs its own operator of that name: a function would hide it from whoever looks at the file."""
    function = helper.make_function(domain, name, ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], [helper.make_opsetid("", 18)])
    call = helper.make_node(name, ["x"], ["y"], domain=domain)
    model = build_onnx([call], [("x", FLOAT, [1])], [("y", FLOAT, [1])], functions=[function], domains={"com.microsoft": 1})
    with pytest.raises(UntrustedModelError, match=rf"brings a function '({domain}|ai.onnx)::{name}', in a domain of operators"):
        read_model(model.SerializeToString())


def test_an_imported_domain_that_nothing_uses_is_harmless(build_onnx):
    assert read_model(one_node(build_onnx, domains={"pkg.unused": 1}).SerializeToString()).opsets["pkg.unused"] == 1


@pytest.mark.parametrize("operator", sorted(summary.REFUSED_OPERATORS))
def test_operators_that_run_foreign_code(build_onnx, operator):
    domain, name = operator.split("::")
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    with pytest.raises(UntrustedModelError, match=f"'{operator}' (runs|loads)"):
        read_model(build_onnx([node], [("x", FLOAT, [1])], [("y", FLOAT, [1])], domains={domain: 1}).SerializeToString())


def test_nesting(build_onnx):
    assert read_model(nested(build_onnx, 16).SerializeToString()).depth == 16
    with pytest.raises(UntrustedModelError, match=r"depth 17, allowed 16; if you trust it, raise Limits\(depth=...\)"):
        read_model(nested(build_onnx, 17).SerializeToString())
    assert read_model(nested(build_onnx, 17).SerializeToString(), Limits(depth=17)).depth == 17


def test_nesting_by_the_ten_thousand_ends_soon():
    graph = b""
    for _ in range(10_000):
        graph = message(1, message(5, message(6, graph)))  # graph ← attribute ← node ← graph
    started = time.monotonic()
    with pytest.raises(UntrustedModelError, match="depth 17"):
        read_model(b"\x08\x09" + message(7, graph))
    assert time.monotonic() - started < 5


def _functions(build_onnx, bodies: dict[str, list[str]]) -> bytes:
    """A model whose functions call each other as given, once for each name."""
    functions = []
    for name, callees in bodies.items():
        nodes = [helper.make_node(callee, ["a"], ["b"], domain="f" if callee in bodies else "") for callee in callees]
        functions.append(helper.make_function("f", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]))
    call = helper.make_node(next(iter(bodies)), ["x"], ["y"], domain="f")
    return build_onnx([call], [("x", FLOAT, [1])], [("y", FLOAT, [1])], functions=functions, domains={"f": 1}).SerializeToString()


def test_functions_that_call_each_other(build_onnx):
    assert read_model(_functions(build_onnx, {"A": ["B", "B"], "B": ["Relu"]})).functions == 2
    with pytest.raises(UntrustedModelError, match="in a circle"):
        read_model(_functions(build_onnx, {"A": ["B"], "B": ["A"]}))
    doubling = {f"F{i}": [f"F{i + 1}"] * 2 for i in range(40)} | {"F40": ["Relu"]}
    with pytest.raises(UntrustedModelError, match="calls"):  # a trillion of them, once inlined
        read_model(_functions(build_onnx, doubling))
    chain = {f"F{i}": [f"F{i + 1}"] for i in range(100)} | {"F100": ["Relu"]}
    with pytest.raises(UntrustedModelError, match="call depth"):
        read_model(_functions(build_onnx, chain))


def test_functions_that_nest_subgraphs_nest_them_within_each_other(build_onnx):
    """64 functions, each with 16 Ifs and the next call within the innermost, are 1,024 Ifs deep once they are inlined."""

    def deep(inner: onnx.NodeProto, levels: int) -> onnx.NodeProto:
        for _ in range(levels):
            out = helper.make_tensor_value_info("b", FLOAT, None)
            branch = helper.make_graph([inner], "g", [], [out])
            inner = helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=_leaf("e"))
        return inner

    def model(count: int, levels: int) -> bytes:
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
        calls = [helper.make_node(f"F{i + 1}", ["a", "c"], ["b"], domain="f") for i in range(count - 1)]
        last = helper.make_node("Relu", ["a"], ["b"])
        functions = [
            helper.make_function("f", f"F{i}", ["a", "c"], ["b"], [deep(call, levels)], opsets) for i, call in enumerate([*calls, last])
        ]
        call = helper.make_node("F0", ["x", "c"], ["y"], domain="f")
        made = build_onnx([call], [("x", FLOAT, [1]), ("c", BOOL, [])], [("y", FLOAT, [1])], functions=functions, domains={"f": 1})
        return made.SerializeToString()

    assert read_model(model(4, 4)).depth == 4
    with pytest.raises(UntrustedModelError, match="depth 20, allowed 16"):
        read_model(model(5, 4))


def test_a_graph_of_very_many_inputs(build_onnx):
    """A page or a caller that shows a field for each of them would not come to an end."""
    inputs = [("x", FLOAT, [1]), *((f"x{i}", FLOAT, [1]) for i in range(1000))]
    data = build_onnx([helper.make_node("Relu", ["x"], ["y"])], inputs, [("y", FLOAT, [1])]).SerializeToString()
    with pytest.raises(UntrustedModelError, match="inputs 1001, allowed 1000"):
        read_model(data)
    assert len(read_model(data, Limits(inputs=2000)).inputs) == 1001


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(file_bytes=10), "file bytes"),
        (Limits(nodes=9), "nodes 10, allowed 9"),
        (Limits(depth=0), "depth 1, allowed 0"),
        (Limits(initializers=5), "initializers 6, allowed 5"),
        (Limits(tensor_bytes=20), "tensor bytes"),
        (Limits(metadata_bytes=5), "metadata bytes"),
        (Limits(fields=50), "fields 51, allowed 50"),
    ],
)
def test_limits(build_onnx, tmp_path, limits, words):
    data = rich_model(build_onnx).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for model in (data, path):
        with pytest.raises(UntrustedModelError, match=words):
            read_model(model, limits)


def test_a_tiny_file_that_declares_a_huge_tensor(build_onnx):
    """A sparse tensor with no values: ONNX Runtime makes a dense one of it."""
    model = one_node(build_onnx)
    values, indices = helper.make_tensor("s", FLOAT, [0], []), helper.make_tensor("i", INT64, [0], [])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**18, 2**10 + 1]))
    with pytest.raises(UntrustedModelError, match=r"sparse bytes 1074790400, .*Limits\(sparse_bytes=\.\.\.\)"):
        read_model(model.SerializeToString())
    assert read_model(model.SerializeToString(), Limits(sparse_bytes=2**31)).initializers


# External data


def external(build_onnx, tmp_path: Path, nbytes: int = 16, **entries: str) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[nbytes // 4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(one_node(build_onnx, initializers=[tensor]).SerializeToString())
    return path


def test_external_data_in_the_folder(build_onnx, tmp_path):
    path = external(build_onnx, tmp_path, location="sub/w.bin", offset="8", length="16", checksum="00")
    with pytest.raises(ArtifactError, match=r"needs the file 'sub/w.bin' beside it"):
        read_model(path)
    (path.parent / "sub").mkdir()
    (path.parent / "sub/w.bin").write_bytes(bytes(23))
    with pytest.raises(UntrustedModelError, match=r"needs bytes 8 to 24 of 'sub/w\.bin', which has 23"):
        read_model(path)
    (path.parent / "sub/w.bin").write_bytes(bytes(24))
    (initializer,) = read_model(path).initializers
    assert (initializer.location, initializer.nbytes) == ("sub/w.bin", 16)
    with pytest.raises(ArtifactError, match="bytes have no folder"):
        read_model(path.read_bytes())


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "names no file"),
        ({"location": ""}, "names no file"),
        ({"location": "a\nb"}, "names no file"),
        ({"location": "/etc/passwd"}, "relative path"),
        ({"location": "C:/w.bin"}, "relative path"),
        ({"location": "..\\w.bin"}, "relative path"),
        ({"location": "../w.bin"}, "leaves the model's folder"),
        ({"location": "sub/../../w.bin"}, "leaves the model's folder"),
        ({"location": "."}, "leaves the model's folder"),
        ({"location": "folder"}, "not a regular file"),
        ({"location": "w.bin", "offset": "-1"}, "offset '-1'"),
        ({"location": "w.bin", "offset": "0x1"}, "offset '0x1'"),
        ({"location": "w.bin", "offset": "9" * 30}, "expected a whole number"),
        ({"location": "w.bin", "offset": "9" * 18}, "it may be cut short"),
        ({"location": "w.bin", "length": "15"}, "says length 15, but the shape takes 16"),
        ({"location": "w.bin", "prepacked_0": "0;16;"}, "unknown key 'prepacked_0'"),
    ],
)
def test_external_data_that_cannot_be_followed(build_onnx, tmp_path, entries, words):
    path = external(build_onnx, tmp_path, **entries)
    for folder in (tmp_path, path.parent):
        (folder / "w.bin").write_bytes(bytes(16))
    (path.parent / "folder").mkdir()
    (path.parent / "sub").mkdir()
    with pytest.raises(UntrustedModelError, match=words):
        read_model(path)


def test_external_data_marker_of_onnxruntime_for_memory(build_onnx, tmp_path):
    """With this location older ONNX Runtimes read any address of the process."""
    with pytest.raises(ArtifactError, match="beside it"):
        read_model(external(build_onnx, tmp_path, location="*/_ORT_MEM_ADDR_/*", offset="4096", length="16"))


def test_external_data_through_links(build_onnx, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    path = external(build_onnx, tmp_path, location="link.bin")
    try:
        (path.parent / "link.bin").symlink_to("../secret")
        (path.parent / "dir").symlink_to("..")
    except OSError:
        pytest.skip("links cannot be made here")
    with pytest.raises(UntrustedModelError, match="goes through a link"):
        read_model(path)
    with pytest.raises(UntrustedModelError, match="goes through a link"):
        read_model(external(build_onnx, tmp_path, location="dir/secret"))


def test_external_data_as_caches_link_it(build_onnx, tmp_path):
    """huggingface_hub: the model and its data are links into one folder, by the SHA-256 of their content."""
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aa").write_bytes(external(build_onnx, tmp_path, location="model.onnx_data").read_bytes())
    (blobs / "bb").write_bytes(bytes(16))
    (tmp_path / "elsewhere").write_bytes(bytes(16))
    path = snapshot / "model.onnx"
    try:
        path.symlink_to("../../blobs/aa")
        path.with_name("model.onnx_data").symlink_to("../../blobs/bb")
    except OSError:
        pytest.skip("links cannot be made here")
    (initializer,) = read_model(path).initializers
    assert initializer.location == "model.onnx_data"
    with Engine(path, device="cpu") as engine:
        assert engine.outputs
    for target in ("../../elsewhere", "../../blobs/gone", "model.onnx_data", "../../blobs"):
        path.with_name("model.onnx_data").unlink()
        path.with_name("model.onnx_data").symlink_to(target)
        with pytest.raises(UntrustedModelError, match=r"goes through a link|is not a regular file"):
            read_model(path)


def test_external_data_behind_a_hard_link_is_the_file_itself(build_onnx, tmp_path):
    """Package installers and caches link files so, and nothing tells such a name from any other: it was made by who may read it."""
    (tmp_path / "cache").write_bytes(bytes(16))
    path = external(build_onnx, tmp_path, location="w.bin")
    try:
        (path.parent / "w.bin").hardlink_to(tmp_path / "cache")
    except OSError:
        pytest.skip("links cannot be made here")
    (initializer,) = read_model(path).initializers
    assert initializer.location == "w.bin"


def test_external_data_hides_in_attributes_too(build_onnx, tmp_path):
    tensor = onnx.TensorProto(name="k", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = tmp_path / "m.onnx"
    path.write_bytes(build_onnx([helper.make_node("Constant", [], ["y"], value=tensor)], [], [("y", FLOAT, [4])]).SerializeToString())
    with pytest.raises(UntrustedModelError, match="relative path"):
        read_model(path)


def test_weight_files_of_tensors_in_attributes_are_weight_files_too(build_onnx, tmp_path):
    tensor = onnx.TensorProto(name="k", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="k.bin")
    (tmp_path / "k.bin").write_bytes(bytes(16))
    path = tmp_path / "m.onnx"
    path.write_bytes(build_onnx([helper.make_node("Constant", [], ["y"], value=tensor)], [], [("y", FLOAT, [4])]).SerializeToString())
    assert read_model(path).weight_files(path) == [tmp_path / "k.bin"]
