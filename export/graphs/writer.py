"""Writes an artifact: graph and contract into one .onnx file, all of it or nothing.

The file is written under a temporary name in the same folder, opened and replayed from there, and only then given its
name, so that an older file stays whole, its weights included, until a good new one is there. Equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from onnxferry.export.graphs.nodes import EXTERNAL_DATA_BYTES, weight_bytes
from onnxferry.export.graphs.reading import take_out
from onnxferry.runtime.artifact.contract import SCHEMA, Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError, InputError, OnnxFerryError
from onnxferry.runtime.onnx_file.reader import file_sha256, read_model

# Tensors smaller than this stay in the .onnx file also then: shapes and constants that runtimes fold.
EXTERNAL_TENSOR_BYTES = 1024


LEFTOVER_SECONDS = 3600.0
"""Temporary files that are older were left by a process that was killed; younger ones may be another's that is writing."""


def write_artifact(
    model: onnx.ModelProto,
    contract: Contract | None,
    path: str | os.PathLike[str],
    *,
    verify: Callable[[Path], None] | None = None,
    external_data_bytes: int | None = None,
) -> int:
    """Write ``model`` with ``contract`` to ``path`` and return the file's size in bytes, weights beside it included.

    Defaults of inputs go from the graph into the contract; without a contract they stay where they are.
    ``verify`` is called with the temporary file before it gets its name; what it raises, this raises, and nothing is
    left. Models of more than ``external_data_bytes`` (None: EXTERNAL_DATA_BYTES) get their weights in a second
    file, named by its content, ``<name>.<12 hex digits>.data``: renaming the .onnx file alone decides which weights belong to it, and
    those of the file that it replaces are removed afterwards.
    Raises ExportError where the file cannot be written.
    """
    target = checked_target(path)
    finished = onnx.ModelProto()
    finished.CopyFrom(model)
    del finished.metadata_props[:]
    if contract is not None:
        # Last, after every pass: tools that rewrite graphs are known to drop it.
        contract = contract.replace(defaults=take_out(finished), schema=SCHEMA)
        onnx.helper.set_model_props(finished, metadata_from_contract(contract))
    token = secrets.token_hex(6)
    temporary = target.with_name(f".{target.name}.{token}.tmp")
    temporary_data = target.with_name(f".{target.name}.data.{token}.tmp")
    older = _own_weights(target)
    new_data: Path | None = None
    _remove_leftovers(target)
    external = weight_bytes(finished) > (EXTERNAL_DATA_BYTES if external_data_bytes is None else external_data_bytes)
    try:
        if external:
            _write_weights(finished, temporary_data)
            _refer_to(finished, temporary_data.name)
        _write(temporary, finished.SerializeToString(deterministic=True))
        if verify is not None:
            verify(temporary)
        size = 0
        if external:
            size = temporary_data.stat().st_size
            data = target.with_name(f"{target.name}.{file_sha256(temporary_data)[:12]}.data")
            _refer_to(finished, data.name)
            _write(temporary, finished.SerializeToString(deterministic=True))
            if not data.exists():
                new_data = data
            temporary_data.replace(data)
            older.discard(data)
        size += temporary.stat().st_size
        temporary.replace(target)
    except BaseException as error:
        if new_data is not None:
            with contextlib.suppress(OSError):
                new_data.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ExportError(f"cannot write {target.name}: {error.strerror or error}; nothing was left behind") from error
        raise
    finally:
        for leftover in (temporary, temporary_data):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
    for data in older:
        with contextlib.suppress(OSError):
            data.unlink(missing_ok=True)
    return size


def _own_weights(target: Path) -> set[Path]:
    """The weight files of the .onnx file at ``target`` that were written with it: those that are named after it."""
    named = re.compile(re.escape(target.name) + r"(\.[0-9a-f]{12})?\.data")
    try:
        files = read_model(target).weight_files(target) if target.exists() else []
    except OnnxFerryError:  # no model at all
        return set()
    return {file for file in files if file.parent == target.parent and named.fullmatch(file.name)}


def _remove_leftovers(target: Path) -> None:
    """Temporary files of this target whose process was killed: they are as large as the model."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - LEFTOVER_SECONDS:
                path.unlink()


def checked_target(path: str | os.PathLike[str]) -> Path:
    """The path, if an artifact can be written there. Asked before the work starts, so that an hour's export is not lost."""
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise InputError(f"an artifact's name must end in .onnx, got {target.name!r}")
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist: make it, or give another place")
    if not os.access(target.parent, os.W_OK):
        raise ExportError(f"cannot write to the folder {target.parent}: permission denied")
    return target


@contextlib.contextmanager
def opened(model: onnx.ModelProto, *, external_data_bytes: int | None = None) -> Iterator[Engine]:
    """The graph in ONNX Runtime on the CPU, as users will open it; weights go through a temporary folder where they are too
    many for one message. Raises as :class:`Engine` does.
    """
    limit = EXTERNAL_DATA_BYTES if external_data_bytes is None else external_data_bytes
    if weight_bytes(model) <= limit:
        with Engine(model.SerializeToString(deterministic=True), device="cpu") as engine:
            yield engine
        return
    with tempfile.TemporaryDirectory(prefix="onnxferry-") as folder:
        path = Path(folder).resolve() / "model.onnx"
        write_artifact(model, None, path, external_data_bytes=limit)
        with Engine(path, device="cpu") as engine:
            yield engine


def check_valid(model: onnx.ModelProto) -> None:
    """onnx's own checker. Raises its ValidationError or ValueError."""
    if weight_bytes(model) <= EXTERNAL_DATA_BYTES:
        onnx.checker.check_model(model)
        return
    # Too large for its checker as one message. Structure is what it looks at: a copy keeps shapes, and its weights lie "outside".
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    with tempfile.TemporaryDirectory(prefix="onnxferry-") as folder:
        path = Path(folder) / "model.onnx"
        data = path.with_name("model.data")
        _write_weights(bare, data)
        _refer_to(bare, data.name)
        path.write_bytes(bare.SerializeToString())
        onnx.checker.check_model(path)


def _write(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        # A rename before the data is on the disk can leave an empty file after a power cut.
        os.fsync(file.fileno())


def _write_weights(model: onnx.ModelProto, path: Path) -> None:
    """Moves large weights of the main graph into ``path``, each at a multiple of 4,096 bytes so that it can be mapped."""
    with path.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.STRING:
                continue
            if not tensor.HasField("raw_data"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
            raw = tensor.raw_data
            if len(raw) < EXTERNAL_TENSOR_BYTES:
                continue
            tensor.ClearField("raw_data")  # two copies of some gigabytes are enough
            file.write(b"\0" * (-file.tell() % 4096))
            _set_external(tensor, path.name, file.tell(), len(raw))
            file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _set_external(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """As onnx.external_data_helper.set_external_data, which wants to see the bytes."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _refer_to(model: onnx.ModelProto, name: str) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = name
