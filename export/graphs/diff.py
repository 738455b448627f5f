"""What is different between two .onnx files: the graph, the weights, the contract. Names of inner values do not count.

    difference = diff_files("a.onnx", "b.onnx")
    difference.same, difference.graph, difference.weights, difference.contract

Both files are looked at by the runtime's bounded reader before onnx opens them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxferry.export.graphs.nodes import subgraphs
from onnxferry.export.graphs.reading import load_onnx
from onnxferry.runtime.artifact.comparison import absolute_difference
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary

# Longer graphs are compared by their operators' counts and the first node that differs: aligning them costs the square.
MAX_ALIGNED_NODES = 4000


_CONSTANT = 8  # elements up to which a tensor's value is shown


_LONGEST = 200  # characters of a value that are shown


@dataclass(frozen=True)
class Change:
    """One thing that is not the same; None on a side that lacks it."""

    what: str  # "opset ai.onnx", "input 'x'", "node 7", "fc.weight", "metrics.accuracy"
    a: str | None
    b: str | None

    def words(self) -> str:
        if self.a is None:
            return f"{self.what}: only in the second: {self.b}"
        if self.b is None:
            return f"{self.what}: only in the first: {self.a}"
        return f"{self.what}: was {self.a}, is {self.b}"


@dataclass(frozen=True)
class WeightChange(Change):
    """A weight of the same name, dtype and shape with other values."""

    differing: int = 0  # elements
    elements: int = 0
    max_abs: float = 0.0  # nan where one side is not a number

    def words(self) -> str:
        return f"{self.what}: {self.differing} of {self.elements} values differ, by {self.max_abs:.3g} at most"


@dataclass(frozen=True)
class FileDifference:
    """All of it; an empty list where a part is the same."""

    graph: tuple[Change, ...]
    weights: tuple[Change, ...]
    contract: tuple[Change, ...]
    equal_weights: int  # weights that are the same in both, bit by bit
    renamed: tuple[tuple[str, str], ...]  # weights of equal content under another name

    @property
    def same(self) -> bool:
        """Whether both files compute the same and say the same of themselves. Names of weights do not count."""
        return not (self.graph or self.weights or self.contract)


def diff_files(a: str | os.PathLike[str], b: str | os.PathLike[str], limits: Limits | None = None) -> FileDifference:
    """Compare two files. Raises ArtifactError and UntrustedModelError as :func:`describe` does."""
    summaries = describe(a, limits).summary, describe(b, limits).summary
    models = load_onnx(Path(a)), load_onnx(Path(b))
    weights = [dict(_weights(model.graph)) for model in models]
    changed, equal, renamed = _compare_weights(*weights)
    return FileDifference(
        (*_interface(*summaries), *_nodes(*models, dict(renamed))),
        tuple(changed),
        tuple(_contract(*(summary.metadata for summary in summaries))),
        equal,
        tuple(renamed),
    )


def _interface(a: ModelSummary, b: ModelSummary) -> Iterator[Change]:
    yield from _changes("IR version", {"": str(a.ir_version)}, {"": str(b.ir_version)})
    yield from _changes("opset", _strings(a.opsets), _strings(b.opsets))
    for role in ("inputs", "optional_inputs", "outputs"):
        specs = [{spec.name: str(spec).removeprefix(f"{spec.name}: ") for spec in getattr(each, role)} for each in (a, b)]
        yield from _changes(role.replace("_", " ").removesuffix("s"), *specs)
        if list(specs[0]) != list(specs[1]) and set(specs[0]) == set(specs[1]):
            yield Change(f"order of {role}", ", ".join(specs[0]), ", ".join(specs[1]))
    yield from _changes("operator", *({name: f"{n} times" for name, n in each.operators.items()} for each in (a, b)))


def _nodes(a: onnx.ModelProto, b: onnx.ModelProto, renamed: Mapping[str, str]) -> Iterator[Change]:
    lists = [_described(model.graph, names) for model, names in ((a, renamed), (b, {}))]
    for function in {f"{f.domain}::{f.name}" for model in (a, b) for f in model.functions}:
        texts = [{f"{f.domain}::{f.name}": _digest(f.SerializeToString(deterministic=True)) for f in model.functions} for model in (a, b)]
        yield from _changes("function", *({k: v for k, v in text.items() if k == function} for text in texts))
    if lists[0] == lists[1]:
        return
    if max(map(len, lists)) > MAX_ALIGNED_NODES:
        first = next((i for i, (one, other) in enumerate(zip(*lists, strict=False)) if one != other), min(map(len, lists)))
        yield Change(f"node {first}, the first that differs", *(nodes[first] if first < len(nodes) else None for nodes in lists))
        return
    matcher = difflib.SequenceMatcher(None, lists[0], lists[1], autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        for i in range(max(a2 - a1, b2 - b1)):
            left = lists[0][a1 + i] if a1 + i < a2 else None
            right = lists[1][b1 + i] if b1 + i < b2 else None
            yield Change(f"node {a1 + i if left is not None else b1 + i}", left, right)


def _described(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> list[str]:
    """Every node in a line, with inner values by the distance to the node that makes them, so that one more node shifts no name."""
    names = {value.name: value.name for value in graph.input}
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        names[tensor.name] = _value(array) if _is_constant(array) else renamed.get(tensor.name, tensor.name)
    outputs = {value.name: f" → {value.name}" for value in graph.output}
    made_at: dict[str, tuple[int, int]] = {}
    lines = []
    for place, node in enumerate(graph.node):
        inputs = [names.get(name) or _distance(place, made_at.get(name), name) for name in node.input]
        attributes = [f"{a.name}={_attribute(a, renamed)}" for a in sorted(node.attribute, key=lambda a: a.name)]
        operator = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        ends = "".join(outputs.get(name, "") for name in node.output)
        lines.append(f"{operator}({', '.join([*inputs, *attributes])}){ends}")
        made_at |= {name: (place, i) for i, name in enumerate(node.output) if name}
    return lines


def _distance(place: int, made: tuple[int, int] | None, name: str) -> str:
    if not name:
        return "-"
    if made is None:  # a value of the graph around
        return "outer"
    return f"^{place - made[0]}" + (f".{made[1]}" if made[1] else "")


def _attribute(attribute: onnx.AttributeProto, renamed: Mapping[str, str]) -> str:
    inner = list(subgraphs(attribute))
    if inner:
        return "{" + "; ".join(line for graph in inner for line in _described(graph, renamed)) + "}"
    if attribute.HasField("t"):
        array = onnx.numpy_helper.to_array(attribute.t)
        return _value(array) if array.size <= _CONSTANT else f"{_kind(array)} {_content(array)[-12:]}"
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(list(value)) if isinstance(value, Sequence) else str(value)


def _weights(graph: onnx.GraphProto, inside: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Initializers by name; those of subgraphs under the name of the node that holds them."""
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if not _is_constant(array):
            yield inside + tensor.name, array
    for place, node in enumerate(graph.node):
        for attribute in node.attribute:
            for number, subgraph in enumerate(subgraphs(attribute)):
                yield from _weights(subgraph, f"{inside}node {place}.{attribute.name}{number or ''}.")


