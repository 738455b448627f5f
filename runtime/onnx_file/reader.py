"""What an .onnx file holds, read from its bytes before ONNX Runtime sees them: bounded, without the onnx package.

    summary = read_model("model.onnx")
    summary.operators                   # {"ai.onnx::Conv": 7, "ai.onnx::Relu": 6, …}, subgraphs and functions included

A model file is untrusted. Refused are damage of every kind, operators of unknown origin or that run
foreign code, external data outside the file's folder, and sizes beyond :class:`Limits`. Weights are never copied: the file is
mapped, and of a tensor only its header is read. Graphs inside graphs are walked with a list, not by recursion.
Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (the field numbers below).
"""

from __future__ import annotations

import mmap
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from onnxferry.runtime.errors import ArtifactError, ArtifactNotFoundError, UntrustedModelError
from onnxferry.runtime.onnx_file import foresight
from onnxferry.runtime.onnx_file.constants import LISTS
from onnxferry.runtime.onnx_file.external_data import ExternalData
from onnxferry.runtime.onnx_file.other_formats import other_format
from onnxferry.runtime.onnx_file.protobuf import (
    LENGTH,
    REPEATED,
    VARINT,
    BudgetError,
    Buffer,
    Fields,
    ProtobufError,
    ProtobufReader,
    signed,
)
from onnxferry.runtime.onnx_file.summary import (
    OPERATOR_DOMAINS,
    REFUSED_OPERATORS,
    Initializer,
    Limits,
    ModelSummary,
    beyond,
)
from onnxferry.runtime.onnx_file.tensors import TensorHeader, read_pair, read_sparse, read_tensor
from onnxferry.runtime.onnx_file.values import TensorSpec as TensorSpec
from onnxferry.runtime.onnx_file.values import read_value

_OVERRIDABLE_IR = 4  # from this IR version on, an initializer that is also an input may be fed


