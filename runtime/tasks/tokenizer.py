"""The tokenizer of a model of text: a ``tokenizer.json`` beside the file, which the contract names with its SHA-256.

It is read by the ``tokenizers`` package (no torch). Only a plain file name in the model's own folder is followed, of a bounded size, and
only if its content is what the contract says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxferry.runtime.errors import ArtifactError, MissingExtraError, first_line

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner

MAX_BYTES = 128 * 2**20


def open_tokenizer(engine: Runner) -> Any:
    """A ``tokenizers.Tokenizer``. Raises ArtifactError where the file is missing, changed or not read, MissingExtraError without the
    package."""
    said = engine.contract.options.get("tokenizer") if engine.contract else None
    name = said.get("file") if isinstance(said, Mapping) else None
    if not isinstance(said, Mapping) or not isinstance(name, str) or engine.path is None:
        raise ArtifactError(f"{engine.path or 'the model'} names no tokenizer; export it again")
    if Path(name).name != name or name in ("", ".", ".."):
        raise ArtifactError(f"{engine.path} names the tokenizer {name[:60]!r}, which is no plain file name")
    path = Path(engine.path).parent / name
    if not path.is_file():
        raise ArtifactError(f"{engine.path} needs its tokenizer, and there is no {path}: copy it from where the model was exported")
    if path.stat().st_size > MAX_BYTES:
        raise ArtifactError(f"{path} is larger than {MAX_BYTES} bytes, which no tokenizer is")
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != said.get("sha256"):
        raise ArtifactError(f"{path} is not the tokenizer that {engine.path} was exported with (its SHA-256 differs): get both again")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenizers", "text", "models of text") from error
    try:
        return Tokenizer.from_str(payload.decode())
    except Exception as error:
        raise ArtifactError(f"{path} is no tokenizer that can be read ({first_line(error)[:200]})") from error
