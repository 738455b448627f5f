"""A Keras 3 model as a source: with Keras' torch backend it is a ``torch.nn.Module``, and is exported as one.

A ``.keras`` file that was trained with any backend opens with this one, with the same weights and operations.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import Plan, numbered
from onnxferry.export.sources.keras_loops import loops_as_operators
from onnxferry.export.sources.keras_padding import same_padding_of_any_size
from onnxferry.export.sources.pytorch.call import CallPlan
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.runtime.errors import CheckpointError, CheckpointNotFoundError, ExportError, InputError, MissingExtraError, first_line
from onnxferry.runtime.onnx_file.made_inputs import random_array

BACKEND = "torch"


# Keras numbers unnamed inputs by how many were made before in the process.
_NUMBERED = re.compile(r"(?:keras_tensor|input_layer|input)(?:_\d+)?")


# Sizes of open axes where no example is given. One for all axes but the batch: inputs that are added or joined must agree in them.
BATCH_SIZE, AXIS_SIZE = 4, 24
# Of an open axis of time: Keras runs recurrent layers step by step.
STEPS = 7


def plans(model: Any, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``model``: a Keras model, or the path of a .keras file. One with tables for text runs in TensorFlow, and is cut behind them."""
    if isinstance(model, Path):
        from onnxferry.export.sources.keras_tables import source as tables

        if tables.has_tables(model):
            return tables.plans(model, example_inputs, options)
        if options.python is not None:
            raise InputError("the option python does not apply to this .keras file: none of its layers needs TensorFlow; leave it out")
        model = keras_from_file(model)
    elif options.python is not None:
        raise InputError("the option python does not apply to a Keras model in memory: save it with model.save('model.keras')")
    source = KerasSource(model, example_inputs, dynamic_shapes=options.dynamic_shapes, output_names=options.output_names)
    return [Plan(source, samples=numbered(options.samples), goldens=options.chosen_goldens(None))]


class KerasCall(torch.nn.Module):
    """The model with its inputs by name, and its outputs by name where there are several."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.names = names_of([tensor.name for tensor in model.inputs], "input")
        keys = getattr(model, "output", None)
        given = sorted(keys) if isinstance(keys, dict) else getattr(model, "output_names", ())
        self.outputs = ("output",) if len(model.outputs) == 1 else names_of(given, "output")

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        import keras

        tensors = [inputs[name] for name in self.names]
        # A Sequential takes one tensor, and does not say so in ``input``.
        packed = keras.tree.pack_sequence_as(self.model.input, tensors) if hasattr(self.model, "input") else tensors[0]
        # What the model writes while it runs (the states of a stateful layer) is dropped: every call starts from the same values.
        with keras.StatelessScope():
            answer = keras.tree.flatten(self.model(packed, training=False))
        return dict(zip(self.outputs, answer, strict=True))


def _nothing_drawn(*data: Any, **options: Any) -> None:
    """In place of an image layer's draw, which it does not use unless it trains."""


class KerasSource(TorchSource):
    """``examples``: an array, a list in the order of the model's inputs, or a dict by their names; None to draw random values.

    Axes of size None are dynamic, the first is named ``batch``. ``dynamic_shapes`` overrides that. Inputs keep their names in Keras; an
    unnamed one is ``input``. A single output is ``output``, several have their keys or their layers' names.
    Raises InputError for a model on another backend, ExportError for one that does not declare its inputs.
    """

    def __init__(
        self,
        model: Any,
        examples: Any = None,
        *,
        dynamic_shapes: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        import keras

        if keras.backend.backend() != BACKEND:
            raise InputError(
                f"this Keras runs on {keras.backend.backend()}, and models are exported with its {BACKEND} backend: save the model with "
                "model.save('model.keras'), and run: onnxferry export model.keras -o model.onnx"
            )
        if not getattr(model, "inputs", None):
            raise ExportError("this Keras model does not declare its inputs: build it from keras.Input, or give keras.Model(x, model(x))")
        called = KerasCall(model)
        recurrent = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]
        shapes = dict(zip(called.names, [tuple(tensor.shape) for tensor in model.inputs], strict=True))
        dtypes = dict(zip(called.names, [str(tensor.dtype) for tensor in model.inputs], strict=True))
        arrays = _arrays(called.names, shapes, dtypes, examples, STEPS if recurrent else AXIS_SIZE)
        axes = dynamic_shapes or {name: _open_axes(name, shape) for name, shape in shapes.items()}
        call = CallPlan(called, arrays)
        self._start(called, call, call.flat_axes(axes), output_names)
        if any(layer.stateful for layer in recurrent):
            self.notes.append("the states of stateful layers are not kept between calls: each starts from the states at the export")

    @contextmanager
    def capturing(self) -> Iterator[None]:
        import keras

        # Losses of activities are for training, and read the size of the batch as a Python number.
        model: Any = self.module.model
        regularized = [layer for layer in model._flatten_layers() if layer.activity_regularizer is not None]
        with ExitStack() as stack:
            stack.enter_context(loops_as_operators())
            stack.enter_context(same_padding_of_any_size())
            # Layers that only train at random still draw, and drop what they drew.
            stack.enter_context(mock.patch.object(keras.src.backend.torch.random, "torch_seed_generator", return_value=None))
            for layer in regularized:
                stack.enter_context(mock.patch.object(layer, "activity_regularizer", None))
            augmenting = keras.src.layers.preprocessing.image_preprocessing.base_image_preprocessing_layer.BaseImagePreprocessingLayer
            for layer in model._flatten_layers():
                if isinstance(layer, augmenting):
                    stack.enter_context(mock.patch.object(layer, "get_random_transformation", _nothing_drawn))
            yield

    def provenance(self) -> dict[str, Any]:
        import keras

        found = super().provenance()
        return {
            **found,
            "framework": "keras",
            "versions": {"keras": str(keras.__version__), **found["versions"]},
            "model": type(self.module.model).__qualname__,
        }


