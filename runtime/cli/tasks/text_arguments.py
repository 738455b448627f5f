"""Texts for ``predict`` and ``evaluate``: of classifiers, and how well a text generator predicts one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxferry.runtime.cli.console import facts_table, new_table, plain, print_next, progress_bar, read_stdin, stdout
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.runtime.evaluation.scores import Scores
from onnxferry.runtime.tables.labelled_text import LABEL_COLUMN, TEXT_COLUMN, read_labelled_texts
from onnxferry.runtime.tasks.classifier import Prediction
from onnxferry.runtime.tasks.text_classifier import TextClassifier
from onnxferry.runtime.tasks.text_generator import TextGenerator
from onnxferry.runtime.tasks.text_models import TextEmbedder, TextTagger

_SHOWN = 6  # numbers of a vector
_AT_ONCE = 512  # texts between two looks at the progress bar


_LONGEST_NAME = 200
"""Bytes of the longest argument that may be a file: file systems have no longer names, and refuse to look for one."""


def predicted_texts(model: TextClassifier, arguments: Sequence[str]) -> list[tuple[str, Prediction]]:
    """Each text and its prediction, in order. Raises InputError for arguments without a text."""
    texts = texts_of(arguments)
    return list(zip(texts, _classified(model, texts), strict=True))


def texts_of(arguments: Sequence[str]) -> list[str]:
    """The texts of all arguments. Raises InputError for one without a text."""
    return [text for argument in arguments for text in _texts(argument)]


def described_texts(model: TextEmbedder | TextTagger, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Each text with its vector, ``embedding``, or the classes of its tokens, ``tags``."""
    texts = texts_of(arguments)
    if isinstance(model, TextEmbedder):
        vectors = [model.embed(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
        rows = (row for part in vectors for row in part)
        return [{"text": text, "embedding": row.tolist()} for text, row in zip(texts, rows, strict=True)]
    return [{"text": text, "tags": [dataclasses.asdict(tag) for tag in model.tag(text)]} for text in texts]


def print_described_texts(rows: Sequence[dict[str, Any]]) -> None:
    """A line a text with the first numbers of its vector, or a line a token."""
    if "embedding" in rows[0]:
        table = new_table("text", "numbers", "first", right=("numbers",))
        for row in rows:
            vector = row["embedding"]
            table.add_row(plain(row["text"]), str(len(vector)), " ".join(f"{number:.4f}" for number in vector[:_SHOWN]) + " …")
    else:
        table = new_table("text", "token", "label", "probability", right=("probability",))
        for row in rows:
            for place, tag in enumerate(row["tags"]):
                text = plain(row["text"]) if place == 0 else ""
                table.add_row(text, plain(tag["text"]), plain(tag["label"]), f"{tag['probability']:.2%}")
    stdout().print(table)


def scored_texts(
    model: TextClassifier, data: Path, text: str | None, target: str | None, encoding: str, split: str
) -> tuple[Scores, str, list[str]]:
    """The model's answers beside the labels: scores, what was read, and notes. Raises DataError for a label that the model has not."""
    found = read_labelled_texts(data, text or TEXT_COLUMN, target or LABEL_COLUMN, encoding=encoding, part=split)
    known = {label: index for index, label in enumerate(model.labels)}
    scores = Scores(model.labels)
    kept = [(each, label) for each, label in zip(found.texts, found.labels, strict=True) if each.strip()]
    if not kept:
        raise DataError(f"all texts in {data.name} are empty")
    for number, (_, label) in enumerate(kept, 1):
        if label not in known:
            raise DataError(f"{data.name}: text {number} has the label {label!r}, and the model knows {', '.join(model.labels[:12])}")
    predictions = _classified(model, [each for each, _ in kept])
    for (_, label), prediction in zip(kept, predictions, strict=True):
        scores.add(known[label], prediction.index, prediction.probability)
    empty = len(found) - len(kept)
    return scores, found.source, [f"{empty} empty texts"] if empty else []


def _classified(model: TextClassifier, texts: Sequence[str]) -> list[Prediction]:
    predictions: list[Prediction] = []
    with progress_bar("classifying", len(texts)) as advance:
        for start in range(0, len(texts), _AT_ONCE):
            part = list(texts[start : start + _AT_ONCE])
            predictions += model.classify(part)
            advance(len(part))
    return predictions


def _texts(argument: str) -> list[str]:
    """One text an argument; of a file, or of ``-``, one a line that is not empty."""
    if argument == "-":
        return _lines(read_stdin("the texts"), "stdin")
    path = Path(argument)
    if len(argument.encode(errors="replace")) <= _LONGEST_NAME and path.is_file():
        try:
            return _lines(path.read_bytes(), path.name)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not argument.strip():
        raise InputError("the text is empty: give at least one word")
    return [argument]


def _lines(content: bytes, name: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 (byte {error.start}): save it as UTF-8, or convert it: iconv -f ENCODING -t utf-8 {name}"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{name} holds no text: expected one a line")
    return lines


def scored_text(model: TextGenerator, data: Path) -> dict[str, Any]:
    """Bytes, nats and bits a byte, and perplexity of a file, or of stdin for ``-``. Raises DataError where there is no text."""
    text = read_stdin("the text") if str(data) == "-" else _content(data)
    name = "stdin" if str(data) == "-" else data.name
    if not text:
        raise DataError(f"{name} is empty: there is no text to score")
    nats = model.score(text)
    return {"data": name, "bytes": len(text), "nats_per_byte": nats, "bits_per_byte": nats / math.log(2), "perplexity": math.exp(nats)}


def print_text_score(model: str, device: str, found: dict[str, Any], *commands: str) -> None:
    facts = {
        "model": f"{model} on {device}",
        "data": f"{found['data']}, {found['bytes']} bytes",
        "score": f"{found['nats_per_byte']:.4f} nats a byte (mean negative log-likelihood; lower is better)",
        "bits a byte": f"{found['bits_per_byte']:.4f}",
        "perplexity": f"{found['perplexity']:.2f}  (as unsure as between so many bytes)",
    }
    stdout().print(facts_table({name: plain(value) for name, value in facts.items()}))
    print_next(*commands)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}; --data takes a file of text, or - for stdin", path) from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; --data takes a file of text, or - for stdin") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
