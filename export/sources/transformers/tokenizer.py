"""The folder's tokenizer as one ``tokenizer.json``, which the torch-free ``tokenizers`` reads, compared with transformers' own answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import transformers
from tokenizers import Tokenizer

from onnxferry.export.sources.transformers.folder import ModelFolder
from onnxferry.runtime.errors import ExportError, first_line

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
LONGEST = 8192
"""Tokens of a text, where neither the tokenizer nor the model says a smaller number."""

TEXTS = (
    "The ferry leaves at noon.",
    "What? Not today, she said: it's 3.50 €, isn't it…",
    "",
    "    two  spaces\tand\na line",
    "Überfahrt nach Malmö, 北京欢迎你, привет, 👋🏽",
    "word " * 40,
)
"""Compared one by one and together, with padding."""


@dataclass(frozen=True)
class ExportedTokenizer:
    """``text``: the JSON, with truncation and padding as the model needs them."""

    text: str
    max_length: int
    pad_id: int


def tokenizer_of(folder: ModelFolder, positions: int | None) -> ExportedTokenizer | None:
    """None for a folder without one. ``positions``: the most tokens that the model takes.

    Raises ExportError where transformers cannot read it, or the JSON gives other tokens than transformers.
    """
    if not any((folder.path / name).is_file() for name in FILES):
        return None
    try:
        own = transformers.AutoTokenizer.from_pretrained(str(folder.path), local_files_only=True, trust_remote_code=False)
        made = Tokenizer.from_str(own.backend_tokenizer.to_str())
    except Exception as error:
        raise ExportError(f"the tokenizer in {folder.path} cannot be read ({type(error).__name__}: {first_line(error)[:200]})") from error
    length = min(int(own.model_max_length), positions or LONGEST, LONGEST)
    pad = own.pad_token_id if own.pad_token_id is not None else 0
    made.enable_truncation(length)
    made.enable_padding(pad_id=pad, pad_token=own.pad_token or "", direction="right")
    _compare(made, own, length)
    return ExportedTokenizer(json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":")), length, pad)


def _compare(made: Tokenizer, own: object, length: int) -> None:
    wanted = [_ids(own, text, length) for text in TEXTS]
    together: Sequence[Sequence[int]] = [
        [number for number, kept in zip(each.ids, each.attention_mask, strict=True) if kept] for each in made.encode_batch(list(TEXTS))
    ]
    for text, one, other in zip(TEXTS, wanted, together, strict=True):
        if list(one) != list(other):
            raise ExportError(f"tokenizer.json gives other tokens for {text[:20]!r} than transformers: {list(other)[:8]}, {list(one)[:8]}")


def _ids(own: object, text: str, length: int) -> list[int]:
    found: list[int] = own(text, truncation=True, max_length=length)["input_ids"]  # type: ignore[operator]
    return found
