"""onnxferry.runtime: runs models. Needs neither torch nor onnx.

    from onnxferry.runtime import load

    model = load("digits.onnx")
    model.predict("three.png")[0].label

Names are imported when first used, so that ``import onnxferry.runtime`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxferry.runtime.moved import install

if TYPE_CHECKING:
    from onnxferry.runtime import errors as errors
    from onnxferry.runtime.artifact.contract import Contract as Contract
    from onnxferry.runtime.artifact.contract import Golden as Golden
    from onnxferry.runtime.artifact.contract import Tolerance as Tolerance
    from onnxferry.runtime.artifact.zoo import zoo_names as zoo_names
    from onnxferry.runtime.batcher import Batcher as Batcher
    from onnxferry.runtime.engine.cuda.dlpack import DeviceArray as DeviceArray
    from onnxferry.runtime.engine.engine import Engine as Engine
    from onnxferry.runtime.engine.engine import TensorSpec as TensorSpec
    from onnxferry.runtime.engine.open import share_weights as share_weights
    from onnxferry.runtime.engine.placement import PlacementWarning as PlacementWarning
    from onnxferry.runtime.onnx_file.summary import Limits as Limits
    from onnxferry.runtime.sandbox.child import SandboxLimits as SandboxLimits
    from onnxferry.runtime.sandbox.jobs import check_file as check_file
    from onnxferry.runtime.sandbox.jobs import run_file as run_file
    from onnxferry.runtime.tasks.autoencoder import Autoencoder as Autoencoder
    from onnxferry.runtime.tasks.classifier import Classifier as Classifier
    from onnxferry.runtime.tasks.classifier import Prediction as Prediction
    from onnxferry.runtime.tasks.detector import Detection as Detection
    from onnxferry.runtime.tasks.detector import Detections as Detections
    from onnxferry.runtime.tasks.detector import Detector as Detector
    from onnxferry.runtime.tasks.image_generator import ImageGenerator as ImageGenerator
    from onnxferry.runtime.tasks.loading import load as load
    from onnxferry.runtime.tasks.model import Model as Model
    from onnxferry.runtime.tasks.row_classifier import RowClassifier as RowClassifier
    from onnxferry.runtime.tasks.text_classifier import TextClassifier as TextClassifier
    from onnxferry.runtime.tasks.text_generator import TextGenerator as TextGenerator
    from onnxferry.runtime.tasks.text_models import TextDecoder as TextDecoder
    from onnxferry.runtime.tasks.text_models import TextEmbedder as TextEmbedder
    from onnxferry.runtime.tasks.text_models import TextTagger as TextTagger
    from onnxferry.runtime.tasks.translator import Translation as Translation
    from onnxferry.runtime.tasks.translator import Translator as Translator
    from onnxferry.runtime.tuning.tune import tune as tune

    __version__: str


_MODULES = {
    "Autoencoder": "tasks.autoencoder",
    "Batcher": "batcher",
    "Classifier": "tasks.classifier",
    "Contract": "artifact.contract",
    "Detection": "tasks.detector",
    "Detections": "tasks.detector",
    "Detector": "tasks.detector",
    "DeviceArray": "engine.cuda.dlpack",
    "Engine": "engine.engine",
    "Golden": "artifact.contract",
    "ImageGenerator": "tasks.image_generator",
    "Limits": "onnx_file.summary",
    "Model": "tasks.model",
    "PlacementWarning": "engine.placement",
    "Prediction": "tasks.classifier",
    "RowClassifier": "tasks.row_classifier",
    "SandboxLimits": "sandbox.child",
    "TensorSpec": "engine.engine",
    "TextGenerator": "tasks.text_generator",
    "Tolerance": "artifact.contract",
    "Translation": "tasks.translator",
    "Translator": "tasks.translator",
    "check_file": "sandbox.jobs",
    "load": "tasks.loading",
    "run_file": "sandbox.jobs",
    "share_weights": "engine.open",
    "tune": "tuning.tune",
    "zoo_names": "artifact.zoo",
    "TextClassifier": "tasks.text_classifier",
    "TextDecoder": "tasks.text_models",
    "TextEmbedder": "tasks.text_models",
    "TextTagger": "tasks.text_models",
}


__all__ = [
    "Autoencoder",
    "Batcher",
    "Classifier",
    "Contract",
    "Detection",
    "Detections",
    "Detector",
    "DeviceArray",
    "Engine",
    "Golden",
    "ImageGenerator",
    "Limits",
    "Model",
    "PlacementWarning",
    "Prediction",
    "RowClassifier",
    "SandboxLimits",
    "TensorSpec",
    "TextClassifier",
    "TextDecoder",
    "TextEmbedder",
    "TextGenerator",
    "TextTagger",
    "Tolerance",
    "Translation",
    "Translator",
    "__version__",
    "check_file",
    "errors",
    "load",
    "run_file",
    "share_weights",
    "tune",
    "zoo_names",
]


install()  # of old import paths


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
