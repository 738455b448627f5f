"""The ways to turn a PyTorch model into a graph, and their errors in a person's words.

The exporter built on ``torch.export`` comes first. Where its graph does not do what the model does (it freezes some
hand-made recurrent loops), the same capture without the optimiser is tried, then the older exporter, which traces.
The older one silently keeps one side of a Python ``if`` on a tensor's value, so it is not tried where that is the
trouble, and what it made is thrown away where it warned of it.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch.jit._trace import TracerWarning

from onnxferry.export.sources import Candidate, Feeds, FinalExportError, Strategy
from onnxferry.export.sources.torch import FlatModule, TorchSource, evaluation_mode
from onnxferry.runtime.errors import ExportError

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

# onnxscript folds only what is smaller than 8,192 elements: recurrent weights are re-ordered by nodes at every call then.
FOLD_LIMIT = 1 << 24

INNER = "inner."


def strategies(source: TorchSource, opset: int) -> Sequence[Strategy]:
    flat = FlatModule(source.module, source.call)
    return (
        Strategy("torch.export", lambda: _by_torch_export(source, flat, opset, optimize=True)),
        Strategy("torch.export without the optimiser", lambda: _by_torch_export(source, flat, opset, optimize=False)),
        Strategy("the older, tracing exporter", lambda: _by_tracing(source, flat, opset)),
    )


def _by_torch_export(source: TorchSource, flat: FlatModule, opset: int, *, optimize: bool) -> Candidate:
    shapes = (tuple(dict(axes) for axes in source.axes),) if any(source.axes) else None
    with evaluation_mode(source.module), quiet(), torch.no_grad():
        flat.training = False
        try:
            program = torch.onnx.export(
                flat,
                source.call.tensors,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=list(source.call.names),
                output_names=list(source.output_names),
                optimize=optimize,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise explained(error, source) from error
    if program is None:
        raise ExportError("torch.onnx.export gave no program: this torch version is not supported; pip install -U torch")
    mends: list[str] = []
    if optimize:
        mends += _fold_weights(program)
    else:
        mends.append("left the exporter's optimiser out")
    model = program.model_proto
    _strip_prefix(model)
    return Candidate(model, tuple(mends), _ranges(source, program), _intermediates(program))


def _by_tracing(source: TorchSource, flat: FlatModule, opset: int) -> Candidate:
    buffer = io.BytesIO()
    with evaluation_mode(source.module), quiet() as caught, torch.no_grad():
        flat.training = False
        try:
            torch.onnx.export(
                flat,
                source.call.tensors,
                buffer,  # type: ignore[arg-type]  # the annotation forgets file objects, which this exporter takes
                dynamo=False,
                opset_version=opset,
                dynamic_axes={name: axes for name, axes in zip(source.call.names, source.axes, strict=True) if axes},
                input_names=list(source.call.names),
                output_names=list(source.output_names),
                do_constant_folding=True,
            )
        except Exception as error:
            raise explained(error, source) from error
    frozen = _frozen_by_tracing(caught)
    if frozen is not None:
        raise ExportError(f"tracing would freeze what the model computes in Python at {frozen}")
    model = onnx.load_from_string(buffer.getvalue())
    _strip_prefix(model)
    return Candidate(model, ("used the older, tracing exporter",))


def _frozen_by_tracing(caught: Sequence[warnings.WarningMessage]) -> str | None:
    """Where the tracer turned a tensor into a Python value in the user's code. torch's own modules do it for checks only."""
    torch_home = Path(torch.__file__).parent
    for message in caught:
        if issubclass(message.category, TracerWarning) and torch_home not in Path(message.filename).parents:
            return f"{Path(message.filename).name}, line {message.lineno}"
    return None


def _fold_weights(program: ONNXProgram) -> list[str]:
    """Fold also large constants, unless the file grows by it."""
    import onnxscript.optimizer

    before = onnx.ModelProto()
    before.CopyFrom(program.model_proto)
    nodes = len(before.graph.node)
    onnxscript.optimizer.optimize(program.model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    after = program.model_proto
    if after.ByteSize() > 1.05 * before.ByteSize() + 2**16:
        import onnx_ir

        program.model = onnx_ir.serde.deserialize_model(before)
        return []
    folded = nodes - len(after.graph.node)
    return [f"folded {folded} nodes that re-arranged weights at every call"] if folded > 0 else []


def _strip_prefix(model: onnx.ModelProto) -> None:
    """Give weights the names of the user's model: without the wrapper's."""

    def short(name: str) -> str:
        return name.removeprefix(INNER)

    taken = {tensor.name for tensor in model.graph.initializer if not tensor.name.startswith(INNER)}
    names = {t.name: short(t.name) for t in model.graph.initializer if t.name.startswith(INNER) and short(t.name) not in taken}
    # A weight must not take the name of an input, an output or a node's value.
    used = {v.name for v in (*model.graph.input, *model.graph.output)} | {name for node in model.graph.node for name in node.output}
    names = {old: new for old, new in names.items() if new not in used}

    def rename(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for value in (*graph.value_info, *graph.output):
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = names.get(name, name)
            for attribute in node.attribute:
                for subgraph in (attribute.g, *attribute.graphs):
                    rename(subgraph)

    rename(model.graph)


def _ranges(source: TorchSource, program: ONNXProgram) -> Mapping[str, tuple[int, int | None]]:
    """The sizes for which the capture holds: a Python ``if`` on a size leaves its side as a bound here."""
    exported = program.exported_program
    if exported is None:
        return {}
    found: dict[str, tuple[int, int | None]] = {}
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for name, axes in zip(exported.graph_signature.user_inputs, source.axes, strict=False):
        value = placeholders[name].meta.get("val") if isinstance(name, str) and name in placeholders else None
        if not isinstance(value, torch.Tensor):
            continue
        for axis, label in axes.items():
            size = value.shape[axis]
            bounds = exported.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
            if bounds is None:
                continue
            # Unbounded sides are sympy infinities, which are no integers.
            low = int(bounds.lower) if getattr(bounds.lower, "is_Integer", False) else 0
            high = int(bounds.upper) if getattr(bounds.upper, "is_Integer", False) and int(bounds.upper) < 2**31 else None
            known = found.get(label, (0, None))
            found[label] = (max(low, known[0]), high if known[1] is None else known[1] if high is None else min(high, known[1]))
    return found


def _intermediates(program: ONNXProgram) -> Any:
    exported = program.exported_program
    if exported is None:
        return None

    def run(feeds: Feeds) -> Mapping[str, np.ndarray]:
        recorder = _Recorder(exported.graph_module)
        flat = [torch.from_numpy(np.array(feed, copy=True)) for feed in feeds.values()]
        signature = exported.graph_signature
        user = iter(flat)
        arguments: list[Any] = []
        for spec in signature.input_specs:
            kind = spec.kind.name
            if kind == "USER_INPUT":
                arguments.append(next(user))
            elif kind == "CONSTANT_TENSOR" or (kind == "BUFFER" and spec.persistent is False):
                arguments.append(exported.constants[str(spec.target)])
            else:
                arguments.append(exported.state_dict[str(spec.target)])
        with torch.no_grad():
            recorder.run(*arguments, enable_io_processing=False)
        return recorder.values

    return run


class _Recorder(torch.fx.Interpreter):
    """Runs a captured graph and keeps every tensor under its node's name, which is also the ONNX value's."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor) and not result.is_complex():
            self.values[n.name] = result.detach().cpu().numpy()
        return result


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """The exporters' warnings and log lines, kept from the screen: the judge says what matters. Gives the warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def explained(error: BaseException, source: TorchSource) -> ExportError:
    """The exporter's error in a person's words: what was wrong, where in their code, and what to do."""
    chain = list(_causes(error))
    text = "\n".join(f"{type(e).__name__}: {e}" for e in chain)
    where = _users_line(text)
    at = f" at {where}" if where else ""
    if re.search(
        r"data-dependent|Dynamic control flow|GuardOnDataDependent|DYNAMIC_CONTROL_FLOW|Unsupported: generic_jump", text, re.IGNORECASE
    ):
        return FinalExportError(
            f"the model branches on a tensor's value in Python{at}, and a graph cannot follow that: "
            "use torch.where, or torch.cond with both sides"
        )
    if re.search(r"Constraints violated|specialized|marked .* as dynamic but", text):
        axis = next((a for axes in source.axes for a in axes.values() if re.search(rf"\b{re.escape(a)}\b", text)), None)
        named = f"the axis {axis!r}" if axis else "an axis that was named dynamic"
        fixed = re.search(r"specialized (?:it )?to (?:be )?a? ?constant \(?(\d+)", text) or re.search(r"to be a constant \((\d+)\)", text)
        at_size = f" at {fixed.group(1)}" if fixed else ""
        return ExportError(
            f"{named} cannot vary: the model's code fixes it{at_size}{at}; "
            "leave it out of dynamic_shapes, or take sizes from x.shape instead of numbers"
        )
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text) or re.search(
        r"aten::([\w.]+)' to ONNX .* is not supported", text
    )
    if missing:
        return ExportError(f"the operator {missing.group(1)} has no translation to ONNX{at}: rewrite that line with other operators")
    if re.search(r"proj_size", text):
        return ExportError("an LSTM with proj_size has no ONNX form: use an LSTM followed by a Linear layer")
    if isinstance(chain[-1], RecursionError):
        return ExportError("the model is nested too deeply for the exporter")
    root = _innermost(chain)
    line = (str(root).strip() or type(root).__name__).splitlines()[0]
    return ExportError(f"torch cannot export the model{at} ({type(root).__name__}: {line[:300]})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _innermost(chain: Sequence[BaseException]) -> BaseException:
    """The first cause that is not one of the exporter's own wrappers around another."""
    for error in chain:
        if type(error).__name__ not in ("TorchExportError", "ConversionError", "OnnxExporterError", "GraphConstructionError"):
            return error
    return chain[-1]


def _users_line(text: str) -> str | None:
    """``model.py, line 12`` of the last frame in the user's own code that the message shows, without its folder."""
    home = str(Path(torch.__file__).parent)
    frames = re.findall(r'File "([^"]+)", line (\d+), in forward', text)
    own = [(Path(name).name, line) for name, line in frames if not name.startswith(home) and not name.endswith("sources/torch.py")]
    return f"{own[-1][0]}, line {own[-1][1]}" if own else None
