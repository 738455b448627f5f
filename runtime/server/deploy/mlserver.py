"""MLServer's settings for a model: ``DIR/NAME/model-settings.json``, with the file beside it, for the class in ``mlserver_runtime``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_text_whole
from onnxferry.runtime.server.options import ModelSource

IMPLEMENTATION = "onnxferry.runtime.server.deploy.mlserver_runtime.OnnxFerryModel"


def write_mlserver(folder: Path, source: ModelSource) -> Path:
    """Writes one model's folder and returns it. Raises InputError where it exists already."""
    path = find_model(source.source)
    model = folder / source.name
    if model.exists():
        raise InputError(f"{model} exists already; remove it, or give another name as NAME=FILE")
    model.mkdir(parents=True)
    for file in (path, *describe(path).summary.weight_files(path)):
        shutil.copyfile(file, model / ("model.onnx" if file == path else file.relative_to(path.parent)))
    settings = {
        "name": source.name,
        "implementation": IMPLEMENTATION,
        "parameters": {"uri": "./model.onnx", "version": source.version},
    }
    write_text_whole(model / "model-settings.json", json.dumps(settings, indent=2) + "\n")
    return model
