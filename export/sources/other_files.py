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
    (".pb",): "is a TensorFlow graph: name the SavedModel folder that it is in (saved_model.pb), or convert a frozen graph with tf2onnx "
    "(python -m tf2onnx.convert --help) and export the .onnx file",
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
    """Raises InputError for a file that is known not to be exported, with what to do instead."""
    suffix = path.suffix.lower()
    if path.is_file():
        for endings, words in WAYS.items():
            if suffix in endings:
                raise InputError(f"{path.name} {words.format(name=path.name, stem=path.stem)}")


def is_saved_model(path: Path) -> bool:
    """Whether a folder is one that ``tf.saved_model.save`` made."""
    return path.is_dir() and ((path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file())


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of ``torch.jit.save``, whatever its name ends in."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.startswith("code/") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
