"""A model repository for Triton Inference Server: the files in its layout, and a configuration with batching.

    DIR/digits/config.pbtxt
    DIR/digits/1/model.onnx

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto and
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.batcher import Batcher
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_text_whole
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.server.options import ModelSource
from onnxferry.runtime.server.tensors import datatype_of

MAX_BATCH = 32

DELAY = 5000
"""Microseconds that a request waits for others at most."""


def write_triton(folder: Path, source: ModelSource) -> Path:
    """Writes one version of a model into the repository ``folder``. Returns the model's folder.

    Inputs whose default is in the contract are listed, as Triton's clients must give them: its backend knows no contract. Those whose
    default is in the graph are left out: it knows required inputs only, and they keep their defaults. Raises
    InputError for a model with a required input or an output that Triton has no type for, and where the version exists already.
    """
    path = find_model(source.source)
    model = folder / source.name
    version = model / source.version
    if version.exists():
        raise InputError(f"{version} exists already; remove it, or give another version as NAME:VERSION=FILE")
    with Engine(path, device="cpu", threads=1) as engine:
        text = configuration(source.name, engine)
        labels = engine.contract.labels if engine.contract else ()
    version.mkdir(parents=True)
    for file in (path, *describe(path).summary.weight_files(path)):
        # Weights beside the file are found by their own names.
        shutil.copyfile(file, version / ("model.onnx" if file == path else file.relative_to(path.parent)))
    if labels:
        write_text_whole(model / "labels.txt", "\n".join(labels) + "\n")
    write_text_whole(model / "config.pbtxt", text)
    return model


def configuration(name: str, engine: Engine) -> str:
    """The model's ``config.pbtxt``: batching where requests can be merged, none elsewhere."""
    try:
        Batcher(engine, max_batch_size=MAX_BATCH).close()
        merged = True
    except InputError:
        merged = False
    labels = engine.contract.labels if engine.contract else ()
    filled = engine.contract.defaults if engine.contract else {}
    inputs = (*engine.inputs, *(spec for spec in engine.optional_inputs if spec.name in filled))
    merged = merged and all(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs)
    lines = [f"name: {json.dumps(name)}", 'backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH if merged else 0}"]
    lines += _tensors("input", inputs, merged, "")
    lines += _tensors("output", engine.outputs, merged, "probabilities" if labels else "")
    if merged:
        lines += ["dynamic_batching {", f"  max_queue_delay_microseconds: {DELAY}", "}"]
    return "\n".join(lines) + "\n"


def _tensors(role: str, specs: Sequence[TensorSpec], merged: bool, labelled: str) -> list[str]:
    lines = []
    for spec in specs:
        datatype = datatype_of(spec)
        if datatype is None or not spec.ranked:
            if role == "output":
                continue  # Triton serves the others
            raise InputError(f"input {spec.name!r} is {spec.dtype}, which Triton has no type for, or its rank is open")
        sizes: list[Any] = [size if isinstance(size, int) else -1 for size in spec.shape[int(merged) :]]
        shape = ", ".join(map(str, sizes)) if sizes else "1"
        lines += [f"{role} {{", f"  name: {json.dumps(spec.name)}", f"  data_type: TYPE_{'STRING' if datatype == 'BYTES' else datatype}"]
        lines.append(f"  dims: [ {shape} ]")
        if not sizes:  # a scalar, or one number a row: Triton's dims cannot be empty
            lines.append("  reshape: { shape: [ ] }")
        if spec.name == labelled:
            lines.append('  label_filename: "labels.txt"')
        lines.append("}")
    return lines