def _is_constant(array: np.ndarray) -> bool:
    """Shapes, axes and lone numbers are part of what a node does, and exporters number their names anew at every change."""
    return array.size <= _CONSTANT and (array.dtype.kind in "iub" or array.ndim == 0)


def _value(array: np.ndarray) -> str:
    return f"{array.dtype} {array.tolist()}"


def _compare_weights(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[list[Change], int, list[tuple[str, str]]]:
    changed: list[Change] = []
    equal = 0
    for name in [name for name in a if name in b]:
        change = _changed_weight(name, a[name], b[name])
        if change is None:
            equal += 1
        else:
            changed.append(change)
    by_content: dict[str, list[str]] = {}
    for name in [name for name in b if name not in a]:
        by_content.setdefault(_content(b[name]), []).append(name)
    renamed = []
    for name in [name for name in a if name not in b]:
        same = by_content.get(_content(a[name]))
        if same:
            renamed.append((name, same.pop(0)))
        else:
            changed.append(Change(name, _kind(a[name]), None))
    changed += [Change(name, None, _kind(b[name])) for names in by_content.values() for name in names]
    return changed, equal, renamed


def _changed_weight(name: str, a: np.ndarray, b: np.ndarray) -> Change | None:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Change(name, _kind(a), _kind(b))
    if _content(a) == _content(b):
        return None
    if a.dtype == object:  # strings
        return WeightChange(name, _kind(a), _kind(b), int(np.count_nonzero(a != b)), a.size, float("nan"))
    apart = absolute_difference(a, b) if a.dtype.kind != "c" else np.abs(a - b)
    differing = (a != b) & ~((a != a) & (b != b))  # NaN in both is no difference
    if not differing.any():
        return None  # zeros of another sign, NaN with other bits
    one_sided = ((a != a) != (b != b)).any()  # not a number in one of them only
    largest = float("nan") if one_sided else float(apart[differing].max())
    return WeightChange(name, _kind(a), _kind(b), int(np.count_nonzero(differing)), a.size, largest)


def _contract(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Change]:
    yield from _changes("", *(dict(pair for key, text in each.items() for pair in _flat(key, _parsed(key, text))) for each in (a, b)))


def _parsed(key: str, text: str) -> Any:
    """Our own keys hold JSON; read with a parser, as far as it is JSON."""
    if not key.startswith("onnxferry."):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    name = name.removeprefix("onnxferry.")
    if name.startswith("goldens"):  # arrays as base64: not readable
        yield name, f"{len(value) if isinstance(value, list) else '?'} samples, {_digest(json.dumps(value, sort_keys=True).encode())}"
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield name, text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text)} characters, {_digest(text.encode())})"


def _changes(what: str, a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Change]:
    for key in dict.fromkeys((*a, *b)):
        if a.get(key) != b.get(key):
            yield Change(f"{what} {key}".strip(), a.get(key), b.get(key))


def _strings(values: Mapping[str, int]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _content(array: np.ndarray) -> str:
    data = array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
    return f"{_kind(array)} {hashlib.sha256(data).hexdigest()}"


def _digest(data: bytes) -> str:
    return f"sha256 {hashlib.sha256(data).hexdigest()[:12]}"
