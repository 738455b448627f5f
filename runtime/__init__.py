"""onnxferry.runtime: runs models. Needs neither torch nor onnx.

    from onnxferry.runtime import load

    model = load("digits.onnx")
    model.predict("three.png")[0].label

Names are imported when first used, so that ``import onnxferry.runtime`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxferry.runtime import errors as errors
    from onnxferry.runtime.artifact import Contract as Contract
    from onnxferry.runtime.artifact import Golden as Golden
    from onnxferry.runtime.artifact import Tolerance as Tolerance
    from onnxferry.runtime.batcher import Batcher as Batcher
    from onnxferry.runtime.device_arrays import DeviceArray as DeviceArray
    from onnxferry.runtime.engine import Engine as Engine
    from onnxferry.runtime.engine import TensorSpec as TensorSpec
    from onnxferry.runtime.images import ImageGenerator as ImageGenerator
    from onnxferry.runtime.latents import Autoencoder as Autoencoder
    from onnxferry.runtime.placement import PlacementWarning as PlacementWarning
    from onnxferry.runtime.tasks import Classifier as Classifier
    from onnxferry.runtime.tasks import Model as Model
    from onnxferry.runtime.tasks import Prediction as Prediction
    from onnxferry.runtime.tasks import load as load
    from onnxferry.runtime.text import TextGenerator as TextGenerator

    __version__: str

_MODULES = {
    "Autoencoder": "latents",
    "Batcher": "batcher",
    "Classifier": "tasks",
    "Contract": "artifact",
    "DeviceArray": "device_arrays",
    "Engine": "engine",
    "Golden": "artifact",
    "ImageGenerator": "images",
    "Model": "tasks",
    "PlacementWarning": "placement",
    "Prediction": "tasks",
    "TensorSpec": "engine",
    "TextGenerator": "text",
    "Tolerance": "artifact",
    "load": "tasks",
}

__all__ = [
    "Autoencoder",
    "Batcher",
    "Classifier",
    "Contract",
    "DeviceArray",
    "Engine",
    "Golden",
    "ImageGenerator",
    "Model",
    "PlacementWarning",
    "Prediction",
    "TensorSpec",
    "TextGenerator",
    "Tolerance",
    "__version__",
    "errors",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("onnxferry.runtime.errors")
    if name == "__version__":
        from importlib.metadata import version

        return version("onnxferry")
    if name not in _MODULES:
        raise AttributeError(f"module 'onnxferry.runtime' has no attribute {name!r}")
    value = getattr(import_module(f"onnxferry.runtime.{_MODULES[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
