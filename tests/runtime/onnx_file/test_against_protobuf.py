"""The bounded reader against protobuf itself: what the reader accepts, both must understand in the same way, tensor by tensor.

A file that looks harmless to the reader and different to ONNX Runtime is an attack. Mutants are changed in their bytes, and in
their structure: sub-messages doubled, split in two, moved and mixed, scalars doubled, numbers spelled in other ways.
CI runs a few hundred with a fresh seed. More: ``ONNXFERRY_MUTANTS=100000 pytest tests/runtime/onnx_file/test_against_protobuf.py``;
a seed again: ``ONNXFERRY_SEED=…``.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.onnx_file import protobuf, reader, tensors, values
from onnxferry.runtime.onnx_file.reader import read_model

COUNT = int(os.environ.get("ONNXFERRY_MUTANTS", "400"))
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


# ---------------------------------------------------------------------------------------------- a model with every kind of message


def tensor(name: str, **external: str) -> TensorProto:
    if not external:
        return helper.make_tensor(name, FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    made = TensorProto(name=name, data_type=FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, value in external.items():
        made.external_data.add(key=key, value=value)
    return made


def sparse(name: str) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        helper.make_tensor(name, FLOAT, [2], [1.0, 2.0]), helper.make_tensor(f"{name}_at", INT64, [2], [1, 5]), [2, 3]
    )


def subgraph(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    body = nodes or (helper.make_node("Identity", ["x"], [name]),)
    return helper.make_graph(body, name, [], [helper.make_tensor_value_info(name, FLOAT, None)], [tensor(f"{name}_w")])


def everything() -> onnx.ModelProto:
    """Every message that the reader reads, with every field that it reads."""
    inner = helper.make_node("If", ["c"], ["deep"], then_branch=subgraph("t2"), else_branch=subgraph("e2"))
    lists = helper.make_node("Many", ["x"], ["m"], domain="com.microsoft")
    lists.attribute.append(helper.make_attribute("ts", [tensor("l1"), tensor("l2", location="w.bin", length="16")]))
    lists.attribute.append(helper.make_attribute("gs", [subgraph("g1"), subgraph("g2")]))
    lists.attribute.append(helper.make_attribute("ss", [sparse("s1"), sparse("s2")]))
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=subgraph("t", inner), else_branch=subgraph("e")),
        helper.make_node("Twice", ["y"], ["z"], domain="local"),
        helper.make_node("Constant", [], ["k"], value=tensor("k")),
        helper.make_node("Constant", [], ["ke"], value=tensor("ke", location="w.bin", offset="16", length="16", checksum="0")),
        helper.make_node("Constant", [], ["ks"], sparse_value=sparse("ks")),
        helper.make_node("Constant", [], ["kf"], value_floats=[0.5] * 4),
        helper.make_node("Constant", [], ["ki"], value_ints=[-1, 2**40]),
        lists,
    ]
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["f"], value=tensor("f", location="w.bin")), helper.make_node("Add", ["a", "f"], ["b"])],
        [helper.make_opsetid("", 18)],
        attributes=["alpha"],
        attribute_protos=[helper.make_attribute("beta", tensor("beta"))],
    )
    tensor_type = helper.make_tensor_type_proto(FLOAT, ["n", 3])
    types = {
        "x": tensor_type,
        "c": helper.make_tensor_type_proto(BOOL, []),
        "any": helper.make_tensor_type_proto(TensorProto.STRING, None),
        "seq": helper.make_sequence_type_proto(helper.make_optional_type_proto(tensor_type)),
        "map": helper.make_map_type_proto(INT64, tensor_type),
        "sparse": helper.make_sparse_tensor_type_proto(FLOAT, [4, None]),
    }
    graph = helper.make_graph(
        nodes,
        "everything",
        [helper.make_value_info(name, kind) for name, kind in types.items()],
        [helper.make_value_info("z", tensor_type), helper.make_value_info("k", helper.make_optional_type_proto(tensor_type))],
        [
            tensor("w"),
            tensor("we", location="w.bin", length="16"),
            helper.make_tensor("raw", TensorProto.FLOAT16, [2], b"abcd", raw=True),
            helper.make_tensor("words", TensorProto.STRING, [2], [b"x", b"y"]),
            helper.make_tensor("doubles", TensorProto.DOUBLE, [2], [1.0, 2.0]),
            helper.make_tensor("wide", TensorProto.UINT64, [2], [1, 2]),
            helper.make_tensor("bytes", TensorProto.INT8, [2], [1, -2]),
        ],
        sparse_initializer=[sparse("sparse_w")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10, producer_name="hand", producer_version="2")
    helper.set_model_props(model, {"author": "Zoë", "k": ""})
    return model


# --------------------------------------------------------------------------------------------------------------- what each one sees


def by_reader(data: bytes, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the reader finds. External data is taken for good, so that its description is what is compared."""
    headers: Counter[tuple[object, ...]] = Counter()
    counted = reader._ModelReader._counted

    def recorded(self: Any, header: tensors.TensorHeader) -> Any:
        headers[header.name, header.element.numpy, header.shape, header.nbytes, _frozen(header.external)] += 1
        return counted(self, header)

    with monkeypatch.context() as patch:
        patch.setattr(reader._ModelReader, "_counted", recorded)
        patch.setattr(reader.ExternalData, "check", lambda self, name, entries, nbytes: entries.get("location", ""))
        summary = read_model(data)
    return {
        "ir_version": summary.ir_version,
        "producer": summary.producer,
        "graph": summary.graph_name,
        "opsets": dict(summary.opsets),
        "metadata": dict(summary.metadata),
        "operators": Counter(summary.operators),
        "nodes": summary.nodes,
        "functions": summary.functions,
        "tensors": headers,
        "initializers": Counter((each.name, each.dtype, each.shape, each.nbytes, each.location) for each in summary.initializers),
        "inputs": Counter(summary.inputs + summary.optional_inputs),
        "outputs": Counter(summary.outputs),
    }


