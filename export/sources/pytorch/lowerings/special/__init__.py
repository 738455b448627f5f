"""Special functions, which neither ONNX nor the converter has (onnxscript 0.7.2): :mod:`formulas` says how they are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnxferry.export.sources.pytorch.lowerings.special import bessel, errors, gamma

TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {**bessel.TRANSLATIONS, **errors.TRANSLATIONS, **gamma.TRANSLATIONS}
