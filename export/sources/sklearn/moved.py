"""A copy of a fitted estimator whose learned numbers are a rounding off: how much its answers hang on their last digits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


def moved_parameters(model: Any, rng: np.random.Generator, size: float) -> Any:
    """A copy with every learned float array (a name that ends in ``_``) off by ``size`` of itself, in the members of ensembles too.

    What compiled classes hold (trees, neighbor searches) stays as it is. The model itself, where it cannot be copied.
    """
    try:
        copied = copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - a step of the user's own may hold what cannot be copied
        return model
    _move(copied, rng, size, set())
    return copied


def _move(held: Any, rng: np.random.Generator, size: float, seen: set[int]) -> None:
    if id(held) in seen:
        return
    seen.add(id(held))
    if isinstance(held, list | tuple):
        for each in held:
            _move(each, rng, size, seen)
    elif isinstance(held, dict):
        for each in held.values():
            _move(each, rng, size, seen)
    elif isinstance(held, np.ndarray) and held.dtype.kind == "O":
        for each in held.ravel():
            _move(each, rng, size, seen)
    elif hasattr(held, "__dict__") and not isinstance(held, type) and not callable(held):
        for name, value in vars(held).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.flags.writeable:
                if name.endswith("_"):
                    value *= np.asarray(1 + size * rng.standard_normal(value.shape), value.dtype)
            elif name != "random_state":
                _move(value, rng, size, seen)