def by_protobuf(model: onnx.ModelProto) -> dict[str, Any]:
    """The same, out of the message that protobuf has merged."""
    found: Counter[tuple[object, ...]] = Counter()
    initializers: Counter[tuple[object, ...]] = Counter()
    operators: Counter[str] = Counter()

    def see(message: TensorProto | onnx.SparseTensorProto) -> tuple[object, ...]:
        header = _header(message)
        found[header] += 1
        if isinstance(message, onnx.SparseTensorProto):
            found[_header(message.values)] += 1
            found[_header(message.indices)] += 1
        external = header[4]
        return (*header[:4], None if external is None else dict(external).get("location", ""))

    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    attributes = [each for function in model.functions for each in function.attribute_proto]
    while graphs or nodes or attributes:
        if graphs:
            graph = graphs.pop()
            nodes += graph.node
            initializers.update(see(each) for each in (*graph.initializer, *graph.sparse_initializer))
        elif nodes:
            node = nodes.pop()
            operators[f"{_domain(node.domain) or 'ai.onnx'}::{node.op_type}"] += 1
            attributes += node.attribute
        else:
            each = attributes.pop()
            graphs += [*each.graphs, *([each.g] if each.HasField("g") else [])]
            for message in (*each.tensors, *each.sparse_tensors):
                see(message)
            for name in ("t", "sparse_tensor"):
                if each.HasField(name):
                    see(getattr(each, name))
    top = model.graph
    fed = {each.name for each in top.initializer} | {each.values.name for each in top.sparse_initializer}
    return {
        "ir_version": model.ir_version,
        "producer": " ".join(part for part in (model.producer_name, model.producer_version) if part),
        "graph": top.name,
        "opsets": {_domain(each.domain) or "ai.onnx": each.version for each in model.opset_import},
        "metadata": {each.key: each.value for each in model.metadata_props},
        "operators": operators,
        "nodes": operators.total(),
        "functions": len({(_domain(each.domain), each.name) for each in model.functions}),
        "tensors": found,
        "initializers": initializers,
        "inputs": Counter(_spec(each) for each in top.input if each.name not in fed or model.ir_version >= 4),
        "outputs": Counter(_spec(each) for each in top.output),
    }