def keras_from_file(path: str | os.PathLike[str]) -> Any:
    """The model in a ``.keras`` file, on the torch backend. Raises CheckpointError if it cannot be read, or holds code."""
    os.environ.setdefault("KERAS_BACKEND", BACKEND)
    if "keras" not in sys.modules and os.environ["KERAS_BACKEND"] != BACKEND:
        raise InputError(f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']}: unset it, or set it to {BACKEND}")
    try:
        import keras
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "keras", "keras", "reading .keras files") from error
    if not Path(path).is_file():
        raise CheckpointNotFoundError(f"there is no file {path}", path)
    try:
        # Keras' safe mode: no code out of the file is run.
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        line = first_line(error)[:300]
        raise CheckpointError(
            f"Keras cannot open {Path(path).name} ({line}); for layers of your own, name a function that opens it: pkg.module:load_model"
        ) from error


def load_keras_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """The weights of a ``.weights.h5`` or ``.keras`` file of any backend, into a model. Raises CheckpointError if they do not fit."""
    file = Path(path)
    if not file.is_file():
        raise CheckpointNotFoundError(f"there is no file {file}", path)
    if not file.name.endswith((".weights.h5", ".keras")):
        raise InputError(f"{file.name} holds no weights of Keras: save them with model.save_weights('model.weights.h5')")
    try:
        model.load_weights(file)
    except Exception as error:
        raise CheckpointError(f"the weights in {file.name} do not fit the model: {first_line(error, 'no message')[:300]}") from error


def names_of(given: Sequence[str], kind: str) -> tuple[str, ...]:
    """The given names; ``input``, or ``input_0``, ``input_1``, for those that Keras numbered."""
    names = [f"{kind}_{place}" if len(given) > 1 else kind for place in range(len(given))]
    found = [own if _NUMBERED.fullmatch(name) else re.sub(r"\W", "_", name) for own, name in zip(names, given, strict=True)]
    return tuple(found) if len(set(found)) == len(found) else tuple(names)


def _open_axes(name: str, shape: tuple[int | None, ...]) -> dict[int, str]:
    return {axis: f"{name}_dim{axis}" if axis else "batch" for axis, size in enumerate(shape) if size is None}


def _arrays(
    names: Sequence[str], shapes: Mapping[str, tuple[int | None, ...]], dtypes: Mapping[str, str], examples: Any, length: int
) -> dict[str, np.ndarray]:
    """The examples by name, in the dtypes that the model declares."""
    if examples is None:
        rng = np.random.default_rng(0)
        examples = {name: random_array(dtypes[name], _sizes(shapes[name], length), rng) for name in names}
    elif not isinstance(examples, Mapping):
        several = examples if isinstance(examples, list | tuple) else [examples]
        if len(several) != len(names):
            raise InputError(f"the model has {len(names)} inputs ({', '.join(names)}), the examples are {len(several)}")
        examples = dict(zip(names, several, strict=True))
    elif len(names) == 1 and len(examples) == 1:
        examples = {names[0]: next(iter(examples.values()))}
    wrong = sorted(set(examples) ^ set(names))
    if wrong:
        raise InputError(f"the examples and the model do not agree on the input {wrong[0]!r}; the inputs are {', '.join(names)}")
    found = {}
    for name in names:
        value = examples[name]
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        shape = shapes[name]
        if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
            raise InputError(f"the example of {name!r} must have shape {shape}, got {array.shape}")
        found[name] = np.ascontiguousarray(array.astype(dtypes[name]))
    return found


def _sizes(shape: tuple[int | None, ...], length: int) -> list[int]:
    return [size or ((length if axis == 1 else AXIS_SIZE) if axis else BATCH_SIZE) for axis, size in enumerate(shape)]
