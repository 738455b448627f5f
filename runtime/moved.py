"""Import paths that were public under another name: they still work, with a DeprecationWarning that names the new one.

A module that moved is found by a finder, which Python asks only after every other one has failed. Where a package now has the name
of the old module, the package's ``__getattr__`` finds the old module's public names.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

MODULES = {
    "onnxferry.export.against": "onnxferry.export.pipeline.verify",
    "onnxferry.export.artifact_writer": "onnxferry.export.graphs.writer",
    "onnxferry.export.budget": "onnxferry.export.optimize.budget",
    "onnxferry.export.checkpoint_export": "onnxferry.export.families.checkpoint",
    "onnxferry.export.diff": "onnxferry.export.graphs.diff",
    "onnxferry.export.factory": "onnxferry.export.sources.factory",
    "onnxferry.export.input_spec": "onnxferry.export.sources.input_spec",
    "onnxferry.export.model_export": "onnxferry.export.pipeline.export",
    "onnxferry.export.parity_explain": "onnxferry.export.parity.explain",
    "onnxferry.export.parity_report": "onnxferry.export.parity.report",
    "onnxferry.export.reference_bench": "onnxferry.export.bench.race",
    "onnxferry.runtime.catalog": "onnxferry.runtime.artifact.zoo",
    "onnxferry.runtime.cuda_libraries": "onnxferry.runtime.machine.nvidia",
    "onnxferry.runtime.device_arrays": "onnxferry.runtime.engine.cuda.dlpack",
    "onnxferry.runtime.golden": "onnxferry.runtime.engine.replay",
    "onnxferry.runtime.hardware": "onnxferry.runtime.machine.cpu",
    "onnxferry.runtime.labelled": "onnxferry.runtime.evaluation.test_set",
    "onnxferry.runtime.latents": "onnxferry.runtime.tasks.autoencoder",
    "onnxferry.runtime.picture_grid": "onnxferry.runtime.images.grid",
    "onnxferry.runtime.pictures": "onnxferry.runtime.images.decode",
    "onnxferry.runtime.placement": "onnxferry.runtime.engine.placement",
    "onnxferry.runtime.scores": "onnxferry.runtime.evaluation.scores",
    "onnxferry.runtime.text": "onnxferry.runtime.tasks.text_generator",
    "onnxferry.runtime.tune_plan": "onnxferry.runtime.tuning.plan",
    "onnxferry.runtime.tuned_engine": "onnxferry.runtime.tuning.tuned_engine",
    "onnxferry.runtime.untrusted": "onnxferry.runtime.sandbox.jobs",
    "onnxferry.runtime.variants": "onnxferry.runtime.artifact.variants",
}
"""Old module to new."""


GONE = {
    "onnxferry.runtime.tune": "from onnxferry.runtime import tune (the function), or import onnxferry.runtime.tuning.tune (its module)",
}
"""Old module to what to write instead, where the name now stands for something else."""


NAMES = {
    "onnxferry.export.parity": {"ParityReport": "report"},
    "onnxferry.export.sources": {"InputSpec": "..source", "Source": "..source"},
    "onnxferry.runtime.artifact": {"Contract": "contract", "Golden": "contract", "Tolerance": "contract"},
    "onnxferry.runtime.engine": {"Engine": "engine", "TensorSpec": "engine"},
    "onnxferry.runtime.images": {"ImageGenerator": "..tasks.image_generator"},
    "onnxferry.runtime.onnx_file": {"Limits": "summary", "ModelSummary": "summary", "file_sha256": "reader", "read_model": "reader"},
    "onnxferry.runtime.sandbox": {"SandboxLimits": "child"},
    "onnxferry.runtime.tasks": {
        "Classifier": "classifier",
        "Model": "model",
        "Prediction": "classifier",
        "load": "loading",
        "load_as": "loading",
    },
}
"""Package to the names that the module it replaces had, each with its new module, seen from the package."""


def install() -> None:
    """Find modules under their old names from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(cast("Any", _Finder()))


def old_names(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that has the name of an older module."""

    def find(name: str) -> Any:
        place = NAMES[package].get(name)
        if place is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(place if place.startswith("..") else f".{place}", package)
        warnings.warn(f"{package}.{name} is now {module.__name__}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(module, name)

    return find


class _Finder:
    """A finder and a loader by their methods alone: importing their base classes takes as long as all else of the package."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname in GONE:
            raise ModuleNotFoundError(f"there is no module {fullname} any more: {GONE[fullname]}", name=fullname)
        return ModuleSpec(fullname, cast("Any", _OldModule(MODULES[fullname]))) if fullname in MODULES else None


class _OldModule:
    """Loads the module under its new name, and gives that very module."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> None:
        """None: a plain module, which the import system replaces by what stands in ``sys.modules`` afterwards."""

    def exec_module(self, module: ModuleType) -> None:
        warnings.warn(f"{module.__name__} is now {self.new}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(self.new)
