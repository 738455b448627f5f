"""``timm:resnet18``: the name of a model in a library of architectures. The model itself is made by zoo_models.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"(timm|torchvision):([A-Za-z0-9_.\-/]{1,200})")


@dataclass(frozen=True)
class NamedModel:
    """``library``: timm or torchvision. ``weights``: a state dict, None for the library's own from its hub."""

    library: str
    name: str
    weights: Path | None = None
