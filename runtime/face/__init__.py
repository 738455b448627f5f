"""onnxferry: train a model, export it to ONNX, verify that the file does the same, and run it without torch.

    import onnxferry

    model = onnxferry.load("digits")                      # a shipped model, or a path to an .onnx file
    model.predict("three.png")[0].label

    onnxferry.export_model(network, example, "out.onnx")  # needs pip install 'onnxferry[export]'

Every public name of :mod:`onnxferry.runtime` and :mod:`onnxferry.export` is here too. Each is imported when it is first used,
so that ``import onnxferry`` costs next to nothing. ``__init__.pyi`` beside this file is what type checkers read.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FOLDERS = ("runtime", "export", "train", "demo")


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f"onnxferry.{name}")
    if name == "__all__":
        return sorted({*_public("runtime"), *_public("export")})
    for folder in ("runtime", "export"):
        if name in _public(folder):
            value = getattr(import_module(f"onnxferry.{folder}"), name)
            globals()[name] = value  # found directly from now on
            return value
    raise AttributeError(f"module 'onnxferry' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FOLDERS, *_public("runtime"), *_public("export")})


def _public(folder: str) -> list[str]:
    names: list[str] = import_module(f"onnxferry.{folder}").__all__
    return names