_READ_WHOLE = 64 * 2**20  # bytes


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hex. Raises OSError where it cannot be read."""
    import hashlib  # OpenSSL takes longer to load than a small model; most who open one never ask

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_model(model: str | os.PathLike[str] | bytes, limits: Limits | None = None) -> ModelSummary:
    """Reads a file, or a file's bytes. Raises ArtifactError for what is no intact ONNX file, UntrustedModelError for what is
    refused in an untrusted file or beyond ``limits`` (None: the defaults).
    """
    limits = limits or Limits()
    return _summary(model, "the model", None, limits) if isinstance(model, bytes) else read_file(Path(model), limits).summary


@dataclass(frozen=True)
class ReadFile:
    """A file as it was read."""

    summary: ModelSummary
    content: bytes | None  # its bytes; None for a large file, which was mapped
    status: os.stat_result  # of the file that was opened


def read_file(path: Path, limits: Limits) -> ReadFile:
    """As :func:`read_model`, with what is needed to run exactly the file that was read."""
    data, status = _contents(path, limits)
    try:
        summary = _summary(data, str(path), path.absolute(), limits)
    finally:
        if isinstance(data, mmap.mmap):
            data.close()
    return ReadFile(summary, data if isinstance(data, bytes) else None, status)


def _contents(path: Path, limits: Limits) -> tuple[Buffer, os.stat_result]:
    """The file's bytes and status. Large files are mapped; small ones are read, because a map of a file that is cut short is a crash."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path} is not a regular file; expected an .onnx file")
            if status.st_size == 0:
                raise _empty(str(path))
            if status.st_size > limits.file_bytes:
                raise beyond(str(path), "file_bytes", status.st_size, limits)
            if status.st_size <= _READ_WHOLE:
                return bytes(file.read()), status
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), status
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(f"there is no file {path}", path) from error
    except IsADirectoryError as error:
        raise ArtifactError(f"{path} is a folder; expected an .onnx file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL within the path
        raise ArtifactError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a named pipe would wait for its writer for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _summary(data: Buffer, name: str, path: Path | None, limits: Limits) -> ModelSummary:
    if len(data) > limits.file_bytes:  # bytes; a file's size is looked at before it is mapped
        raise beyond(name, "file_bytes", len(data), limits)
    if not data:
        raise _empty(name)
    if verdict := other_format(data[:64]):
        raise ArtifactError(f"{name} {verdict}")
    try:
        return _ModelReader(data, name, path, limits).read()
    except ProtobufError as error:
        raise ArtifactError(f"{name} is not a readable ONNX file: {error}; export or download it again") from error
    except BudgetError as error:
        raise beyond(name, "fields", limits.fields + 1, limits) from error


def _empty(name: str) -> ArtifactError:
    return ArtifactError(f"{name} is empty; export or download it again")


# Fields by number that are read of each message, and the wire types they may have.
_MODEL: Fields = {
    1: VARINT,  # ir_version
    2: LENGTH,  # producer_name
    3: LENGTH,  # producer_version
    7: LENGTH,  # graph
    8: LENGTH | REPEATED,  # opset_import
    14: LENGTH | REPEATED,  # metadata_props
    25: LENGTH | REPEATED,  # functions
}


_OPSET: Fields = {1: LENGTH, 2: VARINT}  # domain, version


_GRAPH: Fields = {
    1: LENGTH | REPEATED,  # node
    2: LENGTH,  # name
    5: LENGTH | REPEATED,  # initializer
    11: LENGTH | REPEATED,  # input
    12: LENGTH | REPEATED,  # output
    15: LENGTH | REPEATED,  # sparse_initializer
}


_NODE: Fields = {4: LENGTH, 5: LENGTH | REPEATED, 7: LENGTH}  # op_type, attribute, domain


_ATTRIBUTE: Fields = {
    5: LENGTH,  # t
    6: LENGTH,  # g
    10: LENGTH | REPEATED,  # tensors
    11: LENGTH | REPEATED,  # graphs
    22: LENGTH,  # sparse_tensor
    23: LENGTH | REPEATED,  # sparse_tensors
}


_FUNCTION: Fields = {1: LENGTH, 7: LENGTH | REPEATED, 10: LENGTH, 11: LENGTH | REPEATED}  # name, node, domain, attribute_proto


_Operator = tuple[str, str]  # domain, name; ONNX's own domain is ""


_Owner = _Operator | None  # the function whose body a node is in, None for the graph itself


@dataclass
class _Graph:
    name: str = ""
    inputs: list[TensorSpec] = field(default_factory=list)
    outputs: list[TensorSpec] = field(default_factory=list)


class _ModelReader:
    """One pass over one model. Graphs that are found inside nodes go onto a list and are read in turn."""

    def __init__(self, data: Buffer, name: str, path: Path | None, limits: Limits) -> None:
        self.reader = ProtobufReader(data, limits.fields)
        self.name = name
        self.limits = limits
        self.external = ExternalData(name, path)
        self.pending: list[tuple[int, int, int, _Owner]] = []  # graphs to read: offsets, depth, and whose calls their nodes are
        self.calls: dict[_Owner, Counter[_Operator]] = {None: Counter()}
        self.call_nesting: dict[tuple[_Owner, _Operator], int] = {}  # the deepest place where an owner has such a node
        self.nesting: dict[_Owner, int] = {}  # of the deepest subgraph of an owner
        self.functions: dict[_Operator, tuple[int, int]] = {}  # where their messages lie
        self.nodes = 0
        self.depth = 0
        self.tensor_bytes = 0
        self.sparse_bytes = 0
        self.initializers: list[Initializer] = []
        self.locations: set[str] = set()  # of external data

    def read(self) -> ModelSummary:
        reader, limits = self.reader, self.limits
        ir_version, producer, graph = 0, ["", ""], None
        opsets: dict[str, int] = {}
        metadata: dict[str, str] = {}
        metadata_bytes = 0
        for number, _, value, stop in reader.fields(0, len(reader.data), _MODEL):
            if number == 1:
                ir_version = signed(value)
            elif number in (2, 3):
                producer[number - 2] = self._text(value, stop)
            elif number == 7:
                graph = value, stop
            elif number == 8:
                domain, version = self._opset(value, stop)
                opsets[domain or "ai.onnx"] = version
            elif number == 14:
                metadata_bytes += stop - value
                if metadata_bytes > limits.metadata_bytes:
                    raise self._beyond("metadata_bytes", metadata_bytes)
                key, text = read_pair(reader, value, stop, limits.metadata_bytes)
                metadata[key] = text
            else:
                self._function(value, stop)
        if graph is None or ir_version == 0:
            raise ProtobufError(f"it has no {'graph' if graph is None else 'ir_version'}")
        top = self._graph(*graph, 0, None)
        # The graph's own come first; below, those of subgraphs follow.
        given = {each.name for each in self.initializers}
        may_feed = given if ir_version >= _OVERRIDABLE_IR else set()
        while self.pending:
            self._graph(*self.pending.pop())
        self._check_operators()
        operators = sum(self.calls.values(), Counter())
        followed = top.inputs if foresight.needs_shapes(operators) else ()
        texts = ("", "StringConcat") in operators
        never_zero = foresight.Foresight(reader, self.name, limits, self.functions, texts=texts).follow(*graph, followed)
        return ModelSummary(
            ir_version=ir_version,
            opsets=opsets,
            producer=" ".join(part for part in producer if part),
            graph_name=top.name,
            nodes=self.nodes,
            operators={f"{domain or 'ai.onnx'}::{op}": n for (domain, op), n in operators.most_common()},
            depth=self.depth,
            initializers=tuple(self.initializers),
            inputs=tuple(spec for spec in top.inputs if spec.name not in given),
            optional_inputs=tuple(spec for spec in top.inputs if spec.name in may_feed),
            outputs=tuple(top.outputs),
            metadata=metadata,
            functions=len(self.calls) - 1,
            file_bytes=len(reader.data),
            locations=frozenset(self.locations),
            never_zero=never_zero,
        )

    def _graph(self, start: int, end: int, depth: int, owner: _Owner) -> _Graph:
        """Reads one graph, and puts those in its nodes on the list. Of subgraphs, inputs and outputs are of no interest."""
        if depth > self.limits.depth:
            raise self._beyond("depth", depth)
        self.depth = max(self.depth, depth)
        graph = _Graph()
        top = depth == 0 and owner is None
        for number, _, value, stop in self.reader.fields(start, end, _GRAPH):
            if number == 1:
                self._node(value, stop, depth, owner)
            elif number == 5:
                self._add_initializer(self._tensor(value, stop))
            elif number == 15:
                self._add_initializer(self._sparse(value, stop))
            elif number == 2:
                graph.name = self._text(value, stop)
            elif top:
                specs = graph.inputs if number == 11 else graph.outputs
                specs.append(read_value(self.reader, value, stop, self.limits.name_bytes))
                if len(specs) > self.limits.inputs:
                    raise self._beyond("inputs", len(specs))
        return graph

    def _node(self, start: int, end: int, depth: int, owner: _Owner) -> None:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            raise self._beyond("nodes", self.nodes)
        operator = domain = ""
        for number, _, value, stop in self.reader.fields(start, end, _NODE):
            if number == 4:
                operator = self._text(value, stop)
            elif number == 7:
                domain = self._domain(value, stop)
            else:
                self._attribute(value, stop, depth, owner)
        self.calls[owner][domain, operator] += 1
        if depth:
            self.call_nesting[owner, (domain, operator)] = max(depth, self.call_nesting.get((owner, (domain, operator)), 0))
            self.nesting[owner] = max(depth, self.nesting.get(owner, 0))

    def _attribute(self, start: int, end: int, depth: int, owner: _Owner) -> None:
        for number, _, value, stop in self.reader.fields(start, end, _ATTRIBUTE, LISTS):
            if number in (5, 10):
                self._tensor(value, stop)
            elif number in (6, 11):
                self.pending.append((value, stop, depth + 1, owner))
            else:
                self._sparse(value, stop)

    def _function(self, start: int, end: int) -> None:
        name = domain = ""
        nodes: list[tuple[int, int]] = []
        attributes: list[tuple[int, int]] = []
        for number, _, value, stop in self.reader.fields(start, end, _FUNCTION):
            if number == 1:
                name = self._text(value, stop)
            elif number == 10:
                domain = self._domain(value, stop)
            else:
                (nodes if number == 7 else attributes).append((value, stop))
        owner = (domain, name)
        self.functions[owner] = start, end
        self.calls.setdefault(owner, Counter())  # overloads of one name count as one function
        for value, stop in attributes:
            self._attribute(value, stop, 0, owner)
        for value, stop in nodes:
            self._node(value, stop, 0, owner)

    def _tensor(self, start: int, end: int) -> Initializer:
        return self._counted(read_tensor(self.reader, start, end, self.limits.name_bytes))

    def _sparse(self, start: int, end: int) -> Initializer:
        dense, *parts = read_sparse(self.reader, start, end, self.limits.name_bytes)
        for part in parts:
            self._counted(part)
        self.sparse_bytes += dense.nbytes
        if self.sparse_bytes > self.limits.sparse_bytes:
            raise self._beyond("sparse_bytes", self.sparse_bytes)
        return self._counted(dense)

    def _counted(self, header: TensorHeader) -> Initializer:
        self.tensor_bytes += header.nbytes
        if self.tensor_bytes > self.limits.tensor_bytes:
            raise self._beyond("tensor_bytes", self.tensor_bytes)
        location = None if header.external is None else self.external.check(header.name, header.external, header.nbytes)
        if location is not None:
            self.locations.add(location)
        return Initializer(header.name, header.element.numpy, header.shape, header.nbytes, location)

    def _add_initializer(self, initializer: Initializer) -> None:
        self.initializers.append(initializer)
        if len(self.initializers) > self.limits.initializers:
            raise self._beyond("initializers", len(self.initializers))

    def _opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, _, value, stop in self.reader.fields(start, end, _OPSET):
            if number == 1:
                domain = self._domain(value, stop)
            else:
                version = signed(value)
        return domain, version

    def _check_operators(self) -> None:
        """Every operator is one of ONNX's, one of an allowed domain, or a function in the file; and calls end."""
        functions = self.calls.keys()
        for owner in functions:
            if owner is not None and (owner[0] == "" or owner[0].startswith(OPERATOR_DOMAINS)):
                # ONNX Runtime calls its own operator of that name instead, which was not checked.
                brought = f"{owner[0] or 'ai.onnx'}::{owner[1]}"[:80]
                raise UntrustedModelError(
                    f"{self.name} is refused: it brings a function {brought!r}, in a domain of operators; "
                    "give its functions a domain of their own"
                )
        for called in self.calls.values():
            for domain, operator in called:
                name = f"{domain or 'ai.onnx'}::{operator}"
                if (domain, operator) in functions:
                    continue
                if domain not in self.limits.domains:
                    allowed = ", ".join(sorted(each or "ai.onnx" for each in self.limits.domains))
                    raise UntrustedModelError(
                        f"{self.name} is refused: it needs the custom operator {name[:80]!r}, and only operators of {allowed} are run; "
                        + _other_file(domain)
                    )
                if name in REFUSED_OPERATORS:
                    raise UntrustedModelError(f"{self.name} is refused: its operator {name!r} {REFUSED_OPERATORS[name]}")
        if len(self.calls) > 1:
            self._check_calls()

    def _check_calls(self) -> None:
        """Functions are inlined before a run: a few that call each other twice are millions of nodes, and a circle never ends."""
        callees = {owner: [each for each in called if each in self.calls] for owner, called in self.calls.items()}
        try:
            order = list(TopologicalSorter(callees).static_order())
        except CycleError as error:
            raise UntrustedModelError(f"{self.name} is refused: its functions call each other in a circle") from error
        size: dict[_Owner, int] = {}
        depth: dict[_Owner, int] = {}
        calls: dict[_Owner, int] = {}
        nesting: dict[_Owner, int] = {}
        for owner in order:
            size[owner] = sum(count * size.get(each, 1) for each, count in self.calls[owner].items())
            depth[owner] = 1 + max((depth[each] for each in callees[owner]), default=-1)
            if size[owner] > self.limits.nodes:
                raise self._beyond("nodes", size[owner])
            if depth[owner] > self.limits.call_depth:
                raise self._beyond("call_depth", depth[owner])
            calls[owner] = sum(self.calls[owner][each] * (1 + calls[each]) for each in callees[owner])
            if calls[owner] > self.limits.calls:
                raise self._beyond("calls", calls[owner])
            called = (self.call_nesting.get((owner, each), 0) + nesting[each] for each in callees[owner])
            nesting[owner] = max(self.nesting.get(owner, 0), *called, 0)
            if nesting[owner] > self.limits.depth:
                raise self._beyond("depth", nesting[owner])

    def _text(self, start: int, end: int) -> str:
        return self.reader.text(start, end, self.limits.name_bytes)

    def _domain(self, start: int, end: int) -> str:
        domain = self._text(start, end)
        return "" if domain == "ai.onnx" else domain

    def _beyond(self, limit: str, found: int) -> UntrustedModelError:
        return beyond(self.name, limit, found, self.limits)


def _other_file(domain: str) -> str:
    """What to do about a file with operators of this domain."""
    if domain == "com.microsoft.nchwc":
        return "ONNX Runtime saved it after optimizing it for one CPU (optimized_model_filepath, level all): use the original file"
    return "export it with standard operators"
