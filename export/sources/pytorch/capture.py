"""The ways to turn a PyTorch model into a graph.

The exporter built on ``torch.export`` comes first; then the same capture without the optimiser; then, for a module, the
older exporter, which traces. The older one silently keeps one side of a Python ``if`` on a tensor's value, so it is not
tried where that is the trouble, and what it made is thrown away where it warned of it.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import onnx
import torch
from torch.export import _trace as export_trace
from torch.export.graph_signature import TensorArgument
from torch.jit._trace import TracerWarning
from torch.utils import _pytree as pytree

from onnxferry.export.graphs.int64_kernels import divides_whole_numbers
from onnxferry.export.graphs.nodes import EXTERNAL_DATA_BYTES, weight_bytes
from onnxferry.export.source import Candidate, Feeds, Strategy, Trace
from onnxferry.export.sources.pytorch import decompositions
from onnxferry.export.sources.pytorch.call import NUMPY_DTYPES, FlatModule
from onnxferry.export.sources.pytorch.errors import check_layers, explained, users_line
from onnxferry.export.sources.pytorch.lowerings import TRANSLATIONS as LOWERINGS
from onnxferry.export.sources.pytorch.lowerings import decompositions_in_use
from onnxferry.export.sources.pytorch.lowerings.pooling import open_pooling
from onnxferry.export.sources.pytorch.lowerings.statistics import UncheckedStatistics
from onnxferry.export.sources.pytorch.modes import evaluation_mode
from onnxferry.export.sources.pytorch.recurrent import TRANSLATIONS, recurrent_layers_kept
from onnxferry.runtime.errors import ExportError, first_line

if TYPE_CHECKING:
    from onnxferry.export.sources.pytorch.module import TorchSource
if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


# onnxscript folds only what is smaller than 8,192 elements: recurrent weights are re-ordered by nodes at every call then.
FOLD_LIMIT = 1 << 24


INNER = "inner."


def module_strategies(source: TorchSource, opset: int) -> Sequence[Strategy]:
    """For an ``nn.Module``."""
    check_layers(source.module)
    flat = FlatModule(source.module, source.call)
    captured: list[torch.export.ExportedProgram | ExportError] = []

    def program() -> torch.export.ExportedProgram:
        # Captured once for both strategies that begin with it.
        if not captured:
            try:
                captured.append(_captured(source, flat))
            except ExportError as error:
                captured.append(error)
        if isinstance(captured[0], ExportError):
            raise captured[0]
        return captured[0]

    if any(isinstance(part, torch.jit.ScriptModule) for part in source.module.modules()):
        # A scripted part has code of its own, which only the older exporter reads, and only where the whole is scripted.
        return (Strategy("scripted, by the older exporter", lambda: _traced(source, _scripted(source.module), opset)),)
    return (
        Strategy("torch.export", lambda: graph_of_program(source, program(), opset, optimize=True)),
        Strategy("torch.export without the optimiser", lambda: graph_of_program(source, program(), opset, optimize=False)),
        Strategy("the older, tracing exporter", lambda: _traced(source, flat, opset)),
    )


def _scripted(module: torch.nn.Module) -> torch.nn.Module:
    try:
        made: torch.nn.Module = torch.jit.script(module)
        return made
    except Exception as error:
        raise ExportError(
            "a part of the model is scripted (torch.jit), and the whole cannot be: put the nn.Module that it was made from in its place "
            f"({type(error).__name__}: {first_line(error, 'no message')[:160]})"
        ) from error


def script_strategies(source: TorchSource, opset: int) -> Sequence[Strategy]:
    """For a scripted or traced module (``torch.jit``), whose branches and loops only the older exporter reads."""
    return (Strategy("the older exporter", lambda: _traced(source, source.module, opset)),)


def program_strategies(source: TorchSource, program: torch.export.ExportedProgram, opset: int) -> Sequence[Strategy]:
    """For what ``torch.export`` has captured already: there is no module to trace."""
    return (
        Strategy("the given program", lambda: graph_of_program(source, program, opset, optimize=True)),
        Strategy("the given program without the optimiser", lambda: graph_of_program(source, program, opset, optimize=False)),
    )


def _captured(source: TorchSource, flat: FlatModule) -> torch.export.ExportedProgram:
    """The module as a program: first without dynamo, which has limits of its own, then with it."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = (tuple(dict.fromkeys(axes, dynamic) for axes in source.axes),) if any(source.axes) else None
    first: Exception | None = None
    tensors = source.capture_tensors()
    with (
        evaluation_mode(source.module),
        source.capturing(),
        quiet(),
        torch.no_grad(),
        recurrent_layers_kept(),
        open_pooling(),
        # Else a traced size of 0 or 1 is taken for a constant.
        torch.fx.experimental._config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
    ):
        flat.training = False
        for strict in (False, True):
            try:
                return torch.export.export(flat, tensors, dynamic_shapes=shapes, strict=strict)
            except Exception as error:  # noqa: BLE001 - reported below; dynamo may manage what the first way did not
                first = first or error
        if "aten.equal" in str(first):
            try:
                with UncheckedStatistics():
                    return torch.export.export(flat, tensors, dynamic_shapes=shapes, strict=False)
            except Exception:  # noqa: BLE001 - it was not that
                pass
    assert first is not None  # noqa: S101 - for the type checker: the loop ran
    raise explained(first, source.axes, source.call.names) from first


