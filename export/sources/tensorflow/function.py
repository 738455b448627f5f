"""A tf.function of this process, saved with a signature for the process that converts it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.options import ExportOptions
from onnxferry.runtime.errors import ExportError, InputError, first_line


def saved_function(function: Any, examples: Any, options: ExportOptions, folder: Path) -> Path:
    """The folder of a SavedModel. ``examples``: arrays by the names of the function's arguments, or in their order."""
    import tensorflow as tf

    if not hasattr(function, "get_concrete_function"):
        raise InputError(f"a {type(function).__name__} has no signature: save it with tf.saved_model.save, or give a tf.function")
    if examples is None:
        raise InputError("a tf.function needs example inputs: an array, a tuple of them, or a dict by the names of the arguments")
    names = _names(function)
    given = (
        dict(examples)
        if isinstance(examples, Mapping)
        else dict(zip(names, examples if isinstance(examples, tuple) else (examples,), strict=False))
    )
    axes = options.dynamic_shapes or {}
    specs = {
        name: tf.TensorSpec(
            [None if place in (axes.get(name) or {}) else size for place, size in enumerate(np.shape(array))], np.asarray(array).dtype, name
        )
        for name, array in given.items()
    }
    try:
        concrete = function.get_concrete_function(**specs)
        module = tf.Module()
        module.held = [concrete, *concrete.variables]
        tf.saved_model.save(module, str(folder), signatures={"serving_default": concrete})
    except Exception as error:
        raise ExportError(
            f"TensorFlow cannot save the function ({type(error).__name__}: {first_line(error, 'no message')[:300]})"
        ) from error
    return folder


def _names(function: Any) -> list[str]:
    import inspect

    found = getattr(function, "python_function", function)
    return [name for name in inspect.signature(found).parameters if name != "self"]
