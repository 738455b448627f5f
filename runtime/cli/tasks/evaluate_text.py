"""``evaluate`` for text generators: how well a model predicts a text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from onnxferry.runtime.cli.console import facts_table, plain, print_next, read_stdin, stdout
from onnxferry.runtime.errors import DataError, DataNotFoundError
from onnxferry.runtime.tasks.text_generator import TextGenerator


def scored_text(model: TextGenerator, data: Path) -> dict[str, Any]:
    """Bytes, nats and bits a byte, and perplexity of a file, or of stdin for ``-``. Raises DataError where there is no text."""
    text = read_stdin("the text") if str(data) == "-" else _read(data)
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}; --data takes a file of text, or - for stdin", path) from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; --data takes a file of text, or - for stdin") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
