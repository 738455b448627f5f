"""The plan of a model folder: which module is exported, with which example, and what its file declares."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import Plan
from onnxferry.export.sources.pytorch.plan import plans as torch_plans
from onnxferry.export.sources.transformers.folder import ModelFolder, load_model, open_folder
from onnxferry.export.sources.transformers.images import image_of
from onnxferry.export.sources.transformers.modules import Decoder, Embedding, Logits, Tags, TextModel, Vision
from onnxferry.export.sources.transformers.tokenizer import ExportedTokenizer, tokenizer_of
from onnxferry.export.tasks.plans import task_plans
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import MODEL, TEXT_CLASSIFIER, TEXT_DECODER, TEXT_EMBEDDER, TEXT_TAGGER, Kind

BATCH, TIME, PAST = 2, 7, 5
SEED = 11


def plans(path: Path, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``example_inputs`` is None: ids are drawn from the model's vocabulary, images as for every model of images."""
    folder = open_folder(path)
    model: Any = load_model(folder)
    if model.main_input_name == "pixel_values":
        plan = _of_images(folder, model, options, target)
    elif folder.architecture.endswith(("ForCausalLM", "LMHeadModel")):
        plan = _decoder(folder, model, options, target)
    else:
        plan = _encoder(folder, model, options, target)
    source = plan.source
    if isinstance(source.notes, list):
        source.notes.extend(folder.notes)
    contract = plan.contract or Contract(kind=MODEL.name, name="")
    made_by = {
        "framework": "transformers",
        "model": folder.architecture or type(model).__name__,
        "versions": {"torch": str(torch.__version__), "transformers": str(transformers.__version__)},
    }
    return [dataclasses.replace(plan, contract=contract.replace(provenance={**contract.provenance, **made_by}))]


def _encoder(folder: ModelFolder, model: Any, options: ExportOptions, target: Path) -> Plan:
    architecture, labels = folder.architecture, folder.labels
    note = ""
    module: TextModel
    kind: Kind = MODEL
    asked: ExportOptions = options
    if architecture.endswith("ForSequenceClassification"):
        module = Logits(model)
        if len(labels) > 1:
            several = folder.config.get("problem_type") == "multi_label_classification"
            kind = TEXT_CLASSIFIER
            asked = dataclasses.replace(options, labels=list(labels), activation="sigmoid" if several else "softmax")
    elif architecture.endswith("ForTokenClassification"):
        module, kind = Tags(model), TEXT_TAGGER
    elif architecture.endswith("Model") or not architecture:
        pooling, normalize, note = _pooling(folder)
        module, kind = Embedding(model, pooling, normalize), TEXT_EMBEDDER
    else:
        module = TextModel(model)
    tokenizer = tokenizer_of(folder, _positions(folder))
    ids = np.random.default_rng(SEED).integers(0, int(model.config.vocab_size), (BATCH, TIME))
    mask = np.ones((BATCH, TIME), np.int64)
    mask[1, TIME - 2 :] = 0
    examples = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if int(folder.config.get("type_vocab_size") or 0) > 1:
        examples["token_type_ids"] = torch.from_numpy((np.arange(TIME) >= TIME - 3).astype(np.int64)[None].repeat(BATCH, 0))
    axes = {name: {0: "batch", 1: "time"} for name in examples}

    def make(_: Any, plain: ExportOptions) -> Sequence[Plan]:
        return torch_plans(module.eval(), examples, dataclasses.replace(plain, dynamic_shapes=axes), target)

    (plan,) = task_plans(make, "torch", None, asked) if asked is not options else make(None, options)
    notes = [note] if note else []
    named = labels if kind in (TEXT_CLASSIFIER, TEXT_TAGGER) else ()
    return _with_tokenizer(plan, kind if tokenizer else MODEL, named, tokenizer, target, notes)


