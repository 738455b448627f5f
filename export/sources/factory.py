"""A user's own model, from ``pkg.module:make_model`` and a file of weights."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from onnxferry.export.source import is_sklearn
from onnxferry.runtime.errors import CheckpointError, CheckpointNotFoundError, ExportError, InputError, MissingExtraError, first_line

FACTORY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def model_from_factory(factory: str, weights: str | os.PathLike[str] | None = None) -> Any:
    """The model, of PyTorch or scikit-learn, that ``pkg.module:name`` makes or is, with the weights loaded into it.

    The module is looked for in the current folder first, as Python itself does. Raises ExportError where it cannot be
    imported or gives no model, CheckpointError where the weights do not fit.
    """
    if not FACTORY.fullmatch(factory):
        raise InputError(f"{factory!r} is not of the form pkg.module:make_model")
    module_name, _, attribute = factory.partition(":")
    made = _called(_imported(module_name, attribute), factory)
    if isinstance(made, torch.export.ExportedProgram) or is_sklearn(made):
        if weights is not None:
            kind = "a scikit-learn estimator" if is_sklearn(made) else "a torch.export program"
            raise InputError(f"--weights goes with a torch.nn.Module; {kind} carries its own")
        return made
    if not isinstance(made, torch.nn.Module):
        raise ExportError(
            f"{factory} gave a {type(made).__name__}, expected a torch.nn.Module, a torch.export program or a fitted scikit-learn estimator"
        )
    if weights is not None:
        load_weights(made, weights)
    return made


def _imported(module_name: str, attribute: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ExportError(
            f"cannot import {module_name!r} ({type(error).__name__}: {first_line(error)[:300]}); "
            f"run this where `python -c 'import {module_name}'` works"
        ) from error
    finally:
        sys.path.remove(here)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = ", ".join(sorted(n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n)))[:10])
            raise ExportError(f"{module_name!r} has no {attribute!r}; it has {known or 'nothing callable'}")
        found = getattr(found, part)
    return found


def _called(found: Any, factory: str) -> Any:
    if isinstance(found, torch.nn.Module | torch.export.ExportedProgram) or (is_sklearn(found) and not isinstance(found, type)):
        return found
    if not callable(found):
        raise ExportError(f"{factory} is a {type(found).__name__}, expected a function or class that makes the model")
    try:
        return found()
    except Exception as error:
        raise ExportError(
            f"{factory}() fails ({type(error).__name__}: {first_line(error)[:300]}); it must make the model without arguments"
        ) from error


def as_called(model: Any, flat: Mapping[str, torch.Tensor], otherwise: str) -> dict[str, Any]:
    """Flat inputs as ``forward()`` takes them: ``state_0`` and ``state_1``, as a file calls them, are its tuple ``state`` again.

    ``otherwise``: what to say of an input that is no argument of it.
    """
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return dict(flat)  # a program knows its flat inputs; a script has no forward() to look at
    parameters = inspect.signature(model.forward).parameters
    left = dict(flat)
    call: dict[str, Any] = {name: left.pop(name) for name in parameters if name in left}
    for name in sorted(set(parameters) - set(call), key=len, reverse=True):
        inside = {key.removeprefix(f"{name}_"): key for key in left if key.startswith(f"{name}_")}
        if inside:
            call[name] = _nested({part: left.pop(key) for part, key in inside.items()})
    if left and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {**call, **left}
    if left:
        raise InputError(f"the input {next(iter(left))!r} is no argument of the model's forward({', '.join(parameters)}): {otherwise}")
    return call


def _nested(parts: Mapping[str, torch.Tensor]) -> Any:
    """``{"0": a, "1_deep": b}`` → ``(a, {"deep": b})``: names of nested inputs, as the export makes them, read back."""
    if not all(key.partition("_")[0].isdecimal() for key in parts):
        return dict(parts)
    places: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in parts.items():
        place, _, rest = key.partition("_")
        places.setdefault(int(place), {})[rest] = tensor
    return tuple(inner[""] if set(inner) == {""} else _nested(inner) for _, inner in sorted(places.items()))


def only_argument(model: Any, given: Collection[str]) -> str | None:
    """The name of ``forward()``'s first argument, where the one input that is given goes by a name that it does not know."""
    if len(given) != 1 or not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return None
    (name,) = given
    parameters = inspect.signature(model.forward).parameters
    known = any(p.kind is p.VAR_KEYWORD or name == each or name.startswith(f"{each}_") for each, p in parameters.items())
    first = next(iter(parameters.values()), None)
    return None if known or first is None or first.kind is first.VAR_POSITIONAL else first.name


def load_weights(module: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a state dict, .safetensors or .pt, into the module; every name and shape must fit.

    A .pt file is read with ``weights_only``: it may hold tensors and no code. Raises CheckpointError.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointNotFoundError(f"there is no file {path}; --weights takes a state dict, .safetensors or .pt", path)
    state = _state_dict(file)
    names = set(module.state_dict())
    if state and all(name.startswith("module.") for name in state) and not any(name.startswith("module.") for name in names):
        # As DataParallel and DistributedDataParallel save it.
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    missing, unexpected = sorted(names - set(state)), sorted(set(state) - names)
    if missing or unexpected:
        parts = [f"lacks {missing[0]!r}" + _more(missing)] if missing else []
        parts += [f"has {unexpected[0]!r}, which the model has not" + _more(unexpected)] if unexpected else []
        raise CheckpointError(f"{file.name} does not fit the model: it {' and '.join(parts)}")
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
            raise CheckpointError(f"{file.name} is no .safetensors file: {first_line(error)[:300]}") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file.name} holds more than tensors, and loading it could run code that hides in it; "
            "save the weights alone with torch.save(model.state_dict(), …) or as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file.name} is no file of torch.save: {first_line(error)[:300]}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        # As training programs save it, beside their own state.
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{file.name} holds no state dict; save one with torch.save(model.state_dict(), …)")
    return state


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