def _header(message: TensorProto | onnx.SparseTensorProto) -> tuple[object, ...]:
    values_of = message.values if isinstance(message, onnx.SparseTensorProto) else message
    element = tensors.ELEMENT_TYPES[values_of.data_type]
    elements = 1
    for size in message.dims:
        elements *= size
    external = None
    if isinstance(message, TensorProto) and message.data_location == TensorProto.EXTERNAL:
        external = _frozen({each.key: each.value for each in message.external_data})
    return values_of.name, element.numpy, tuple(message.dims), (elements * element.bits + 7) // 8, external


def _frozen(entries: Any) -> object:
    return None if entries is None else tuple(sorted(entries.items()))


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _spec(value: onnx.ValueInfoProto) -> values.TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return values.TensorSpec(value.name, _spelling(value.type) if value.HasField("type") else "undefined", (), ranked=False)
    element = tensors.ELEMENT_TYPES.get(value.type.tensor_type.elem_type)
    shape: tuple[int | str | None, ...] = ()
    ranked = value.type.tensor_type.HasField("shape")
    if ranked:
        sizes = [getattr(dim, dim.WhichOneof("value") or "dim_value") for dim in value.type.tensor_type.shape.dim]
        given = [dim.WhichOneof("value") is not None for dim in value.type.tensor_type.shape.dim]
        shape = tuple(
            size if there and size != "" and not (isinstance(size, int) and size < 0) else None
            for size, there in zip(sizes, given, strict=True)
        )
    return values.TensorSpec(value.name, element.numpy if element else "undefined", shape, ranked=ranked)


def _spelling(kind: onnx.TypeProto) -> str:
    def element(code: int) -> str:
        return tensors.ELEMENT_TYPES[code].onnx if code in tensors.ELEMENT_TYPES else "undefined"

    def inner(of: Any, field: str) -> str:
        return _spelling(getattr(of, field)) if of.HasField(field) else "undefined"

    match kind.WhichOneof("value"):
        case "tensor_type":
            return f"tensor({element(kind.tensor_type.elem_type)})"
        case "sparse_tensor_type":
            return f"sparse_tensor({element(kind.sparse_tensor_type.elem_type)})"
        case "sequence_type":
            return f"seq({inner(kind.sequence_type, 'elem_type')})"
        case "optional_type":
            return f"optional({inner(kind.optional_type, 'elem_type')})"
        case "map_type":
            key = f"{element(kind.map_type.key_type)}," if kind.map_type.HasField("key_type") else ""
            return f"map({key}{inner(kind.map_type, 'value_type')})"
        case "opaque_type":
            return "opaque"
    return "undefined(undefined)"


# ------------------------------------------------------------------------------------------------------------------------ mutations


def varint(value: int, padding: int = 0) -> bytes:
    """A number, spelled with some bytes more than it needs."""
    out = bytearray()
    value &= 2**64 - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(min(padding, 10 - len(out))):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


class Field:
    """A field of a message: its number, wire type, and a number, bytes, or the fields of the message that it is."""

    def __init__(self, number: int, wire: int, value: Any, kind: Descriptor | None = None) -> None:
        self.number, self.wire, self.value, self.kind, self.padding = number, wire, value, kind, 0

    def encoded(self) -> bytes:
        key = varint(self.number << 3 | self.wire)
        if self.wire == 0:
            return key + varint(self.value, self.padding)
        body = b"".join(each.encoded() for each in self.value) if self.kind else self.value
        return key + (varint(len(body), min(self.padding, 3)) if self.wire == 2 else b"") + body

    def copy(self) -> Field:
        value = [each.copy() for each in self.value] if self.kind else self.value
        return Field(self.number, self.wire, value, self.kind)


def parsed(data: bytes, kind: Descriptor) -> list[Field]:
    """The fields of a well-formed message."""
    fields, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        field = kind.fields_by_number.get(key >> 3)
        if key & 7 == 0:
            fields.append(Field(key >> 3, 0, number()))
            continue
        size = {1: 8, 5: 4}.get(key & 7) or number()
        body, at = data[at : at + size], at + size
        inner = field.message_type if field is not None else None
        fields.append(Field(key >> 3, key & 7, parsed(body, inner) if inner else body, inner))
    return fields


