"""Files and objects that no source reads: what they are, and the way from them to an ONNX file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from onnxferry.runtime.errors import InputError

WAYS = {
    (
        ".h5",
        ".hdf5",
    ): "is an older file of Keras: save it as .keras, keras.models.load_model({name!r}).save('model.keras'), and export that",
    (".tflite", ".lite"): "is a TensorFlow Lite file: export the Keras model that it was made from, or convert it with tf2onnx "
    "(python -m tf2onnx.convert --tflite {name} --output theirs.onnx) and export theirs.onnx",
    (".pb",): "is a TensorFlow graph: convert it with tf2onnx (python -m tf2onnx.convert --help) and export the .onnx file",
    (
        ".mlmodel",
        ".mlpackage",
        ".engine",
        ".plan",
        ".gguf",
        ".pdmodel",
        ".ckpt-index",
        ".msgpack",
    ): "is a file for another runtime: export the model that it was made from",
    (
        ".safetensors",
    ): "holds weights alone: name what makes the model, and give it as --weights: export pkg.module:make_model --weights {name}",
}
"""Endings, and what to say of a file with one of them."""


PACKAGES = {
    "tensorflow": "save a Keras model as .keras, or convert it with tf2onnx, and export that file",
    "tf_keras": "load it with keras 3 (keras.models.load_model) and export that",
    "paddle": "convert it with paddle2onnx and export the .onnx file",
    "mxnet": "convert it to .onnx with its own exporter and export that file",
    "diffusers": "export its parts, which are torch.nn.Modules: pipeline.unet, for example",
    "onnx": "save it (onnx.save(model, 'theirs.onnx')) and export that file",
    "onnxruntime": "export the .onnx file that the session was opened from",
}
"""Packages of models that no source takes as objects, and the way from them."""


def way_from(model: Any) -> str:
    """``; convert it with …`` for an object of a package that is known, or ""."""
    bases = (model if isinstance(model, type) else type(model)).__mro__
    ways = (PACKAGES.get(base.__module__.partition(".")[0]) for base in bases)
    return next((f"; {way}" for way in ways if way), "")


def refuse_other(path: Path) -> None:
    """Raises InputError for a file or folder that is known not to be exported, with what to do instead."""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            raise InputError(
                f"{path} is a TensorFlow SavedModel: save the Keras model as .keras, or convert it with tf2onnx (python -m tf2onnx.convert "
                f"--saved-model {path} --output theirs.onnx) and export theirs.onnx"
            )
        return
    suffix = path.suffix.lower()
    if path.is_file():
        for endings, words in WAYS.items():
            if suffix in endings:
                raise InputError(f"{path.name} {words.format(name=path.name, stem=path.stem)}")


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of ``torch.jit.save``, whatever its name ends in."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.startswith("code/") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
