"""Whether a saved state is one of this run's: optimizers and schedulers take anything, and fail in the midst of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def check_alike(name: str, own: Any, saved: Any) -> None:
    """Raises ValueError where a saved value is not built as this run's own is: types, keys, lengths, shapes. None goes with anything."""
    if own is None or saved is None:
        return
    if isinstance(own, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != own.shape or saved.dtype != own.dtype:
            raise ValueError(f"{name} is not a tensor {tuple(own.shape)}")
    elif isinstance(own, Mapping):
        if not isinstance(saved, Mapping) or saved.keys() != own.keys():
            raise ValueError(f"{name} has other entries")
        for key, value in own.items():
            check_alike(f"{name} {key}", value, saved[key])
    elif isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(own):
            raise ValueError(f"{name} has another length")
        for number, (one, other) in enumerate(zip(own, saved, strict=True)):
            check_alike(f"{name} {number}", one, other)
    elif isinstance(own, bool | str):
        if type(saved) is not type(own):
            raise ValueError(f"{name} is a {type(saved).__name__}")
    elif isinstance(own, int | float) and (isinstance(saved, bool) or not isinstance(saved, int | float)):
        raise ValueError(f"{name} is a {type(saved).__name__}")


def check_moments(optimizer: Optimizer) -> None:
    """Raises ValueError where what an optimizer keeps of a parameter is not of the parameter's shape, nor a number."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                    raise ValueError(f"{name} of a parameter is {tuple(value.shape)} and not {tuple(parameter.shape)}")
