"""Checkpoints: weights, configuration and metrics in one file that rebuilds its own model.

Read with ``torch.load(weights_only=True)``, which unpickles tensors and plain containers and nothing else; what it
refuses (a pickle that would run code) is refused here in one line.
"""

from __future__ import annotations

import importlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxferry.runtime.errors import CheckpointError
from onnxferry.runtime.whole_file import written_whole

SCHEMA = 1

FAMILIES = {
    "cnn": "onnxferry.train.cnn",
    "rnn": "onnxferry.train.rnn",
    "ae": "onnxferry.train.autoencoder",
    "gan": "onnxferry.train.gan",
}
"""Family → the module whose ``model_from_config(config)`` rebuilds its network."""

MAX_BYTES = 4 * 2**30  # a checkpoint's members, unpacked; a larger one is taken for a zip bomb


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What training leaves behind for the exporter."""

    family: str
    config: Mapping[str, Any]  # the family's configuration, JSON types only
    weights: Mapping[str, Tensor]  # state dict of the deployed network, on the CPU
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of the validation that chose it, and of the final test
    data: Mapping[str, Any] = field(default_factory=dict)  # name, sha256, source
    provenance: Mapping[str, Any] = field(default_factory=dict)  # command, versions, seed
    examples: Mapping[str, Tensor] = field(default_factory=dict)  # a few held-out inputs, for parity and golden samples
    schema: int = SCHEMA

    def save(self, path: Path) -> None:
        save_atomically({"onnxferry": "checkpoint", **{f: getattr(self, f) for f in self.__dataclass_fields__}}, path)

    def model(self) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU."""
        module = importlib.import_module(FAMILIES[self.family])
        network: nn.Module = module.model_from_config(self.config)
        try:
            network.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights do not fit its own configuration: {error}") from error
        return network.eval()


def save_atomically(content: object, path: Path) -> None:
    """torch.save, whole or not at all: a kill in between leaves the older file."""
    with written_whole(path) as part:
        torch.save(content, part)


def load_plain(path: Path) -> dict[str, Any]:
    """The dict in a .pt file: tensors and plain containers only. Raises CheckpointError for anything else."""
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}; train one with: onnxferry train cnn --out {path.parent}")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise CheckpointError(f"{path.name} unpacks to {size} bytes, more than the {MAX_BYTES} that are read")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds more than weights (it could run code when read) and was refused; "
            "expected a checkpoint made by onnxferry train"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path.name} is not a readable checkpoint: {reason}; expected one made by onnxferry train") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, not a checkpoint made by onnxferry train")
    return content


def load_checkpoint(path: str | os.PathLike[str], family: str | None = None) -> Checkpoint:
    """The checkpoint at ``path`` (a .pt file, or a run folder holding best.pt).

    ``family``: the only one that will do. Raises CheckpointError for a missing, broken, unsafe, newer or foreign file.
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
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(f"{path.name} has schema {schema}, this version reads up to {SCHEMA}: pip install -U onnxferry")
    found = content.get("family")
    if found not in FAMILIES:
        raise CheckpointError(f"{path.name} is of the unknown family {found!r}; this version knows {', '.join(FAMILIES)}")
    if family is not None and found != family:
        raise CheckpointError(f"{path.name} is a checkpoint of the family {found!r}, not {family!r}")
    try:
        return Checkpoint(**{name: content[name] for name in Checkpoint.__dataclass_fields__})
    except KeyError as error:
        raise CheckpointError(f"{path.name} lacks {error.args[0]!r}: not a complete checkpoint of onnxferry's") from error
