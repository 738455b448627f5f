"""A PyTorch model as a plan: a ``torch.nn.Module``, a ``torch.export`` program, or the path of a .pt2 file or TorchScript archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from onnxferry.export.options import ExportOptions, Feeds
from onnxferry.export.source import Plan, numbered
from onnxferry.export.sources.pytorch.call import nested_inputs, only_argument
from onnxferry.export.sources.pytorch.module import TorchSource, unwrapped
from onnxferry.export.sources.pytorch.program import ProgramSource, program_from_file
from onnxferry.export.sources.pytorch.torchscript import scripted_from_file
from onnxferry.runtime.errors import InputError


def plans(model: Any, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``example_inputs``: a tensor, a tuple of positional inputs, or a dict by ``forward()``'s names; nested tuples and dicts of tensors
    are fine, and so are the flat names that the file gives them (``state_0``). A single input may have any name. A program may have its
    own: None.
    """
    if isinstance(model, Path):
        model = program_from_file(model) if model.suffix.lower() == ".pt2" else scripted_from_file(model)
    names = {"dynamic_shapes": options.dynamic_shapes, "output_names": options.output_names}
    if isinstance(model, torch.export.ExportedProgram):
        tensors = pytree.tree_map(lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, example_inputs)
        source = ProgramSource(model, tensors, **names)
        return [Plan(source, samples=numbered(options.samples), goldens=options.chosen_goldens(None))]
    if example_inputs is None:
        raise InputError(
            "say what the model takes: give example inputs (a tensor, a tuple, or a dict by forward()'s names); on the command line "
            '--input "x:float32[batch,3,224,224]", or --samples FILE.npz with one array for every input'
        )
    renamed: dict[str, str] = {}
    if isinstance(model, torch.nn.Module):
        model = unwrapped(model)
    if isinstance(example_inputs, Mapping) and isinstance(model, torch.nn.Module):
        own = only_argument(model, example_inputs)
        renamed = {next(iter(example_inputs)): own} if own is not None else {}
        example_inputs = nested_inputs(model, _renamed(example_inputs, renamed))
        if isinstance(options.dynamic_shapes, Mapping):
            names["dynamic_shapes"] = _renamed(options.dynamic_shapes, renamed)
    module = TorchSource(model, example_inputs, **names)
    module.notes += [f"the input {old!r} is called {new!r} in the file, as in forward()" for old, new in renamed.items()]
    module.notes += _all_fixed(module)
    goldens = options.chosen_goldens(None)
    return [
        Plan(
            module,
            samples=numbered([_renamed(feeds, renamed) for feeds in options.samples]),
            goldens=None if goldens is None else [_renamed(feeds, renamed) for feeds in goldens],
        )
    ]


def _all_fixed(source: TorchSource) -> list[str]:
    """A note where no axis of any input may vary: most likely ``dynamic_shapes`` was forgotten."""
    spec = next((spec for spec in source.inputs if spec.shape), None)
    if spec is None or any(isinstance(size, str) for each in source.inputs for size in each.shape):
        return []
    sizes = ",".join(["batch", *map(str, spec.shape[1:])])
    return [
        f"every axis keeps the example's size; name those that vary: dynamic_shapes={{{spec.name!r}: {{0: 'batch'}}}}, on the command line "
        f'--input "{spec.name}:{spec.dtype}[{sizes}]"'
    ]


def _renamed(feeds: Mapping[str, Any] | Feeds, names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in feeds.items()}
