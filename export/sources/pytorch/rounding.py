"""Runs a PyTorch model with the rounding errors that a correct runtime may make, injected into every operator.

    with RoundingNoise(seed, noise):
        module(x)      # differs from module(x) by about what another correct library's answer would

This is Monte Carlo arithmetic (Parker, Pierce & Eggert, "Monte Carlo arithmetic", 2000): how far the answers spread is how far a
right file may be from the model on that very input. Operators that IEEE 754 defines exactly (add, multiply, divide, floor, compare,
select, move) get no noise, because any two libraries agree on them to the last bit: where only these lie between an input and an
output, the file must give exactly the model's answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from onnxferry.export.source import Noise

# By the name of the operator in aten, without a trailing "_" (in place).
_EXACT = """
_assert_async _has_same_storage_numel _local_scalar_dense _reshape_alias _to_copy _unsafe_index _unsafe_view abs add alias all
amax amin aminmax any arange argmax argmin argwhere as_strided bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor bucketize cat ceil clamp clamp_max clamp_min clone constant_pad_nd contiguous copy copysign cummax
cummin detach diagonal div empty empty_like empty_strided eq equal expand eye fill flip floor floor_divide fmax fmin fmod frac
full full_like gather ge gt hardshrink hardtanh heaviside histc index index_fill index_put index_select isfinite isinf isnan le
leaky_relu lift_fresh lift_fresh_copy logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter masked_select
max max_pool2d_with_indices max_pool3d_with_indices maximum min minimum mul narrow_copy ne neg new_empty new_full new_ones
new_zeros nextafter nonzero ones ones_like pad permute pixel_shuffle pixel_unshuffle prelu reflection_pad1d reflection_pad2d
reflection_pad3d relu remainder repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape resize roll
rot90 round rsub scalar_tensor scatter searchsorted select select_scatter set sgn sign signbit slice slice_scatter softshrink
split split_with_sizes sqrt square squeeze stack sub t take threshold to transpose tril triu trunc unbind unfold unsafe_split
unsafe_view unsqueeze view view_as where zero zeros zeros_like
"""
EXACT = frozenset(_EXACT.split())

# Functions of one number: their result is off, and not the number that goes in.
_POINTWISE = """
acos acosh asin asinh atan atan2 atanh celu cos cosh digamma elu erf erfc erfinv exp exp2 expm1 gelu hardsigmoid hardswish lgamma
log log10 log1p log2 log_sigmoid log_sigmoid_forward logaddexp logaddexp2 logit mish pow reciprocal rsqrt selu sigmoid silu sin
sinc sinh softplus special_erfcx special_i0 special_ndtri special_xlog1py tan tanh xlogy
"""
POINTWISE = frozenset(_POINTWISE.split())

# Of equal values, which comes first is not defined: a little noise makes the order a matter of chance.
UNORDERED = frozenset({"topk", "sort", "kthvalue", "median", "nanmedian", "mode", "msort", "argsort"})


class RoundingNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Injects errors of up to ``noise`` into the operands and results of operators that round."""

    def __init__(self, seed: int, noise: Noise) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = _name(func)
        if name in EXACT or func.is_view or "out" in kwargs:
            return func(*args, **kwargs)
        if name in UNORDERED:
            if kwargs.get("stable") or (name == "sort" and len(args) > 1 and args[1] is True):
                return func(*args, **kwargs)
            return func(*_each(args, self._apart), **kwargs)
        if name in POINTWISE:
            return self._of_result(name, func(*args, **kwargs), args)
        if func._schema.is_mutable:  # its operand is what it writes to
            return self._of_result(name, func(*args, **kwargs), args)
        return self._of_result(name, func(*_each(args, self._rounded), **kwargs), args)

    def _of_result(self, name: str, result: Any, args: Sequence[Any]) -> Any:
        if isinstance(result, torch.Tensor):
            return self._result(name, result, args)
        if isinstance(result, tuple | list):
            return type(result)(self._result(name, one, args) if isinstance(one, torch.Tensor) else one for one in result)
        return result

    def _result(self, name: str, tensor: torch.Tensor, args: Sequence[Any]) -> torch.Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        noisy = self._rounded(tensor)
        error = self.noise.kernels.get(name)
        if error is not None:
            operand = args[0].abs()
            alone = operand.shape == tensor.shape and not name.startswith("_fft")  # a gated unit has twice as many
            size = operand if alone else operand.amax()
            draw = torch.complex(self._draw(tensor.real), self._draw(tensor.real)) if tensor.is_complex() else self._draw(tensor)
            noisy = noisy + draw * (error.absolute + error.of_operand * size)
        if any(tensor is arg for arg in args):  # in place
            return tensor.copy_(noisy)
        return noisy.to(tensor.dtype)

    def _rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_complex():  # both parts are off by a share of the whole
            parts = torch.view_as_real(tensor.resolve_conj().resolve_neg())
            size = self.noise.roundings * torch.finfo(parts.dtype).eps * tensor.abs().unsqueeze(-1)
            return torch.view_as_complex(parts + size * self._draw(parts))
        if not tensor.is_floating_point():
            return tensor
        return tensor * (1 + self.noise.roundings * torch.finfo(tensor.dtype).eps * self._draw(tensor))

    def _apart(self, tensor: torch.Tensor) -> torch.Tensor:
        """As rounded; zeros too differ afterwards."""
        if not tensor.is_floating_point():
            return tensor
        return self._rounded(tensor) + 8 * torch.finfo(tensor.dtype).tiny * self._draw(tensor)

    def _draw(self, tensor: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(tensor.shape, generator=self.generator, dtype=torch.float32) * 2 - 1
        return drawn.to(device=tensor.device, dtype=tensor.dtype)


_NAME = re.compile(r"(.+?)_?$")


def _name(func: Any) -> str:
    """``aten::relu_`` is ``relu``."""
    full = str(func._schema.name).partition("::")[2]
    found = _NAME.fullmatch(full)
    return found.group(1) if found else full


def _each(values: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(values, torch.Tensor):
        return change(values)
    if isinstance(values, tuple | list):
        return type(values)(_each(value, change) for value in values)
    return values