def _decoder(folder: ModelFolder, model: Any, options: ExportOptions, target: Path) -> Plan:
    config = model.config
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    layers = int(config.num_hidden_layers)
    draws = torch.Generator().manual_seed(SEED)
    names = [f"{layer}_{part}" for layer in range(layers) for part in ("key", "value")]
    examples = {
        "input_ids": torch.randint(0, int(config.vocab_size), (BATCH, 3), generator=draws),
        "past": {name: torch.randn(BATCH, heads, PAST, size, generator=draws) for name in names},
    }
    axes = {"input_ids": {0: "batch", 1: "time"}, "past": {name: {0: "batch", 2: "past"} for name in names}}
    (plan,) = torch_plans(Decoder(model).eval(), examples, dataclasses.replace(options, dynamic_shapes=axes), target)
    # The first call: there is no past. Also what the file is checked with on other machines.
    first = {name: np.asarray(array) for name, array in plan.source.examples.items()}
    empty = {name: array[:, :, :0] if array.ndim == 4 else array for name, array in first.items()}
    plan = dataclasses.replace(plan, samples={**plan.samples, "the first call, without a past": empty})
    tokenizer = tokenizer_of(folder, _positions(folder))
    known = {"cache": {"layers": layers, "heads": heads, "size": size}, "end": _ends(folder)}
    return _with_tokenizer(plan, TEXT_DECODER if tokenizer else MODEL, (), tokenizer, target, (), known)


def _ends(folder: ModelFolder) -> list[int]:
    """The tokens that end a text."""
    found = folder.json("generation_config.json").get("eos_token_id", folder.config.get("eos_token_id"))
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, int)]


def _of_images(folder: ModelFolder, model: Any, options: ExportOptions, target: Path) -> Plan:
    image = image_of(folder)
    labels = list(folder.labels) if folder.architecture.endswith("ForImageClassification") and len(folder.labels) > 1 else None
    asked = dataclasses.replace(options, image=image, labels=labels, activation="softmax" if labels else "auto")

    def make(pixels: Any, plain: ExportOptions) -> Sequence[Plan]:
        return torch_plans(Vision(model).eval(), tuple(map(torch.from_numpy, pixels)), plain, target)

    (plan,) = task_plans(make, "torch", None, asked)
    return plan


def _pooling(folder: ModelFolder) -> tuple[str, bool, str]:
    """How a text becomes one vector, whether it is normalized, and a note where the folder does not say."""
    found = folder.json("1_Pooling", "config.json")
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
    if not found:
        return "mean", False, "the folder does not say how a text becomes one vector (1_Pooling/config.json): the mean of its tokens"
    chosen = [name for name, key in modes.items() if found.get(key)]
    others = [key for key, value in found.items() if key.startswith("pooling_mode") and value is True and key not in modes.values()]
    if len(chosen) != 1 or others:
        raise InputError(
            f"{folder.path / '1_Pooling/config.json'} asks for {', '.join([*chosen, *others])}; one of cls, mean, max is exported"
        )
    return chosen[0], (folder.path / "2_Normalize").is_dir() or "Normalize" in str(_modules(folder)), ""


def _modules(folder: ModelFolder) -> str:
    path = folder.path / "modules.json"
    return path.read_text(encoding="utf-8", errors="replace")[:65536] if path.is_file() else ""


def _positions(folder: ModelFolder) -> int | None:
    for key in ("max_position_embeddings", "n_positions"):
        found = folder.config.get(key)
        if isinstance(found, int) and found > 0:
            return found - (2 if "roberta" in str(folder.config.get("model_type")) else 0)  # its positions begin after the padding's
    return None


def _with_tokenizer(
    plan: Plan,
    kind: Kind,
    labels: Sequence[str],
    tokenizer: ExportedTokenizer | None,
    target: Path,
    notes: Sequence[str] = (),
    known: Mapping[str, Any] | None = None,
) -> Plan:
    contract = plan.contract or Contract(kind=MODEL.name, name="")
    options = {**contract.options, **(known or {})}
    more = list(notes)
    beside = {}
    if tokenizer is None:
        more.append("the folder has no tokenizer: the file takes ids of tokens, and no text")
    else:
        name = f"{target.stem}.tokenizer.json"
        payload = tokenizer.text.encode()
        beside[name] = payload
        digest = hashlib.sha256(payload).hexdigest()
        options["tokenizer"] = {"file": name, "sha256": digest, "max_length": tokenizer.max_length, "pad_id": tokenizer.pad_id}
    if isinstance(plan.source.notes, list):
        plan.source.notes.extend(more)
    return dataclasses.replace(
        plan, contract=contract.replace(kind=kind.name, labels=tuple(labels) or contract.labels, options=options), beside=beside
    )
