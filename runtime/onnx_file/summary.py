"""What a file says it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from onnxferry.runtime.errors import InputError, UntrustedModelError
from onnxferry.runtime.onnx_file.sizes import Dimension
from onnxferry.runtime.onnx_file.values import TensorSpec as TensorSpec


@dataclass(frozen=True)
class Limits:
    """How much a file may hold before it is refused. Raise what a model you trust needs."""

    file_bytes: int = 2 * 2**30  # of the .onnx itself; protobuf holds no more, larger models keep their weights outside
    nodes: int = 200_000  # operators, subgraphs included, and functions counted as often as they are called
    depth: int = 16  # subgraphs (If, Loop, Scan) within subgraphs, those of called functions included
    call_depth: int = 64  # functions that call functions
    initializers: int = 200_000
    inputs: int = 1000  # of the graph, and as many outputs
    calls: int = 10_000  # of functions, counted as often as they are inlined
    tensor_bytes: int = 64 * 2**30  # that all tensors together declare, external ones included
    sparse_bytes: int = 2**29  # that all sparse tensors take together once they are dense, as ONNX Runtime makes them
    name_bytes: int = 16 * 2**10  # of one name
    metadata_bytes: int = 64 * 2**20  # of all metadata together
    made_elements: int = 2**28  # of a tensor whose size the file's own constants decide, and of all that are made of constants alone
    constant_products: int = 2**38  # multiplications of constants with constants, which are done as the file is opened
    samples: int = 2**24  # that one Multinomial draws, as the file says
    tree_depth: int = 10_000  # of a tree ensemble
    fields: int = 2**23  # of the wire format that are looked at: bounds the time, some fifteen seconds at the most
    domains: frozenset[str] = frozenset({"", "ai.onnx.ml", "com.microsoft"})  # where operators may come from; "" is ai.onnx

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "domains": sorted(self.domains)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Limits:
        return Limits(**{**values, "domains": frozenset(values["domains"])})


def beyond(name: str, limit: str, found: int, limits: Limits) -> UntrustedModelError:
    """The error for a file that holds more than one of its limits allows."""
    what = "elements made in memory" if limit == "made_elements" else limit.replace("_", " ")
    return UntrustedModelError(
        f"{name} holds more than is read of an untrusted file: {what} {found}, allowed {getattr(limits, limit)}; "
        f"if you trust it, raise Limits({limit}=...), on the command line --limit {limit}={found}"
    )


def raised_limits(texts: Iterable[str]) -> Limits:
    """The defaults, changed by texts such as ``depth=40``. Raises InputError for what is no limit of a file."""
    names = [each.name for each in fields(Limits) if each.name != "domains"]
    changes: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names:
            raise InputError(f"a limit is NAME=NUMBER with one of {', '.join(names)}, got {text!r}")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise InputError(f"the limit {name} is a whole number, as {name}={getattr(Limits(), name)}, got {text!r}")
        changes[name] = int(number)
    return Limits(**changes)


REFUSED_OPERATORS: Mapping[str, str] = {
    "com.microsoft::PythonOp": "runs Python",
    "com.microsoft::PythonOpGrad": "runs Python",
    "com.microsoft::ATen": "runs a PyTorch operator chosen by the file",
    "com.microsoft::TritonOp": "runs a Triton kernel from outside",
    "com.microsoft::EPContext": "loads a compiled engine, from any path",
}
"""Operators of an allowed domain that load or run what is not in the graph."""


OPERATOR_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.")
"""How the domains begin in which ONNX Runtime has operators of its own (its core/graph/constants.h); beside ai.onnx itself."""


@dataclass(frozen=True)
class Initializer:
    """One of the graph's constant tensors: weights, mostly."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int  # that its shape and dtype take, wherever they lie; of strings, 0
    location: str | None = None  # the external data file, relative to the model's folder; None: within the .onnx


@dataclass(frozen=True)
class NeverZero:
    """A size inside the graph that a run's inputs decide. Where it is 0, the operator that gets it ends the process."""

    operator: str
    size: Dimension


@dataclass(frozen=True)
class ModelSummary:
    """What :func:`read_model` found. Counts include subgraphs and function bodies."""

    ir_version: int
    opsets: Mapping[str, int]  # domain → version; ONNX's own domain is "ai.onnx"
    producer: str  # name and version, or ""
    graph_name: str
    nodes: int
    operators: Mapping[str, int]  # "domain::operator" → how many, most frequent first
    depth: int  # of nesting; 0 without subgraphs
    initializers: tuple[Initializer, ...]  # of the graph and its subgraphs, sparse ones included
    inputs: tuple[TensorSpec, ...]  # that must be fed
    optional_inputs: tuple[TensorSpec, ...]  # that have a default and may be left out
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    functions: int
    file_bytes: int
    locations: frozenset[str] = frozenset()  # files beside the model that any of its tensors lies in, those in attributes included
    never_zero: tuple[NeverZero, ...] = ()  # looked at before each run

    @property
    def weight_bytes(self) -> int:
        """Of all initializers, those in other files included."""
        return sum(tensor.nbytes for tensor in self.initializers)

    def weight_files(self, path: Path) -> list[Path]:
        """The files that hold weights beside the model at ``path``, each once."""
        return sorted({path.parent / location for location in self.locations})