def messages(fields: list[Field], kind: Descriptor) -> Iterator[tuple[list[Field], Descriptor]]:
    yield fields, kind
    for field in fields:
        if field.kind:
            yield from messages(field.value, field.kind)


def restructured(data: bytes, rng: random.Random) -> bytes:
    top = parsed(data, onnx.ModelProto.DESCRIPTOR)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [(fields, kind) for fields, kind in messages(top, onnx.ModelProto.DESCRIPTOR) if fields]
        fields, kind = rng.choice(places)
        at = rng.randrange(len(fields))
        field = fields[at]
        same = [each for others, of in places if of is kind for each in others if each.number == field.number]
        match rng.randrange(10):
            case 0:  # the same once more, here or at the end
                fields.insert(rng.choice((at, len(fields))), field.copy())
            case 1 if field.kind and field.value:  # split into two
                cut = rng.randrange(len(field.value) + 1)
                fields[at : at + 1] = [Field(field.number, 2, part, field.kind) for part in (field.value[:cut], field.value[cut:])]
            case 2:  # another of its kind, from elsewhere in the model, beside it
                fields.insert(rng.choice((at, at + 1)), rng.choice(same).copy())
            case 3:  # the fields of one of its kind put into it
                inside = [others for others, of in places if field.kind and of is field.kind]
                if inside:
                    field.value += [each.copy() for each in rng.choice(inside)]
            case 4:  # its place taken by another's
                fields[at] = rng.choice(same).copy()
            case 5 if field.wire == 0:
                field.value = rng.choice((0, 1, 2, field.value + 2**32, 2**63, 2**64 - 1, 99, field.value ^ 1))
            case 6:
                field.padding = rng.choice((1, 2, 9))
            case 7:  # any field that such a message may have
                fields.insert(at, _made(rng.choice(kind.fields), rng))
            case 8:
                del fields[at]
            case 9:
                rng.shuffle(fields)
    return b"".join(each.encoded() for each in top)