def graph_of_program(source: TorchSource, program: torch.export.ExportedProgram, opset: int, *, optimize: bool) -> Candidate:
    with quiet(), torch.no_grad(), recurrent_layers_kept(), decompositions_in_use():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                custom_translation_table={**TRANSLATIONS, **LOWERINGS},
                input_names=list(source.call.names),
                output_names=list(source.output_names),
                optimize=optimize,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise explained(error, source.axes, source.call.names, program) from error
    if made is None:
        raise ExportError("torch.onnx.export gave no program: this torch version is not supported; pip install -U torch")
    with quiet():
        fixes = _fold_weights(made) if optimize else ["left the exporter's optimiser out"]
        model = made.model_proto
    fixes += decompositions.fix(model, _numbers_of(program) | _numbers_of(made.exported_program))
    _strip_prefix(model)
    source.mark_begins(_begins(source, program))
    axes, ranges = _axes_of_program(source, program)
    _rename_axes(model, axes)
    return Candidate(model, fixes=tuple(fixes), ranges=ranges, trace=_trace(source, made))


def _begins(source: TorchSource, program: torch.export.ExportedProgram) -> list[str]:
    """The inputs that tell an embedding bag where its bags begin."""
    named = dict(zip((str(name) for name in program.graph_signature.user_inputs), source.call.names, strict=False))
    found = []
    for node in program.graph.nodes:
        if "embedding_bag" in str(node.target) and len(node.args) > 2:
            begin = node.args[2]
            while isinstance(begin, torch.fx.Node) and begin.op == "call_function" and begin.args:
                begin = begin.args[0]
            if isinstance(begin, torch.fx.Node) and begin.name in named:
                found.append(named[begin.name])
    return found


def _numbers_of(program: torch.export.ExportedProgram | None) -> set[float]:
    """Python's floats among the arguments of a captured program."""
    nodes = [] if program is None else program.graph.nodes
    return {leaf for node in nodes for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, float)}


