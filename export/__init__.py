"""onnxferry.export: exports a model to ONNX and verifies that the file does the same.

    from onnxferry.export import export_model, verify_file
    report = export_model(model, example_inputs, "out.onnx", dynamic_shapes={"x": {0: "batch"}})
    report.save("parity.html")
    verify_file("out.onnx", model).passed                 # later, against the model again

Every error is an :class:`onnxferry.runtime.errors.OnnxFerryError`; a file that fails the comparison is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxferry.runtime.errors import ExportError, MissingExtraError, ParityError
from onnxferry.runtime.machine.telemetry import disable_telemetry

if TYPE_CHECKING:
    from onnxferry.export.families.checkpoint import export_checkpoint
    from onnxferry.export.options import ExportOptions
    from onnxferry.export.parity.report import ParityReport
    from onnxferry.export.pipeline.convert import convert_file
    from onnxferry.export.pipeline.export import export_model, export_module
    from onnxferry.export.pipeline.verify import verify_file
    from onnxferry.export.pipeline.wrap import wrap_file
    from onnxferry.export.tasks.image_input import ImageInput


disable_telemetry()  # before onnxslim, skl2onnx or anything else here imports ONNX Runtime


__all__ = [
    "ExportError",
    "ExportOptions",
    "ImageInput",
    "ParityError",
    "ParityReport",
    "convert_file",
    "export_checkpoint",
    "export_model",
    "export_module",
    "verify_file",
    "wrap_file",
]


_LAZY = {
    "convert_file": "onnxferry.export.pipeline.convert",
    "export_checkpoint": "onnxferry.export.families.checkpoint",
    "export_model": "onnxferry.export.pipeline.export",
    "export_module": "onnxferry.export.pipeline.export",
    "ExportOptions": "onnxferry.export.options",
    "ImageInput": "onnxferry.export.tasks.image_input",
    "ParityReport": "onnxferry.export.parity.report",
    "verify_file": "onnxferry.export.pipeline.verify",
    "wrap_file": "onnxferry.export.pipeline.wrap",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that a missing extra is an error with its install line.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("onnx", "onnxscript", "torch", "onnx_ir"):
            raise MissingExtraError(error.name, "export", "export") from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
