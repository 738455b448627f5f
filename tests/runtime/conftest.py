"""Tiny models, made by hand with onnx.helper, that keep the contract of real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.contract import Contract, Golden, Tolerance
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.onnx_file.reader import file_sha256

LABELS = ("black", "dark", "light", "white")


def brightness(images: np.ndarray, classes: int = len(LABELS), sharpness: float = 200.0) -> dict[str, np.ndarray]:
    """What ``write_recogniser``'s graph computes, in numpy: the class is the nearest of evenly spaced brightnesses.

    ``images``: uint8 (batch, height, width, channels).
    """
    features = images.astype(np.float32).mean(axis=(1, 2, 3), keepdims=False)[:, None] / np.float32(255)  # (batch, 1)
    centres = (np.arange(classes, dtype=np.float32) + 0.5) / classes
    logits = sharpness * (2 * features * centres - centres**2)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)
    return {"probabilities": probabilities, "class_index": probabilities.argmax(axis=1), "features": features.astype(np.float32)}


WIDTH, LAYERS = 2048, 3

LARGE = 4 * LAYERS * WIDTH**2
"""Bytes of weights of :func:`write_large`: 50 MB."""


def write_large(path: Path, seed: int = 0) -> Path:
    """x float32 (batch, WIDTH) → y, by LAYERS matrices with ReLU between; its weights lie in a file beside it."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    for layer in range(LAYERS):
        scale = np.float32(np.sqrt(2 / WIDTH))
        weights.append(numpy_helper.from_array(scale * rng.standard_normal((WIDTH, WIDTH), dtype=np.float32), f"w{layer}"))
        nodes += [
            helper.make_node("MatMul", [f"x{layer}" if layer else "x", f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], [f"x{layer + 1}" if layer + 1 < LAYERS else "y"]),
        ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "large", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # onnx would write behind what is there
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large(tmp_path_factory.mktemp("large") / "large.onnx")


def recogniser_contract(labels: Sequence[str] = LABELS, channels: int = 1, goldens: int = 2) -> Contract:
    rng = np.random.default_rng(0)
    samples = []
    for shape in [(2, 6, 5, channels), (1, 3, 9, channels), (3, 4, 4, channels)][:goldens]:
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        samples.append(Golden({"image": image}, brightness(image, len(labels))))
    return Contract(
        kind="recogniser",
        name="brightness",
        family="cnn",
        description="Tells how bright an image is.",
        labels=tuple(labels),
        options={"channels": channels, "image_size": [28, 28], "framing": "fit"},
        tolerances={"probabilities": Tolerance(1e-4, 1e-5), "features": Tolerance(1e-4, 1e-5)},
        goldens=tuple(samples),
        provenance={"framework": "numpy", "command": "by hand"},
        metrics={"accuracy": 0.9975, "n": 400},
        parity={"passed": True, "max_abs": 1e-7},
        license="Apache-2.0",
        version="1",
    )


def write_recogniser(
    path: Path, contract: Contract | None = None, *, channels: int = 1, classes: int = 0, sharpness: float = 200.0
) -> Path:
    """A recogniser of brightness, of as many classes as the contract has labels unless ``classes`` says otherwise.

    ``sharpness`` other than the contract's 200 makes its golden samples fail.
    """
    contract = contract or recogniser_contract(channels=channels)
    classes = classes or len(contract.labels)
    centres = (np.arange(classes, dtype=np.float32) + 0.5) / classes
    constants = {
        "axes": np.array([1, 2, 3]),
        "full": np.array(255, np.float32),
        "weight": (2 * sharpness * centres)[None].astype(np.float32),
        "bias": (-sharpness * centres**2).astype(np.float32),
        "column": np.array([-1, 1]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "full"], ["share"]),
            helper.make_node("Reshape", ["share", "column"], ["features"]),
            helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
            helper.make_node("ArgMax", ["probabilities"], ["class_index"], axis=-1, keepdims=0),
        ],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", channels])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("class_index", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return write_model(path, graph, metadata_from_contract(contract))


def write_doubler(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A foreign model: x float32 (n, 3) → y = x + x, without a contract."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    return write_model(path, graph, metadata or {})


def write_model(path: Path, graph: onnx.GraphProto, metadata: dict[str, str]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="onnxferry tests")
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def certificate(original: Path, tag: str, **changes: Any) -> dict[str, Any]:
    return {
        "variant": tag,
        "of": file_sha256(original),
        "goal": "faster",
        "budget": "top1 -0.1pt",
        "score": {"metric": "top1", "source": 0.99, "variant": 0.9895, "n": 1000},
        "data": "1000 images",
        "speed": {"1": 2.125, "64": 1.5},
        "bytes": [2000, 500],
        "machine": "a CPU",
        "onnxruntime": "1.31.1",
        **changes,
    }


def write_variant(original: Path, tag: str, source: Path | None = None, **changes: Any) -> Path:
    """A copy of ``source`` (the original if None) beside the original, named and certified as its variant."""
    model = onnx.load(source or original)
    metadata = {item.key: item.value for item in model.metadata_props}
    helper.set_model_props(model, {**metadata, "onnxferry.certificate": json.dumps(certificate(original, tag, **changes))})
    path = original.with_name(f"{original.stem}.{tag}.onnx")
    path.write_bytes(model.SerializeToString())
    return path


def copy_zoo_model(name: str, folder: Path) -> Path:
    """A shipped model's .onnx files alone, without the variants that ship."""
    original = zoo_model(name).path
    shutil.copy(original, folder)
    decoder = original.with_name(f"{name}.decoder.onnx")
    if decoder.is_file():
        shutil.copy(decoder, folder)
    return folder / original.name


@pytest.fixture
def recogniser(tmp_path: Path) -> Path:
    """The file of a recogniser of grey images: black, dark, light or white."""
    return write_recogniser(tmp_path / "brightness.onnx")


@pytest.fixture
def make_recogniser(tmp_path: Path) -> Callable[..., Path]:
    """``make_recogniser(contract, channels=…, classes=…, sharpness=…)`` → the file."""

    def make(contract: Contract | None = None, name: str = "made.onnx", **options: float) -> Path:
        return write_recogniser(tmp_path / name, contract, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def doubler(tmp_path: Path) -> Path:
    """The file of a model that is not one of ours: y = x + x."""
    return write_doubler(tmp_path / "doubler.onnx")


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[[onnx.GraphProto, dict[str, str]], Path]:
    """``make_model(graph, metadata)`` → the file."""
    return lambda graph, metadata: write_model(tmp_path / "model.onnx", graph, metadata)


@pytest.fixture
def certify() -> Callable[..., Path]:
    """``certify(original, tag, source=None, **changes)`` → a certified variant's file beside the original."""
    return write_variant


@pytest.fixture
def zoo_copy(tmp_path: Path) -> Callable[..., Path]:
    """``zoo_copy(name, folder=tmp_path)`` → the shipped model's file, copied without the variants that ship."""
    return lambda name, folder=tmp_path: copy_zoo_model(name, folder)
