"""What an export is asked for: :class:`ExportOptions`, the same for every framework, in Python and on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import numpy as np

Feeds = Mapping[str, np.ndarray]
"""Arrays by input name."""


class ExportKeywords(TypedDict, total=False):
    """The fields of :class:`ExportOptions` as keyword arguments, for type checkers and editors."""

    dynamic_shapes: Any
    output_names: Sequence[str] | None
    rtol: float | None
    atol: float | None
    samples: Sequence[Feeds]
    strict_nonfinite: bool
    golden: bool | Sequence[Feeds]
    opset: int | None
    name: str | None
    description: str
    license: str
    command: Sequence[str]
    weights: str | os.PathLike[str] | None
    with_labels: bool
    bits: int | None
    labels: Sequence[str] | None
    image: Any
    activation: str
    scores: str | None


class ModelKeywords(ExportKeywords, total=False):
    """Those of models too, which may be run in an environment of their own."""

    signature: str | None
    python: str | os.PathLike[str] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportOptions:
    """All options of an export. Which of them a framework takes stands in the table of ``sources/choose.py``."""

    dynamic_shapes: Any = None  # {"x": {0: "batch"}}: the axes that may vary; every other axis keeps its size
    output_names: Sequence[str] | None = None  # names for the outputs, in their order
    rtol: float | None = None  # relative tolerance of float outputs; None: by dtype
    atol: float | None = None  # absolute tolerance of float outputs; None: by dtype
    samples: Sequence[Feeds] = ()  # more inputs to compare on
    strict_nonfinite: bool = False  # refuse a file that answers NaN or infinity otherwise than the model
    golden: bool | Sequence[Feeds] = True  # samples stored in the file: True chooses them, False stores none, or these
    opset: int | None = None  # ONNX operator set, 18 to 21; None: 18
    name: str | None = None  # the model's name in the contract; None: the file's
    description: str = ""  # one line for the contract
    license: str = ""  # the model's license, as an SPDX name
    command: Sequence[str] = ()  # the command line to record; paths are cut to their last part
    weights: str | os.PathLike[str] | None = None  # state dict (.safetensors, .pt) for a PyTorch model named as pkg.module:make
    with_labels: bool = False  # a classifier's class names as an additional string output
    bits: int | None = None  # store a text generator's weights in 8, 16 or 32 bits; None: as it was trained
    labels: Sequence[str] | None = None  # class names in the order of the model's outputs: the file gives probabilities and a class
    # An ImageInput, "28x28x1", or a dict of ImageInput's fields where the model says its size: the file takes images of any size.
    image: Any = None
    activation: str = "auto"  # with labels: softmax or sigmoid for logits, none for probabilities; auto: by what the model gives
    scores: str | None = None  # with labels: the output that they name; None: the one that has as many numbers a row
    signature: str | None = None  # of a TensorFlow model; None: serving_default, or the only one
    python: str | os.PathLike[str] | None = None  # the interpreter of the environment that has TensorFlow; None: this one

    def chosen_goldens(self, default: Sequence[Feeds] | None) -> Sequence[Feeds] | None:
        """The inputs to store as golden samples: ``default`` where the choice was left to us (None: choose after the comparison)."""
        if self.golden is True:
            return default
        return () if self.golden is False else self.golden

    def given(self) -> dict[str, Any]:
        """The options that were set to something else than their default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not _same(getattr(self, f.name), f.default)}


def _same(value: Any, default: Any) -> bool:
    """Compares without ``==`` on arrays; a 0 is not a False, and an empty sequence or mapping was not given."""
    return value is default or (isinstance(value, str | Sequence | Mapping) and not len(value) and default in ((), "", None))
