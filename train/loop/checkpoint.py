"""Checkpoints: weights, configuration and metrics in one file that rebuilds its own model.

Read with ``torch.load(weights_only=True)``, which unpickles tensors and plain containers and nothing else; what it
refuses (a pickle that would run code) is refused here in one line.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from onnxferry.runtime.errors import CheckpointError, CheckpointNotFoundError, InputError, first_line
from onnxferry.runtime.files import written_whole
from onnxferry.runtime.kinds import FAMILIES

Config = TypeVar("Config")


SCHEMA = 1


EXPECTED = "the file is damaged or was changed; give the best.pt of a run of onnxferry train"


MAX_BYTES = 4 * 2**30  # a checkpoint's members, unpacked; a larger one is taken for a zip bomb


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The result of a training run, which the exporter reads."""

    family: str  # a name of runtime/kinds.py's FAMILIES
    config: Mapping[str, Any]  # the family's configuration, JSON types only
    weights: Mapping[str, Tensor]  # state dict of the deployed network, on the CPU
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of the validation by which it was chosen, and of the final test
    data: Mapping[str, Any] = field(default_factory=dict)  # name, sha256, source
    provenance: Mapping[str, Any] = field(default_factory=dict)  # command, versions, seed
    examples: Mapping[str, Tensor] = field(default_factory=dict)  # a few held-out inputs, for parity and golden samples
    schema: int = SCHEMA

    def save(self, path: Path) -> None:
        save_atomically({"onnxferry": "checkpoint", **{f: getattr(self, f) for f in self.__dataclass_fields__}}, path)

    def model(self) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU."""
        module = importlib.import_module(FAMILIES[self.family].training)
        self._check_layers()
        try:
            # On "meta" tensors have shapes and no memory: a configuration that claims a huge network costs nothing.
            with torch.device("meta"):
                network: nn.Module = module.model_from_config(self.config)
        except (InputError, ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's configuration makes no network ({error}); {EXPECTED}") from error
        types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
        weights = {name: weight.to(types.get(name, weight.dtype), copy=True) for name, weight in self.weights.items()}
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights do not fit its own configuration: {error}") from error
        return network.eval()

    def _check_layers(self) -> None:
        """Raises CheckpointError if the configuration has more layers than the weights have tensors: building them would take minutes."""
        blocks, depth = self.config.get("blocks", ()), self.config.get("depth", 0)
        counts = [*(blocks if isinstance(blocks, list | tuple) else ()), depth]
        layers = sum(count for count in counts if isinstance(count, int))
        if layers > len(self.weights):
            raise CheckpointError(
                f"the checkpoint's weights do not fit its own configuration: {layers} layers, {len(self.weights)} tensors; {EXPECTED}"
            )

    def example(self, name: str, dtype: torch.dtype, *shape: int | None, at_least: int = 1) -> np.ndarray:
        """An example as an array (n, *shape), None for any size. Raises CheckpointError if it is missing or of another type or shape."""
        found = self.examples.get(name)
        wanted = f"{dtype} ({', '.join(['n', *('any' if size is None else str(size) for size in shape)])}), n >= {at_least}"
        if found is None:
            raise CheckpointError(f"the checkpoint has no examples {name!r}, {wanted}; {EXPECTED}")
        fits = found.ndim == 1 + len(shape) and all(size in (None, real) for size, real in zip(shape, found.shape[1:], strict=True))
        if found.layout != torch.strided or found.device.type != "cpu":
            raise CheckpointError(f"the checkpoint's examples {name!r} are {found.layout} on {found.device}, not {wanted}; {EXPECTED}")
        if found.dtype != dtype or not fits or len(found) < at_least or not found.numel():
            raise CheckpointError(f"the checkpoint's examples {name!r} are {found.dtype} {tuple(found.shape)}, not {wanted}; {EXPECTED}")
        array: np.ndarray = found.numpy()
        return array


def save_atomically(content: object, path: Path) -> None:
    """torch.save, atomically: if the process is killed meanwhile, the older file remains."""
    # In memory first: torch reports a full disk as a fault of its own, without the system's words.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with written_whole(path) as part:
        part.write_bytes(buffer.getbuffer())


def config_from(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A family's configuration, a dataclass, from a checkpoint's.

    Raises CheckpointError for a key that is unknown, missing or of another type.
    """
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    needed = {f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - set(values)):
        raise CheckpointError(f"the checkpoint's configuration lacks {missing[0]!r}; {EXPECTED}")
    if unknown := sorted(set(values) - {f.name for f in fields}, key=str):
        raise CheckpointError(
            f"the checkpoint's configuration has {unknown[0]!r}, which this version does not know: "
            "pip install -U onnxferry, or give a checkpoint that this version made"
        )
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            wanted = getattr(hints[name], "__name__", "") if isinstance(hints[name], type) else str(hints[name])
            raise CheckpointError(f"the checkpoint's configuration has {name} = {value!r:.60}, expected {wanted}; {EXPECTED}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _is_of(value: object, hint: Any) -> bool:
    """True if a value of a JSON type is of a field's declared type: bool, int, float, str, or a tuple of those."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list | tuple):
            return False
        kinds = (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds
        return len(kinds) == len(value) and all(_is_of(each, one) for each, one in zip(value, kinds, strict=True))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def load_plain(path: Path) -> dict[str, Any]:
    """The dict in a .pt file: tensors and plain containers only. Raises CheckpointError for anything else."""
    if not path.exists():
        raise CheckpointNotFoundError(f"no checkpoint at {path}; train one with: onnxferry train cnn --out {path.parent}", path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise CheckpointError(f"{path.name} unpacks to {size} bytes, more than the {MAX_BYTES} that are read")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds more than weights (it could run code when read) and was refused; expected a checkpoint made by onnxferry "
            "train; of a model of your own save the weights, torch.save(model.state_dict(), FILE), and export it with onnxferry export "
            "pkg.module:make_model --weights FILE"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path.name} is not a readable checkpoint: {reason}; expected one made by onnxferry train") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, not a checkpoint made by onnxferry train")
    return content


def load_checkpoint(path: str | os.PathLike[str], family: str | None = None) -> Checkpoint:
    """The checkpoint at ``path`` (a .pt file, or a run folder holding best.pt).

    ``family``: the one that is expected. Raises CheckpointError for a missing, broken, unsafe, newer or foreign file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    content = load_plain(path)
    if content.get("onnxferry") != "checkpoint":
        raise CheckpointError(
            f"{path.name} is not a checkpoint of onnxferry's: give the best.pt of a run folder, "
            "or export your own model with onnxferry export pkg.module:make_model --weights FILE"
        )
    schema = content.get("schema")
    if type(schema) is not int or schema > SCHEMA:
        raise CheckpointError(f"{path.name} has schema {schema}, this version reads up to {SCHEMA}: pip install -U onnxferry")
    found = content.get("family")
    if not isinstance(found, str) or found not in FAMILIES:
        raise CheckpointError(f"{path.name} is of the unknown family {found!r}; this version knows {', '.join(FAMILIES)}")
    if family is not None and found != family:
        raise CheckpointError(f"{path.name} is a checkpoint of the family {found!r}, not {family!r}")
    for field_name in Checkpoint.__dataclass_fields__:
        if field_name not in content:
            raise CheckpointError(f"{path.name} lacks {field_name!r}: not a complete checkpoint of onnxferry's")
        if field_name not in ("family", "schema"):
            _check_part(path.name, field_name, content[field_name], tensors=field_name in ("weights", "examples"))
    return Checkpoint(**{name: content[name] for name in Checkpoint.__dataclass_fields__})


def _check_part(file: str, part: str, found: object, tensors: bool) -> None:
    """Raises CheckpointError unless ``found`` is a dict with string keys: of tensors, or of JSON types."""
    wanted = "tensors by name" if tensors else "plain values by name"
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{file} has {part} of the type {type(found).__name__}, expected {wanted}; {EXPECTED}")
    if tensors:
        odd = next((name for name, value in found.items() if not isinstance(value, Tensor)), None)
        if odd is not None:
            raise CheckpointError(f"{file} has a {type(found[odd]).__name__} as {part} {odd!r}, expected {wanted}; {EXPECTED}")
        _check_tensors(file, part, found)
        return
    try:
        json.dumps(found)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} has {part} that are no plain values ({error}); {EXPECTED}") from error


def _check_tensors(file: str, part: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError for tensors without memory of their own size: sparse, on "meta", or one number repeated (stride 0)."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.device.type != "cpu":
            what = f"a tensor of layout {tensor.layout} on {tensor.device}"
        elif tensor.nbytes > tensor.untyped_storage().nbytes():
            what = f"{tensor.nbytes} bytes out of a storage of {tensor.untyped_storage().nbytes()}"
        else:
            continue
        raise CheckpointError(f"{file} has {what} as {part} {name!r}, expected a dense tensor; {EXPECTED}")
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > MAX_BYTES:
        raise CheckpointError(f"{file} has {part} of {total} bytes, more than the {MAX_BYTES} that are read; {EXPECTED}")
