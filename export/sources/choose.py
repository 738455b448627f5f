"""Which source fits an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxferry.export.source import Feeds, Source, is_keras, is_sklearn

if TYPE_CHECKING:
    pass


def model_source(model: Any, example_inputs: Any, **how: Any) -> tuple[Source, Sequence[Feeds], tuple[str, ...]]:
    """The model as a source, what of its examples is left to compare on, and its classes' names. Imports the framework that it is of."""
    if is_sklearn(model):
        from onnxferry.export.sources.sklearn.estimator import SklearnSource

        found = SklearnSource(model, example_inputs, **how)
        return found, found.more, found.labels
    if is_keras(model):
        from onnxferry.export.sources.keras import KerasSource

        return KerasSource(model, example_inputs, **how), (), ()
    return torch_source(model, example_inputs, **how), (), ()


def torch_source(model: Any, example_inputs: Any, *, dynamic_shapes: Any = None, output_names: Sequence[str] | None = None) -> Source:
    import torch

    from onnxferry.export.sources.pytorch.module import TorchSource
    from onnxferry.export.sources.pytorch.program import ProgramSource

    if isinstance(model, torch.export.ExportedProgram):
        return ProgramSource(model, example_inputs, dynamic_shapes=dynamic_shapes, output_names=output_names)
    return TorchSource(model, example_inputs, dynamic_shapes=dynamic_shapes, output_names=output_names)
