"""Inputs that may be left out: their defaults are in the graph while it is made and compared, and in the contract once it is a file.

ONNX allows an initializer of an input's name: the input's default. ONNX Runtime's bindings for JavaScript do not see such inputs: in
Node what is fed for them is ignored without an error, in a browser it is refused. So a file has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnxferry.runtime.arguments import is_text
from onnxferry.runtime.artifact.contract import DEFAULT_BYTES, GOLDEN_DTYPES


def take_out(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Makes the inputs that have a default in the graph required ones, in place, and returns the defaults by input.

    A default that a contract cannot hold (too many bytes, another dtype) stays in the graph as a constant: that input is no longer one.
    """
    graph = model.graph
    inputs = {value.name for value in graph.input}
    defaults: dict[str, np.ndarray] = {}
    constants = set()
    left = DEFAULT_BYTES
    for tensor in sorted((tensor for tensor in graph.initializer if tensor.name in inputs), key=lambda tensor: tensor.ByteSize()):
        # The stored size of a tensor of numbers is at least that of its elements.
        array = numpy_helper.to_array(tensor) if tensor.ByteSize() <= 2 * DEFAULT_BYTES else None
        if array is not None and (is_text(array) or array.dtype.name in GOLDEN_DTYPES) and array.nbytes <= left:
            defaults[tensor.name] = array
            left -= array.nbytes
        else:
            constants.add(tensor.name)
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name in defaults:
            del graph.initializer[at]
    for at in reversed(range(len(graph.input))):
        if graph.input[at].name in constants:
            del graph.input[at]
    return defaults


def put_back(model: onnx.ModelProto, defaults: Mapping[str, np.ndarray]) -> None:
    """The reverse of :func:`take_out`: the defaults become initializers of the graph, in place."""
    inputs = {value.name for value in model.graph.input}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in defaults.items() if name in inputs)
