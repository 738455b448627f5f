"""A state dict from a file, loaded into a PyTorch module."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from onnxferry.runtime.errors import CheckpointError, CheckpointNotFoundError, InputError, MissingExtraError, first_line


def load_weights(module: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a state dict, .safetensors or .pt, into the module; every name and shape must fit.

    A .pt file is read with ``weights_only``: it may hold tensors and no code. Raises CheckpointError, and InputError for what is no
    module.
    """
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"weights are loaded into a torch.nn.Module; a {type(module).__name__} has its own: leave the option weights out")
    file = Path(path)
    if not file.is_file():
        raise CheckpointNotFoundError(f"there is no file {path}; --weights takes a state dict, .safetensors or .pt", path)
    state = _state_dict(file)
    names = set(module.state_dict())
    if not any(_COMPILED in name for name in names):  # of the whole model, or of parts of it
        state = {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}
    if state and all(name.startswith("module.") for name in state) and not any(name.startswith("module.") for name in names):
        # Saved from DataParallel or DistributedDataParallel.
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    missing, unexpected = sorted(names - set(state)), sorted(set(state) - names)
    if missing or unexpected:
        counts = [_counted("missing", missing)] if missing else []
        counts += [_counted("unexpected", unexpected)] if unexpected else []
        raise CheckpointError(f"{file.name} does not fit the model, which has {len(names)} tensors: {', '.join(counts)}")
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        line = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), first_line(error)[:300])
        raise CheckpointError(f"{file.name} does not fit the model: {line}") from error


def _state_dict(file: Path) -> Mapping[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ModuleNotFoundError as error:
            raise MissingExtraError("safetensors", "export", "reading .safetensors files") from error
        try:
            return dict(load_file(file))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file.name} is not a .safetensors file: {first_line(error)[:300]}") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file.name} holds more than tensors, and loading it could run code; "
            "save the weights alone with torch.save(model.state_dict(), …) or as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file.name} is not a file of torch.save: {first_line(error)[:300]}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        # Training scripts save it together with their own state.
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{file.name} does not hold a state dict; save one with torch.save(model.state_dict(), …)")
    return state


_COMPILED = "_orig_mod."
"""What torch.compile puts into the names of a module."""


def _counted(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({'first ' if len(names) > 1 else ''}{names[0]!r})"


def differ(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models of one factory hold other weights."""
    if not isinstance(model, torch.nn.Module) or not isinstance(other, torch.nn.Module):
        return False
    ours, theirs = model.state_dict(), other.state_dict()
    if ours.keys() != theirs.keys():
        return False
    tensors = [(ours[name], theirs[name]) for name in ours if isinstance(ours[name], torch.Tensor)]
    return any(a.shape == b.shape and not torch.equal(a.cpu(), b.cpu()) for a, b in tensors)
