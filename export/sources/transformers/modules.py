"""What is exported of a transformers model: modules whose inputs and outputs are tensors by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class TextModel(torch.nn.Module):
    """ids and masks (batch, time) in; ``finish`` makes the outputs of the model's own."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.finish(self.model(input_ids=input_ids, attention_mask=attention_mask, **types), attention_mask)

    def finish(self, found: Any, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


class Logits(TextModel):
    """One row of numbers a text."""

    def finish(self, found: Any, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": found.logits}


class Tags(TextModel):
    """A class for each token: ``probabilities`` (batch, time, classes) and ``class_index`` (batch, time)."""

    def finish(self, found: Any, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probabilities": torch.softmax(found.logits, dim=-1), "class_index": found.logits.argmax(dim=-1)}


class Embedding(TextModel):
    """``embedding`` (batch, size): the mean of the tokens' states, the first one, or their largest values.

    As sentence-transformers' Pooling and Normalize (https://sbert.net/docs/package_reference/sentence_transformer/models.html).
    """

    def __init__(self, model: torch.nn.Module, pooling: str, normalize: bool) -> None:
        super().__init__(model)
        self.pooling, self.normalize = pooling, normalize

    def finish(self, found: Any, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = found.last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "max":
            pooled = states.masked_fill(mask == 0, torch.finfo(states.dtype).min).amax(dim=1)
        else:
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return {"embedding": torch.nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled}


class Decoder(torch.nn.Module):
    """A causal language model with its cache as inputs and outputs.

    ``input_ids`` (batch, time) follow what the cache holds, ``past_key_values_N.key`` and ``.value`` (batch, heads, past, size); out come
    ``logits`` (batch, time, vocabulary) and the longer cache ``present.N.key``, ``present.N.value``. All rows are equally long.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layers = int(model.config.num_hidden_layers)
        # transformers renamed the argument in 5.24.
        self.argument = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def forward(self, input_ids: torch.Tensor, past: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from transformers import DynamicCache

        cache = DynamicCache([(past[f"{layer}_key"], past[f"{layer}_value"]) for layer in range(self.layers)])
        found = self.model(input_ids=input_ids, use_cache=True, **{self.argument: cache})
        made = {"logits": found.logits}
        layers: Any = cache.layers
        for number, layer in enumerate(layers):
            made[f"present_{number}_key"], made[f"present_{number}_value"] = layer.keys, layer.values
        return made


class Vision(torch.nn.Module):
    """Pixels (batch, channels, height, width) in: logits of classes, or the states that the model gives."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.model(pixel_values=pixel_values)
        logits = getattr(found, "logits", None)
        if logits is not None:
            return {"logits": logits}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
