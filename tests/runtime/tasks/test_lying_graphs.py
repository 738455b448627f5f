"""Graphs that declare what their contract needs, and give something else when they run: each call ends in an error of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.tasks.autoencoder import Autoencoder
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.image_generator import ImageGenerator
from onnxferry.runtime.tasks.loading import load, load_as
from onnxferry.runtime.tasks.text_generator import OPTIONAL, TextGenerator

TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
IMAGE = np.full((4, 4), 7, np.uint8)

Shape = tuple[Any, ...]
Outputs = dict[str, tuple[str, Shape, Shape]]
"""By name: dtype, the shape that is declared, and the one that comes out."""


def write(path: Path, kind: str, inputs: dict[str, tuple[str, Shape]], outputs: Outputs, fill: float = 0, **contract: Any) -> Path:
    """A graph whose outputs get their shapes from numbers that only a run knows, so that nothing contradicts what is declared."""
    first = next(iter(inputs))
    nodes = [
        helper.make_node("Cast", [first], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
    ]
    constants = {"zero": np.float32(0)}
    for name, (dtype, _, shape) in outputs.items():
        constants[f"{name}_dims"] = np.array(shape, np.float32)
        value = numpy_helper.from_array(np.array([0 if dtype == "int64" else fill], dtype))
        nodes += [
            helper.make_node("Add", ["nothing", f"{name}_dims"], [f"{name}_float"]),
            helper.make_node("Cast", [f"{name}_float"], [f"{name}_shape"], to=TensorProto.INT64),
            helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=value),
        ]
    optional = {name: helper.make_tensor_value_info(name, TYPES[dtype], list(shape)) for name, (dtype, shape) in inputs.items()}
    defaults = []
    for name, (dtype, shape) in inputs.items():
        if kind == "text-generator" and name in OPTIONAL:
            defaults.append(numpy_helper.from_array(np.zeros([1] * len(shape), dtype), name))
    ends = [helper.make_tensor_value_info(name, TYPES[dtype], list(shape)) for name, (dtype, shape, _) in outputs.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "liar", list(optional.values()), ends, [*initializers, *defaults])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata_from_contract(Contract(kind=kind, name="liar", **contract)))
    path.write_bytes(model.SerializeToString())
    return path


ENCODER: Outputs = {
    "reconstruction": ("uint8", ("n", 8, 8, 1), (1, 8, 8, 1)),
    "latent": ("float32", ("n", 5), (1, 5)),
    "anomaly_score": ("float32", ("n",), (1,)),
}


def encoder(folder: Path, **changes: Shape) -> Path:
    outputs = {name: (dtype, declared, changes.get(name, real)) for name, (dtype, declared, real) in ENCODER.items()}
    return write(folder / "ae.onnx", "encoder", {"image": ("uint8", ("n", "h", "w", 1))}, outputs)


def test_the_honest_one_answers(tmp_path: Path) -> None:
    model = load_as(Autoencoder, encoder(tmp_path))
    assert (model.reconstruct(IMAGE).shape, model.encode(IMAGE).shape, model.anomaly_score(IMAGE).shape) == ((1, 8, 8), (1, 5), (1,))


@pytest.mark.parametrize(
    ("changes", "call"),
    [
        ({"reconstruction": (1, 9, 8, 1)}, Autoencoder.reconstruct),
        ({"reconstruction": (0, 8, 8, 1)}, Autoencoder.reconstruct),
        ({"latent": (1, 6)}, Autoencoder.encode),
        ({"latent": (3, 5)}, Autoencoder.encode),
        ({"anomaly_score": (2,)}, Autoencoder.anomaly_score),
        ({"anomaly_score": (0,)}, Autoencoder.anomaly_score),
    ],
)
def test_autoencoders(tmp_path: Path, changes: dict[str, Shape], call: Callable[[Autoencoder, Any], Any]) -> None:
    model = load_as(Autoencoder, encoder(tmp_path, **changes))
    with pytest.raises(ArtifactError, match=rf"gives {next(iter(changes))} .*, expected .*; export the model again"):
        call(model, IMAGE)


@pytest.mark.parametrize("real", [(1, 8, 9, 1), (0, 8, 8, 1), (2, 8, 8, 1)])
def test_decoders(tmp_path: Path, real: Shape) -> None:
    path = encoder(tmp_path)
    write(path.with_name("ae.decoder.onnx"), "decoder", {"latent": ("float32", ("n", 5))}, {"image": ("uint8", ("n", 8, 8, 1), real)})
    with pytest.raises(ArtifactError, match="gives image uint8"):
        load_as(Autoencoder, path).decode(np.zeros((1, 5), np.float32))


def generator(folder: Path, real: Shape = (1, 8, 8, 1), width: int = 4, side: int = 8) -> Path:
    inputs = {"noise": ("float32", ("n", width)), "label": ("int64", ("n",))}
    outputs: Outputs = {"image": ("uint8", ("n", side, side, 1), real)}
    return write(folder / "gan.onnx", "image-generator", inputs, outputs, labels=("a",))


@pytest.mark.parametrize("real", [(1, 8, 9, 1), (0, 8, 8, 1), (2, 8, 8, 1)])
def test_image_generators(tmp_path: Path, real: Shape) -> None:
    model = load_as(ImageGenerator, generator(tmp_path, real))
    for call in (lambda: model.sample(1), lambda: model.walk(0, 1, 5)):
        with pytest.raises(ArtifactError, match="gives image uint8"):
            call()


@pytest.mark.parametrize("sizes", [{"width": 2**40}, {"side": 2**40}])
def test_sizes_that_no_memory_holds(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ArtifactError, match="says that it is an image generator"):
        load(generator(tmp_path, **sizes))


def text_generator(folder: Path, **changes: Shape) -> Path:
    inputs = {"prompt": ("uint8", ("n", "p")), "uniforms": ("float32", ("n", "w"))}
    inputs |= {name: (dtype, tuple(f"{name}{axis}" for axis in range(rank))) for name, (dtype, rank) in OPTIONAL.items()}
    outputs: Outputs = {
        "bytes": ("uint8", ("n", "w"), (1, 3)),
        "log_probabilities": ("float32", ("n", "p"), (1, 2)),
        "next_logits": ("float32", ("n", 256), (1, 256)),
        "state_after": ("float32", (1, 1, 1), (1, 1, 1)),
    }
    outputs = {name: (dtype, declared, changes.get(name, real)) for name, (dtype, declared, real) in outputs.items()}
    return write(folder / "text.onnx", "text-generator", inputs, outputs, fill=65)


def test_text_generators(tmp_path: Path) -> None:
    honest = load_as(TextGenerator, text_generator(tmp_path))
    assert honest.generate("a", max_bytes=3) == "AAA"
    assert math.isfinite(honest.score("ab"))
    for changes in ({"bytes": (0, 3)}, {"bytes": (1, 4)}, {"bytes": (2, 3)}):
        model = load_as(TextGenerator, text_generator(tmp_path, **changes))
        with pytest.raises(ArtifactError, match="gives bytes uint8"):
            model.generate("a", max_bytes=3)
    with pytest.raises(ArtifactError, match=r"gives log_probabilities float32 \(1, 9\), expected float32 \(1, 2\)"):
        load_as(TextGenerator, text_generator(tmp_path, log_probabilities=(1, 9))).score("ab")


@pytest.mark.parametrize("value", [7e30, -1.0, 1.5])
def test_probabilities_that_are_none(tmp_path: Path, value: float) -> None:
    outputs: Outputs = {"probabilities": ("float32", ("n", 2), (1, 2)), "class_index": ("int64", ("n",), (1,))}
    path = write(tmp_path / "r.onnx", "recogniser", {"image": ("uint8", ("n", "h", "w", 1))}, outputs, fill=value, labels=("a", "b"))
    with pytest.raises(ArtifactError, match=r"gives probabilities from .*, expected 0 to 1"):
        load_as(Classifier, path).predict(IMAGE)
