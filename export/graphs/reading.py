"""A file, weights included, as an ``onnx.ModelProto``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from onnxferry.export.graphs.defaults import put_back
from onnxferry.runtime.artifact.metadata import contract_of


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
    if contract is not None:
        put_back(model, contract.defaults)
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
