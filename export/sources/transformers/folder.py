"""What is in a model folder, and the model that transformers makes of it. Nothing in the folder is run, and no pickle is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from onnxferry.runtime.errors import DataError, ExportError, InputError, first_line

CONFIG = "config.json"
MAX_JSON_BYTES = 16 * 2**20
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
OTHERS = ("*.h5", "*.msgpack", "*.gguf", "*.onnx")


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was looked at. ``config``: its config.json."""

    path: Path
    config: Mapping[str, Any]
    architecture: str
    notes: tuple[str, ...] = field(default=())

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by index; empty where the config has none."""
        found = self.config.get("id2label")
        if not isinstance(found, Mapping) or not all(str(key).isdecimal() for key in found):
            return ()
        numbered = {int(key): str(name) for key, name in found.items()}
        return tuple(numbered[key] for key in sorted(numbered)) if sorted(numbered) == list(range(len(numbered))) else ()

    def json(self, *names: str) -> Mapping[str, Any]:
        """Of a JSON file beside the config; empty where it is not there."""
        return _json(self.path.joinpath(*names)) if self.path.joinpath(*names).is_file() else {}


def open_folder(path: Path) -> ModelFolder:
    """Reads the config and looks for weights. Raises InputError for a folder that cannot be exported, with what to do."""
    config = _json(path / CONFIG)
    names = config.get("architectures") or []
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    kind = config.get("model_type")
    own = bool(config.get("auto_map"))
    known = isinstance(kind, str) and kind in transformers.CONFIG_MAPPING and (not architecture or hasattr(transformers, architecture))
    if not known:
        where = "its code lies in the folder, which is never run" if own else f"transformers {transformers.__version__} has no such model"
        raise InputError(
            f"{path} is a model {architecture or kind!r}, and {where}: load it in a function of yours and export that (pkg.module:make)"
        )
    if config.get("is_encoder_decoder"):
        raise InputError(f"{architecture or kind} has an encoder and a decoder: export them one by one, each as a torch.nn.Module")
    if config.get("quantization_config"):
        raise InputError(f"the weights in {path} are quantized: export the model that they were made from, then onnxferry optimize")
    _check_weights(path)
    notes = ("the code in the folder was not run: transformers has this model itself",) if own else ()
    return ModelFolder(path, config, architecture, notes)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} is larger than {MAX_JSON_BYTES} bytes, which no such file is")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no JSON object")
    return found


def _check_weights(path: Path) -> None:
    if any((path / name).is_file() for name in WEIGHTS):
        return
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        raise InputError(
            f"{path} has its weights in {pickles[0]}, a pickle, which may run code when read: save them as safetensors where you trust "
            "them, model.save_pretrained(folder)"
        )
    others = sorted(file.name for pattern in OTHERS for file in path.glob(pattern))
    if others:
        raise InputError(f"{path} has its weights in {others[0]} alone, which is not read here: expected {WEIGHTS[0]}")
    raise InputError(f"{path} has a {CONFIG} and no weights: expected {WEIGHTS[0]} beside it")


def load_model(folder: ModelFolder) -> torch.nn.Module:
    """The model in evaluation mode and float32, from the folder's safetensors alone. Raises ExportError where weights are missing."""
    kind = getattr(transformers, folder.architecture) if folder.architecture else transformers.AutoModel
    logger: Any = transformers.logging
    before = logger.get_verbosity()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            str(folder.path),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise ExportError(
            f"transformers cannot load {folder.path} ({type(error).__name__}: {first_line(error)[:300]}); is it whole?"
        ) from error
    finally:
        logger.set_verbosity(before)
        logger.enable_progress_bar()
    missing = sorted(found.get("missing_keys") or ())
    wrong = sorted(str(each) for each in found.get("mismatched_keys") or ())
    if missing or wrong:
        named = (missing or wrong)[0]
        raise ExportError(
            f"the weights in {folder.path} lack {len(missing) + len(wrong)} of {folder.architecture}, such as {named}: they would be "
            "random numbers; is config.json that of these weights?"
        )
    made: torch.nn.Module = model.eval()
    return made
