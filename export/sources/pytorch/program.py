"""A program that ``torch.export`` made, in memory or in a .pt2 file, as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from onnxferry.export.source import Strategy, unique
from onnxferry.export.sources.pytorch.call import CallPlan, path_name
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.export.sources.pytorch.pt2_archive import check_archive, weights_only
from onnxferry.runtime.errors import ExportError, InputError, InputNotFoundError, first_line


class ProgramCall(CallPlan):
    """How a captured program is called: its own record of its inputs."""

    def __init__(self, program: torch.export.ExportedProgram, example_inputs: Any) -> None:
        bound = _arguments(program, example_inputs)
        self._leaves, self._spec = pytree.tree_flatten(bound)
        found, expected = self._spec, program.call_spec.in_spec
        if expected is not None and len(self._leaves) != expected.num_leaves:
            raise InputError(
                f"the example inputs hold {len(self._leaves)} values, the program was captured with {expected.num_leaves}: {found}"
            )
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        recorded = list(program.graph_signature.user_inputs)
        names = [path_name(path[1:]) for path, _ in pytree.tree_flatten_with_path(bound)[0]]
        if len(recorded) == len(names):
            # What is no tensor is recorded by its value, not by a name.
            names = [
                r if isinstance(r, str) and isinstance(leaf, torch.Tensor) else n
                for r, n, leaf in zip(recorded, names, self._leaves, strict=True)
            ]
        self.names = unique(names[i] for i in self._places)
        self.tensors = tuple(self._leaves[i] for i in self._places)
        self.fixed = {names[i]: leaf for i, leaf in enumerate(self._leaves) if i not in set(self._places) and leaf is not None}
        self._positional = list(self.names)
        self._keywords = []
        if not self.names:
            raise InputError("the program takes no tensor, so the graph would have no input")

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs


class ProgramSource(TorchSource):
    """A ``torch.export.ExportedProgram``. Its dynamic axes are those that it was captured with; ``dynamic_shapes`` only names them."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        example_inputs: Any = None,
        *,
        dynamic_shapes: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self.program = program
        call = ProgramCall(program, example_inputs)
        self._start(program.module(), call, _axes(program, call, call.flat_axes(dynamic_shapes)), output_names)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        from onnxferry.export.sources.pytorch.capture import program_strategies

        return program_strategies(self, self.program, opset)

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "model": "torch.export program"}

    @contextmanager
    def _mode(self, module: torch.nn.Module) -> Iterator[None]:
        # A captured program has no modes: dropout is in it, or is not.
        yield


def program_from_file(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    """A program from a .pt2 file. Raises ExportError where it is none, or where loading it would run code.

    ``torch.export.load`` alone runs code that a file brings. The ways that are known are refused here (see :mod:`.pt2_archive`), and
    what is pickled is read as weights only; torch does not promise that these are all. Load files of people whom you trust.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"there is no file {path}", path)
    try:
        with Path(path).open("rb") as file, weights_only():
            check_archive(file, Path(path).name)
            return torch.export.load(file)
    except ExportError:
        raise
    except Exception as error:
        first = first_line(error)
        raise ExportError(
            f"{Path(path).name} is no program of torch.export that this torch ({torch.__version__}) reads: {first[:200]}"
        ) from error


def _arguments(program: torch.export.ExportedProgram, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example_inputs is None:
        if program.example_inputs is None:
            raise InputError("the program has no example inputs: give example_inputs")
        args, kwargs = program.example_inputs
        return tuple(args), dict(kwargs)
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        names = [str(name) for name in program.graph_signature.user_inputs]
        spec = program.call_spec.in_spec
        kwargs_only = spec is not None and spec.num_leaves and not pytree.tree_unflatten(range(spec.num_leaves), spec)[0]
        if not kwargs_only and set(example_inputs) == set(names):
            return tuple(example_inputs[name] for name in names), {}
        return (), dict(example_inputs)
    return tuple(example_inputs), {}


def _axes(program: torch.export.ExportedProgram, call: ProgramCall, named: Sequence[Mapping[int, str]]) -> list[dict[int, str]]:
    """The dynamic axes of the program's inputs: by the given names, else by the input that shows them first."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    nodes = [placeholders[str(name)] for name in program.graph_signature.user_inputs if str(name) in placeholders]
    shapes = [node.meta["val"].shape for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    labels: dict[str, str] = {}
    for name, shape, given in zip(call.names, shapes, named, strict=True):
        for axis, label in given.items():
            if not isinstance(shape[axis], torch.SymInt):
                raise InputError(
                    f"the program was captured with axis {axis} of input {name!r} fixed at {shape[axis]}: "
                    "capture it again with that axis dynamic, or leave it out of dynamic_shapes"
                )
            labels.setdefault(str(shape[axis].node.expr), label)
    for name, shape in zip(call.names, shapes, strict=True):
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                labels.setdefault(str(size.node.expr), f"{name}_dim{axis}")
    axes = []
    for name, shape in zip(call.names, shapes, strict=True):
        found = {}
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt):
                expression = str(size.node.expr)
                # An axis that depends on another (2*n) varies with it; the graph calls it by a name of its own.
                found[axis] = labels.get(expression, f"{name}_dim{axis}")
        axes.append(found)
    return axes