def _traced(source: TorchSource, module: torch.nn.Module, opset: int) -> Candidate:
    if any(tensor.numel() == 0 for tensor in source.call.tensors):
        raise ExportError("the older exporter can end the process on an empty example")  # a division by zero in its shape inference
    buffer = io.BytesIO()
    tensors = source.capture_tensors()
    with evaluation_mode(source.module), quiet() as caught, _quiet_core(), torch.no_grad():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if not scripted:
            module.training = False
        # A script is not traced, and stays as it is; what is traced is wrapped to take tensors one by one.
        args, kwargs = source.call.arguments(tensors) if scripted else (tensors, {})
        try:
            torch.onnx.export(
                module,
                args,
                buffer,  # type: ignore[arg-type]  # the annotation forgets file objects, which this exporter takes
                kwargs=kwargs or None,
                dynamo=False,
                opset_version=opset,
                dynamic_axes={name: axes for name, axes in zip(source.call.names, source.axes, strict=True) if axes},
                input_names=list(source.call.names),
                output_names=list(source.output_names),
                do_constant_folding=True,
            )
        except Exception as error:
            raise explained(error, source.axes, source.call.names) from error
    frozen = _frozen_by_tracing(caught)
    if frozen is not None:
        raise ExportError(f"tracing would freeze what the model computes in Python at {frozen}")
    model = onnx.load_from_string(buffer.getvalue())
    if divides_whole_numbers(model):
        raise ExportError("the older exporter divides whole numbers toward zero, also where the model rounds down")
    _strip_prefix(model)
    return Candidate(model, fixes=("used the older, tracing exporter",))


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
    if weight_bytes(before) > EXTERNAL_DATA_BYTES:
        return []  # every copy costs gigabytes, and what is so large is no small recurrent model
    nodes = len(before.graph.node)
    onnxscript.optimizer.optimize(program.model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    after = program.model_proto
    if weight_bytes(after) > 1.05 * weight_bytes(before) + 2**16:
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


def _axes_of_program(
    source: TorchSource, program: torch.export.ExportedProgram
) -> tuple[Mapping[str, str], Mapping[str, tuple[int, int | None]]]:
    """torch's symbols by the user's axis names, and the sizes for which the capture holds.

    A Python ``if`` on a size leaves its side as a bound of that size.
    """
    symbols: dict[str, str] = {}
    ranges: dict[str, tuple[int, int | None]] = {}
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    user = [placeholders[str(name)] for name in program.graph_signature.user_inputs if str(name) in placeholders]
    tensors = [node for node in user if isinstance(node.meta.get("val"), torch.Tensor)]
    for node, axes in zip(tensors, source.axes, strict=False):
        for axis, label in axes.items():
            size = node.meta["val"].shape[axis]
            if not isinstance(size, torch.SymInt):
                continue
            symbols.setdefault(str(size.node.expr), label)
            bounds = program.range_constraints.get(size.node.expr)
            if bounds is not None:
                # Unbounded sides are sympy infinities, which are no integers.
                low = int(bounds.lower) if getattr(bounds.lower, "is_Integer", False) else 0
                high = int(bounds.upper) if getattr(bounds.upper, "is_Integer", False) and int(bounds.upper) < 2**31 else None
                known = ranges.get(label, (0, None))
                limits = [limit for limit in (high, known[1]) if limit is not None]
                ranges[label] = (max(low, known[0]), min(limits, default=None))
    return symbols, ranges


def _rename_axes(model: onnx.ModelProto, symbols: Mapping[str, str]) -> None:
    """Outputs' axes in the user's names, also in expressions: ``2*s77`` -> ``2*height``."""
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = re.sub(r"\b\w+\b", lambda word: symbols.get(word.group(), word.group()), dim.dim_param)


def _trace(source: TorchSource, made: ONNXProgram) -> Callable[[Feeds], Trace] | None:
    exported = made.exported_program
    if exported is None:
        return None

    def run(feeds: Feeds) -> Trace:
        recorder = _Recorder(exported.graph_module)
        tensors = iter([torch.from_numpy(np.array(feeds[name], copy=True)) for name in source.call.names])
        arguments: list[Any] = []
        for spec in exported.graph_signature.input_specs:
            if spec.kind.name == "USER_INPUT":
                arguments.append(next(tensors) if isinstance(spec.arg, TensorArgument) else getattr(spec.arg, "value", None))
            elif spec.kind.name == "CONSTANT_TENSOR" or (spec.kind.name == "BUFFER" and spec.persistent is False):
                arguments.append(exported.constants[str(spec.target)])
            else:
                arguments.append(exported.state_dict[str(spec.target)])
        with torch.no_grad(), quiet():
            answer = recorder.run(*arguments, enable_io_processing=False)
        # Buffers that the model writes to come before its own outputs.
        outputs = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)][-len(source.output_names) :]
        named = {name: tensor.detach().cpu().numpy() for name, tensor in zip(source.output_names, outputs, strict=True)}
        return Trace(recorder.values, named, recorder.lines)

    return run


class _Recorder(torch.fx.Interpreter):
    """Runs a captured graph and keeps every tensor under its node's name, which is also the ONNX value's."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, np.ndarray] = {}
        self.lines: dict[str, str] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor) and result.dtype in NUMPY_DTYPES:
            self.values[n.name] = result.detach().cpu().numpy()
            line = users_line(str(n.meta.get("stack_trace") or ""))
            if line is not None:
                self.lines[n.name] = line
        return result


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """The exporters' warnings and log lines, kept from the screen: the comparison reports what matters. Gives the warnings."""
    # torch._guards logs a whole stack trace where an axis cannot vary, which is reported in one line.
    names = ("torch.onnx", "torch.export", "torch._dynamo", "torch._guards", "torch.fx", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(record=True) as caught,
            # A capture that fails prints the graph up to there. What the model itself prints is its user's, and stays.
            mock.patch.object(export_trace, "print", create=True),
            # The older exporter prints its graph too, and has no switch for it.
            mock.patch.object(torch._C, "_jit_onnx_log"),
        ):
            warnings.simplefilter("always")
            yield caught
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _quiet_core() -> Iterator[None]:
    """torch's core writes warnings straight to the process' standard error: dropped here. What Python writes there stays."""
    try:
        screen = os.dup(2)
    except OSError:  # closed: there is no output to restore
        yield
        return
    python = sys.stderr
    try:
        writes_there = python.fileno() == 2
    except (AttributeError, OSError, ValueError):
        writes_there = False
    with open(screen, "w", buffering=1, encoding=getattr(python, "encoding", None), errors="backslashreplace") as kept:  # noqa: PTH123
        try:
            if writes_there:
                python.flush()
                sys.stderr = kept
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(screen, 2)
            sys.stderr = python
