"""8-bit quantization: static for convolutions and dense layers, dynamic for recurrent layers; float16 for storage.

Every function takes a model and returns another one. It counts what it changed and raises ExportError if nothing was: ONNX Runtime's tools
silently skip what they do not support.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.cleanup import strip_leaks
from onnxferry.export.graphs.graph import Graph, drop_unused
from onnxferry.export.graphs.nodes import RUNTIME_DOMAIN, all_nodes
from onnxferry.export.optimize.rewrites.gptq import Rounded, compensate, layer_moments
from onnxferry.export.optimize.rewrites.ranges import seen_values, whole_ranges
from onnxferry.runtime.errors import ExportError, InputError, first_line

CARRIED = ("Add", "Relu", "Resize", "DepthToSpace", "Slice", "MaxPool", "Concat", "Reshape", "Transpose", "GlobalAveragePool")
"""Between the operators with weights, these stay in 8 bits too: numbers need not become float32 and back at every step."""


SIGMOID_RANGE = 6.5
"""Beyond it, a sigmoid is within half a level of 0 or 255: 255 / (1 + exp(6.5)) is 0.4."""


MIN_HALF_ELEMENTS = 256
"""Smaller tensors are left in float32: shapes, biases and scales weigh nothing."""


def convolutional_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that :func:`static_int8` can quantise, in order: from the first convolution with constant weights on."""
    graph = Graph(model)
    found = [n for n in model.graph.node if n.op_type == "Conv" and not n.domain and n.input[1] in graph.constants]
    if not found:
        return []
    first = next(index for index, node in enumerate(model.graph.node) if node.output[0] == found[0].output[0])
    # What comes before (framing of an image, embedding of a label) counts in places and exact numbers, not in brightness.
    reached = set(found[0].input[:1])
    names = []
    for node in list(model.graph.node)[first:]:
        if reached.intersection(node.input):
            reached.update(node.output)
            if node.op_type == "Conv" and not node.domain and node.input[1] in graph.constants:
                names.append(node.name)
    return names


def static_int8(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    *,
    skip: Collection[str] = (),
    carry: bool = True,
    gemm: bool = False,
    moments: Mapping[str, np.ndarray] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    rounded: Rounded | None = None,
) -> onnx.ModelProto:
    """Convolutions in 8 bits (QDQ: standard operators): weights a scale each output channel, inputs a range seen on ``feeds``.

    Weights use 7 of their 8 bits. On x86-64 without VNNI, ONNX Runtime adds two products of an unsigned and a signed byte in 16 bits
    (``vpmaddubsw``), which saturates at 32,767: 2 × 255 × 127 is beyond it, 2 × 255 × 64 is not. With 8 bits an answer, and with
    it the certificate, would hold on some machines only.

    ``feeds``: rows by input name, as many as are worth it (some hundreds). ``skip``: names of nodes to leave in float32.
    ``carry``: also what lies between them (:data:`CARRIED`). ``gemm``: dense layers too. ``moments``: :func:`gptq.layer_moments`
    of the model with :func:`with_names`, where they are known already. ``ranges``: of all :func:`inner_tensors`, by name; None for the
    smallest and the largest number that are seen on ``feeds``. ``rounded``: of another call with the same model and moments.
    Inputs are unsigned, weights signed: the pair that ONNX Runtime's kernels on x86-64 take without a detour; a rectifier's
    zero is then the range's lower end, so that it needs no step of its own.
    Raises ExportError where nothing was quantised, InputError for feeds that the model does not take.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    named = with_names(model)
    chosen = [name for name in convolutional_layers(named) if name not in skip]
    if not chosen:
        raise ExportError("the model has no convolution with constant weights, so there is nothing to quantise in it")
    weighted = chosen + (_dense(named, skip) if gemm else [])
    between = _between(named, set(weighted)) if carry else []
    nodes = weighted + [node.name for node in between]
    operators = ["Conv", *(["Gemm"] if gemm else []), *sorted({node.op_type for node in between})]
    ranges = whole_ranges(seen_values(named, inner_tensors(named), feeds)) if ranges is None else ranges
    overrides = {name: _range(*ends) for name, ends in ranges.items()} | _before_sigmoid(named, chosen)
    with tempfile.TemporaryDirectory(prefix="onnxferry-") as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(named, source)
        try:
            quantize_static(
                source,
                target,
                _one_row(feeds),  # the ranges are known, and it would hold many rows' inner values
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                nodes_to_quantize=nodes,
                op_types_to_quantize=operators,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "TensorQuantOverrides": overrides,
                },
            )
        except Exception as error:
            if "INVALID_ARGUMENT" in str(error) or "Invalid input name" in str(error) or "Required inputs" in str(error):
                raise InputError(f"the calibration data do not fit the model: {first_line(error)}") from error
            raise ExportError(f"ONNX Runtime cannot quantise this model: {first_line(error)}") from error
        quantised = onnx.load(target)
    compensate(quantised, named, layer_moments(named, feeds) if moments is None else moments, rounded)
    found = count_int8(quantised)
    if found < len(chosen):
        raise ExportError(f"only {found} of {len(chosen)} convolutions were quantised; ONNX Runtime left the others without a word")
    return finished(quantised, model)


def inner_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors of float32 that :func:`static_int8` may turn into 8 bits, of a model with :func:`with_names`."""
    weighted = set(convolutional_layers(model) + _dense(model, ()))
    nodes = [node for node in model.graph.node if node.name in weighted] + _between(model, weighted)
    constants = set(Graph(model).constants)
    return list(dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name and name not in constants))


