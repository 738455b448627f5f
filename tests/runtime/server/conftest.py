"""A server in this process for each module: a recogniser, a text generator, an image generator and a graph of many dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from starlette.testclient import TestClient

from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.options import ModelSource, ServeOptions, model_source

NUMPY = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8", "INT16": "int16",
    "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


def write_echo(path: Path, shape: tuple[object, ...] = ("rows", "columns")) -> Path:
    """A graph that gives back one input of every datatype; ``scale``, with a default, multiplies ``FP32``."""
    inputs, outputs, nodes = [], [], []
    for name, dtype in (*NUMPY.items(), ("BYTES", "str")):
        kind = TensorProto.STRING if dtype == "str" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inputs.append(helper.make_tensor_value_info(name, kind, shape))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", kind, shape))
        nodes.append(
            helper.make_node("Mul", [name, "scale"], [f"{name}_out"])
            if name == "FP32"
            else helper.make_node("Identity", [name], [f"{name}_out"])
        )
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, ())
    graph = helper.make_graph(nodes, "echo", [*inputs, scale], outputs, [helper.make_tensor("scale", TensorProto.FLOAT, (), [1.0])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def options(*models: ModelSource, **changes: object) -> ServeOptions:
    settings = {"threads": 1, "log": False, "batch": "off", "device": "cpu", **changes}
    return ServeOptions(models, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo(tmp_path_factory.mktemp("echo") / "echo.onnx")


@pytest.fixture(scope="module")
def client(echo: Path) -> Iterator[TestClient]:
    sources = [ModelSource("echo", str(echo)), *map(model_source, ("digits", "shakespeare", "digits-ae", "digits-gan"))]
    with TestClient(Application(options(*sources, grpc_port=0))) as opened:
        yield opened