def _made(field: FieldDescriptor, rng: random.Random) -> Field:
    match field.type:
        case FieldDescriptor.TYPE_STRING | FieldDescriptor.TYPE_BYTES:
            return Field(field.number, 2, rng.choice((b"", b"w", b"ai.onnx", b"location", b"16")))
        case FieldDescriptor.TYPE_FLOAT:
            return Field(field.number, 5, b"abcd")
        case FieldDescriptor.TYPE_DOUBLE:
            return Field(field.number, 1, b"abcdefgh")
        case FieldDescriptor.TYPE_MESSAGE:
            return Field(field.number, 2, [], field.message_type)
    return Field(field.number, 0, rng.choice((0, 1, 2, 2**32 + 1, 2**64 - 1)))


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, other = rng.randrange(max(len(out), 1)), rng.randrange(max(len(out), 1))
        out = out or bytearray(b"\x08")  # all may have been deleted
        match rng.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 5)):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                del out[at : at + rng.choice((1, 2, 8, 64))]
            case 3:
                out[at:at] = out[other : other + rng.choice((1, 4, 32, 256))]
            case 4:
                out[at:at] = rng.choice((b"\x00", b"\xff" * 5, b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\x0b", varint(2**31), varint(2**63)))
            case 5:
                out = out[: max(at, 1)]
    return bytes(out)


# ---------------------------------------------------------------------------------------------------------------------------- tests


def test_the_reader_and_protobuf_see_the_same_model(monkeypatch):
    model = everything()
    assert by_reader(model.SerializeToString(), monkeypatch) == by_protobuf(model)
    assert b"".join(each.encoded() for each in parsed(model.SerializeToString(), model.DESCRIPTOR)) == model.SerializeToString()


@pytest.mark.timeout(0 if COUNT > 1000 else 300)
def test_no_mutant_is_read_differently(monkeypatch):
    seed = int(os.environ.get("ONNXFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"ONNXFERRY_SEED={seed}")  # shown where the test fails
    rng = random.Random(seed)
    source = everything().SerializeToString()
    verdicts: Counter[str] = Counter()
    for number in range(COUNT):
        data = restructured(source, rng) if rng.random() < 0.7 else damaged(source, rng)
        if os.environ.get("ONNXFERRY_SHOW") == str(number):
            print(data.hex())
        started = time.monotonic()
        try:
            seen = by_reader(data, monkeypatch)
        except OnnxFerryError as error:
            verdicts[type(error).__name__] += 1
            continue
        finally:
            assert time.monotonic() - started < 10, f"mutant {number}"
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except DecodeError:  # damage in parts that the reader passes over: ONNX Runtime will refuse it
            verdicts["read here only"] += 1
            continue
        verdicts["read by both"] += 1
        assert seen == by_protobuf(model), f"mutant {number} of ONNXFERRY_SEED={seed}"
    print(dict(verdicts))
    assert verdicts["ArtifactError"] > COUNT / 10, verdicts
    assert verdicts["read by both"] > COUNT / 10, verdicts


TABLES: dict[str, tuple[protobuf.Fields, type[Any]]] = {
    "model": (reader._MODEL, onnx.ModelProto),
    "opset": (reader._OPSET, onnx.OperatorSetIdProto),
    "graph": (reader._GRAPH, onnx.GraphProto),
    "node": (reader._NODE, onnx.NodeProto),
    "attribute": (reader._ATTRIBUTE, onnx.AttributeProto),
    "function": (reader._FUNCTION, onnx.FunctionProto),
    "tensor": (tensors._TENSOR, onnx.TensorProto),
    "sparse": (tensors._SPARSE, onnx.SparseTensorProto),
    "pair": (tensors.PAIR, onnx.StringStringEntryProto),
    "value": (values._VALUE, onnx.ValueInfoProto),
    "type": (values._TYPE, onnx.TypeProto),
    "tensor type": (values._TENSOR_TYPE, onnx.TypeProto.Tensor),
    "sparse type": (values._TENSOR_TYPE, onnx.TypeProto.SparseTensor),
    "map type": (values._MAP_TYPE, onnx.TypeProto.Map),
    "sequence type": (values._ELEMENT_TYPE, onnx.TypeProto.Sequence),
    "optional type": (values._ELEMENT_TYPE, onnx.TypeProto.Optional),
    "shape": (values._SHAPE, onnx.TensorShapeProto),
    "dimension": (values._DIMENSION, onnx.TensorShapeProto.Dimension),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_fields_are_onnxs_own(name):
    """Wire types, and which fields may appear more than once, are those of the onnx package's descriptors."""
    table, message = TABLES[name]
    floats = {FieldDescriptor.TYPE_FLOAT: protobuf.FIXED32, FieldDescriptor.TYPE_DOUBLE: protobuf.FIXED64}
    lengths = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)
    for number, mask in table.items():
        field = message.DESCRIPTOR.fields_by_number[number]
        expected = protobuf.LENGTH if field.type in lengths else floats.get(field.type, protobuf.VARINT)
        if field.is_repeated:
            expected |= protobuf.REPEATED | protobuf.LENGTH  # numbers may be packed
        assert mask == expected, field.full_name


@pytest.mark.parametrize("field", ["t", "g", "sparse_tensor"])
def test_a_value_of_an_attribute_that_appears_twice_is_refused(field):
    """Protobuf merges the two. One copy said that its data lies outside, the other, inline, told where: any file could be read."""
    model = helper.make_model(subgraph("top"))
    node = onnx.NodeProto(op_type="Constant", output=["twice"])
    node.attribute.append(helper.make_attribute("value", {"t": tensor("a"), "g": subgraph("a"), "sparse_tensor": sparse("a")}[field]))
    attribute = node.attribute[0]
    value = getattr(attribute, field).SerializeToString()
    number = attribute.DESCRIPTOR.fields_by_name[field].number
    body = attribute.SerializeToString() + varint(number << 3 | 2) + varint(len(value)) + value
    doubled = b"\x22\x08Constant" + b"\x2a" + varint(len(body)) + body
    graph = b"\x0a" + varint(len(doubled)) + doubled
    whole = model.graph.SerializeToString() + graph
    model.ClearField("graph")
    data = model.SerializeToString() + b"\x3a" + varint(len(whole)) + whole
    assert onnx.load_from_string(data).graph.node[-1].attribute[0].HasField(field)
    with pytest.raises(OnnxFerryError, match=rf"field {number} of the message at byte \d+ appears twice"):
        read_model(data)
