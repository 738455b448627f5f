"""How much worse than the original a faster variant may be, as a person says it: ``"top1 -0.1pt"``, ``"psnr 40"``.

==================  ==================================================================================================
``top1 -0.1pt``     of 100 answers, at most 0.1 fewer right; without labels, at most so many that differ from the original's
``map -0.5pt``      boxes: of 100 points of mean average precision (COCO's, 0.50 to 0.95), at most 0.5 fewer
``psnr 40``         images differ from the original's by no more than a peak signal-to-noise ratio of 40 dB
``nats +0.005``     a text is predicted by at most 0.005 nats a byte worse
``rtol 1e-3``       every number within 1e-3 of the original's, relative to the largest of its output; ``rtol 1e-3 atol 1e-5``: of
                    each number itself, plus 1e-5
``package.module:function``  ``function(original, variant)`` of the outputs (dicts of arrays by name) says True or False
==================  ==================================================================================================
"""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import Kind

Outputs = Mapping[str, np.ndarray]


Judge = Callable[[Outputs, Outputs], bool]


EXAMPLES = '"top1 -0.1pt", "map -0.5pt", "psnr 40", "nats +0.005", "rtol 1e-3", or "package.module:function"'


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"


_WORDS = re.compile(rf"\s*(top1|map|psnr|nats|rtol)\s+({_NUMBER})\s*(pt|points?|%|db|nats)?(?:\s+atol\s+({_NUMBER}))?\s*", re.IGNORECASE)


_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


_UNITS = {"top1": ("pt", "point", "points", "%"), "map": ("pt", "point", "points", "%"), "psnr": ("db",), "nats": ("nats",), "rtol": ()}


@dataclass(frozen=True)
class Budget:
    """What a variant is held to."""

    metric: str  # top1, map, psnr, nats, rtol or function
    limit: float = 0.0  # top1, map: points that may be lost; psnr: dB at least; nats: a byte, at most more; rtol: at most
    atol: float | None = None  # of rtol; None: a number's size is that of its output's largest
    function: Judge | None = None
    words: str = ""  # as it was given

    def check_kind(self, kind: Kind) -> None:
        """Raises InputError where the budget's metric does not apply to the outputs of a model of this kind."""
        own = kind.budget.split()[0]
        metrics = (own, "rtol") if own != "rtol" else (own, "psnr", "top1")  # of any model whose outputs turn out to have it
        if self.metric not in (*metrics, "function"):
            raise InputError(
                f"the budget {self.words!r} does not fit a model of the kind {kind.name}: expected {', '.join(metrics)}, a function"
            )


def parse_budget(budget: str | Judge | Budget) -> Budget:
    """Raises InputError for what is no budget, and for one that makes no sense."""
    if isinstance(budget, Budget):
        return budget
    if callable(budget):
        return Budget("function", function=budget, words=f"function {getattr(budget, '__name__', 'given')}")
    if not isinstance(budget, str):
        raise InputError(f"a budget is text or a function, got {type(budget).__name__}; such as {EXAMPLES}")
    if _FUNCTION.fullmatch(budget.strip()):
        return Budget("function", function=_imported(budget.strip()), words=budget.strip())
    match = _WORDS.fullmatch(budget)
    if match is None:
        raise InputError(f"not a budget: {budget!r}; expected {EXAMPLES}")
    metric, number, unit, atol = match[1].lower(), float(match[2]), (match[3] or "").lower(), match[4]
    if unit and unit not in _UNITS[metric]:
        raise InputError(f"the budget {budget!r} mixes {metric} with the unit {unit}; expected {EXAMPLES}")
    if atol is not None and metric != "rtol":
        raise InputError(f"the budget {budget!r}: only rtol takes an atol; expected {EXAMPLES}")
    return Budget(metric, _limit(metric, number, budget), _atol(atol, budget), words=" ".join(budget.split()))


def _limit(metric: str, number: float, budget: str) -> float:
    ranges = {
        "top1": (-100.0, 0.0, "a loss from -100 to 0 points (0: none at all)"),
        "map": (-100.0, 0.0, "a loss from -100 to 0 points (0: none at all)"),
        "psnr": (1.0, 150.0, "1 to 150 dB"),
        "nats": (0.0, 8.0, "0 to 8 nats a byte more"),
        "rtol": (0.0, 1.0, "0 to 1"),
    }
    least, most, words = ranges[metric]
    if not math.isfinite(number) or not least <= number <= most:
        raise InputError(f"the budget {budget!r} makes no sense: expected {words}")
    return abs(number)


def _atol(text: str | None, budget: str) -> float | None:
    if text is None:
        return None
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise InputError(f"the budget {budget!r} makes no sense: atol must be a finite number >= 0")
    return value


def _imported(text: str) -> Judge:
    module, _, name = text.partition(":")
    if os.curdir not in sys.path and "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` would: a function in a file of this folder
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(f"the budget {text!r}: cannot import {module}: {error}") from error
    except AttributeError as error:
        raise InputError(f"the budget {text!r}: {module} has no {name}") from error
    if not callable(found):
        raise InputError(f"the budget {text!r}: {name} is a {type(found).__name__}, expected a function of two dicts of arrays")
    judge: Judge = found
    return judge
