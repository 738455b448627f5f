"""A file as an ``onnx.ModelProto``: its weights included, and the defaults of its inputs back in the graph.

ONNX allows an initializer of an input's name: the input's default. ONNX Runtime's bindings for JavaScript do not see such inputs: in
Node what is fed for them is ignored without an error, in a browser it is refused. So a graph has them while it is made and compared,
and a file has them in its contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from onnxferry.runtime.arguments import is_text
from onnxferry.runtime.artifact.contract import DEFAULT_BYTES, GOLDEN_DTYPES
from onnxferry.runtime.artifact.metadata import DEFAULTS_KEY, contract_of


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model, for a file that the engine has opened or the runtime's reader has read: they check where weights lie.

    Defaults that stand in the file's contract are initializers of the model again, as they were when it was made.
    ``onnx.load`` refuses weights that are links, as huggingface_hub's cache has them; the reader accepts those that stay beside the file.
    """
    model = onnx.load(path, load_external_data=False)
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        real = (path.parent / ExternalDataInfo(tensor).location).resolve()
        next(entry for entry in tensor.external_data if entry.key == "location").value = real.name
        load_external_data_for_tensor(tensor, str(real.parent))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    contract = contract_of({entry.key: entry.value for entry in model.metadata_props}, path.name)
    if contract is not None and contract.defaults:
        put_back(model, contract.defaults)
        kept = [entry for entry in model.metadata_props if entry.key != DEFAULTS_KEY]  # they stand in one place only
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
    return model


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All in a message, however deep: those of attributes, subgraphs and functions too."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if hasattr(value, "__len__") else (value,):
                yield from _tensors(each)


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