def _dense(model: onnx.ModelProto, skip: Collection[str]) -> list[str]:
    """Names of the dense layers with constant weights."""
    constants = Graph(model).constants
    return [n.name for n in model.graph.node if n.op_type == "Gemm" and n.input[1] in constants and n.name not in skip]


def with_weights_of(model: onnx.ModelProto, quantised: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of what :func:`static_int8` made of ``model``, a model with :func:`with_names`, whose layers have its weights in float32."""
    made = onnx.ModelProto()
    made.CopyFrom(quantised)
    constants = Graph(model).constants
    weights = {n.name: n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm") and n.input[1] in constants}
    there = {tensor.name for tensor in made.graph.initializer} | {name for node in made.graph.node for name in node.output}
    for node in made.graph.node:
        if node.name in weights:
            node.input[1] = weights[node.name]
            if node.input[1] not in there:
                there.add(node.input[1])
                made.graph.initializer.append(numpy_helper.from_array(constants[node.input[1]], node.input[1]))
    drop_unused(made)
    return made


def count_int8(model: onnx.ModelProto) -> int:
    """Convolutions whose input and weights both come from 8-bit numbers."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def eight(name: str) -> bool:
        return name in producers and producers[name].op_type == "DequantizeLinear"

    return sum(node.op_type == "Conv" and eight(node.input[0]) and eight(node.input[1]) for node in model.graph.node)


def dynamic_lstm(model: onnx.ModelProto) -> onnx.ModelProto:
    """LSTM operators of the outer graph as ONNX Runtime's DynamicQuantizeLSTM: weights a scale each, inputs quantised at every run.

    Rows of a batch share the inputs' scale, so that an answer depends on its neighbours: run rows alone (``rows_alone`` in the
    certificate). Weights use 7 of their 8 bits, as in :func:`static_int8`. Raises ExportError where there is no LSTM, or one that
    was left as it is.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    there = sum(node.op_type == "LSTM" for node in model.graph.node)
    if not there:
        raise ExportError("the model has no LSTM in its outer graph, so there is nothing to quantise in it")
    with tempfile.TemporaryDirectory(prefix="onnxferry-") as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_dynamic(source, target, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8, reduce_range=True, per_channel=True)
        quantised = onnx.load(target)
    made = sum(node.op_type == "DynamicQuantizeLSTM" for node in quantised.graph.node)
    if made < there:
        raise ExportError(f"only {made} of {there} LSTM layers were quantised: their weights must be initialisers of the file")
    return finished(quantised, model)


def float16_storage(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in float16, cast to float32 when the file is opened: about half its size, the same speed.

    Raises ExportError where no weight is large enough to be worth it, or one is beyond float16's range (65,504).
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    fed = {value.name for value in halved.graph.input}
    casts, changed = [], 0
    for tensor in halved.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in fed:
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < MIN_HALF_ELEMENTS:
            continue
        name = f"{tensor.name}_half"
        casts.append(helper.make_node("Cast", [name], [tensor.name], name=f"{name}_cast", to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(float16_precision(array, tensor.name), name))
        changed += 1
    if not changed:
        raise ExportError("no float32 weight of the model is large enough to be worth storing in float16")
    nodes = list(halved.graph.node)
    del halved.graph.node[:]
    halved.graph.node.extend([*casts, *nodes])
    return halved


def float16_precision(array: np.ndarray, name: str) -> np.ndarray:
    """float32 as float16. Raises ExportError, which names it, where a number is beyond float16's range (65,504)."""
    if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise ExportError(f"the weight {name!r} holds numbers beyond float16's range, {np.finfo(np.float16).max:.0f}")
    return array.astype(np.float16)


def _between(model: onnx.ModelProto, chosen: set[str]) -> list[onnx.NodeProto]:
    """Nodes of :data:`CARRIED` that read nothing but constants and what a chosen node, or another of these, gives.

    A norm by label is none: QLinearMul and QLinearAdd take longer than float32 and the conversions, and cost 2 dB.
    """
    constants = set(Graph(model).constants)
    inside: set[str] = set()
    found = []
    for node in model.graph.node:
        if node.name in chosen:
            inside.update(node.output)
        elif node.op_type in CARRIED and not node.domain:
            moving = [name for name in node.input if name and name not in constants]
            if moving and all(name in inside for name in moving):
                inside.update(node.output)
                found.append(node)
    return found


def _before_sigmoid(model: onnx.ModelProto, chosen: Collection[str]) -> dict[str, list[dict[str, object]]]:
    """The range of what a sigmoid reads from a quantised convolution: what lies beyond is white or black, and needs no steps."""
    graph = Graph(model)
    found: dict[str, list[dict[str, object]]] = {}
    for node in model.graph.node:
        if node.op_type == "Sigmoid" and not node.domain:
            producer = graph.producers.get(node.input[0])
            if producer is not None and producer.name in chosen:
                found[node.input[0]] = _range(-SIGMOID_RANGE, SIGMOID_RANGE)
    return found


def _range(low: float, high: float) -> list[dict[str, object]]:
    return [{"rmin": np.float32(low), "rmax": np.float32(high)}]


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name, by which ONNX Runtime's tools choose."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type.lower()}_node_{index}"
        taken.add(node.name)
    return named


def finished(quantised: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the tools' traces, and with the versions that were there: newer ones only keep old runtimes out."""
    strip_leaks(quantised)
    quantised.ir_version = max(model.ir_version, 8)
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    used = {node.domain for node in all_nodes(quantised)}
    versions = {opset.domain: opset.version for opset in quantised.opset_import if opset.domain in used or opset.domain == ""}
    del quantised.opset_import[:]
    quantised.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    if RUNTIME_DOMAIN in used and RUNTIME_DOMAIN not in versions:
        quantised.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    drop_unused(quantised)
    return quantised


def _one_row(feeds: Mapping[str, np.ndarray]) -> object:
    """The first row, as ONNX Runtime's CalibrationDataReader. Raises InputError where there is none."""
    from onnxruntime.quantization import CalibrationDataReader

    if not min((len(array) for array in feeds.values() if array.ndim), default=0):
        raise InputError("the calibration data hold no samples")
    left = [{name: array[:1] if array.ndim else array for name, array in feeds.items()}]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return left.pop() if left else None

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tools print advice and warn on the root logger; a library is silent."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
