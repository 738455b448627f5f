"""Where a file comes from, as its contract records it: without local paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from onnxferry.runtime.errors import CheckpointError


def shortened(command: Sequence[str]) -> list[str]:
    """A command line with every path cut to its last part, so that no local path is stored in a file."""
    parts = []
    for word in command:
        option, sign, value = word.partition("=")
        if sign and option.startswith("-"):
            parts.append(f"{option}={_last_part(value)}")
        else:
            parts.append(_last_part(word))
    return parts


def without_paths(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The training's provenance with its command's paths cut to their last part."""
    try:
        words = shlex.split(str(provenance.get("command", "")))
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's command line cannot be parsed ({error}); train it again") from error
    return {**provenance, "command": shlex.join(shortened(words))}


_NUMBERS = re.compile(r"[\d.,/+e-]*\d")  # 1/255, no path


def _last_part(word: str) -> str:
    if _NUMBERS.fullmatch(word) and not word.startswith("/"):
        return word
    cut = word.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return cut or word
