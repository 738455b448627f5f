"""Windows that slide over an image: convolution and pooling of whole numbers, mean pooling by a divisor, unfolding and padding.

ONNX's Conv and AveragePool take floats only and MaxPool no int64; the converter drops ``divisor_override`` (onnxscript 0.7.2;
onnxruntime issue 16350, pytorch issue 183528). Here a window's places are read one by one, as strided slices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

aten = torch.ops.aten


def _each(value: Any, dims: int) -> list[int]:
    """One number an axis."""
    given = [value] if isinstance(value, int) else list(value)
    return given * dims if len(given) == 1 else given


def _padded(x: torch.Tensor, before: Sequence[int], after: Sequence[int], fill: Any) -> torch.Tensor:
    amounts = [amount for pair in reversed(list(zip(before, after, strict=True))) for amount in pair]
    return torch.constant_pad_nd(x, amounts, fill) if any(amounts) else x


def _places(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[torch.Tensor]:
    """For every place of the window the image as it stands under it: (…, out 1, out 2 …)."""
    dims = len(kernel)
    out = [(x.shape[axis - dims] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in range(dims)]
    found = []
    for offset in itertools.product(*(range(size) for size in kernel)):
        part = x
        for axis in range(dims):
            start = offset[axis] * dilation[axis]
            part = aten.slice(part, axis - dims, start, start + (out[axis] - 1) * stride[axis] + 1, stride[axis])
        found.append(part)
    return found


def _beyond(
    sizes: Sequence[Any], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[Any]:
    """What ``ceil_mode`` adds behind the padding, so that the last window that begins inside fits."""
    more = []
    for size, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        span = size + 2 * p - d * (k - 1) - 1
        count = -(-span // s) + 1
        count = count - 1 if (count - 1) * s >= size + p else count
        more.append(max(0, (count - 1) * s - span))
    return more


def _is_whole(x: torch.Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex()


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    if not _is_whole(x):
        return NotImplemented
    dims = weight.dim() - 2
    if x.dim() == dims + 1:
        return _convolved(x.unsqueeze(0), weight, bias, stride, padding, dilation, transposed, output_padding, groups).squeeze(0)
    steps, spread, kernel = _each(stride, dims), _each(dilation, dims), list(weight.shape[2:])
    reach = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
    if padding == "valid":
        before = after = [0] * dims
    elif padding == "same":
        before = [size // 2 for size in reach]
        after = [size - half for size, half in zip(reach, before, strict=True)]
    else:
        before = after = _each(padding, dims)
    if transposed:
        # The convolution of the image with zeros between its places, by the kernel turned round.
        for axis in range(-dims, 0):
            gap = steps[axis] - 1
            if gap:
                spaced = torch.constant_pad_nd(torch.movedim(x, axis, -1).unsqueeze(-1), [0, gap])
                spaced = spaced.reshape(*spaced.shape[:-2], spaced.shape[-2] * (gap + 1))
                x = torch.movedim(spaced.narrow(-1, 0, spaced.shape[-1] - gap), -1, axis)
        weight = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
        weight = weight.reshape(groups * weight.shape[1], *weight.shape[2:]).flip(list(range(-dims, 0)))
        extra = _each(output_padding, dims)
        before = [size - p for size, p in zip(reach, before, strict=True)]
        after = [size + more for size, more in zip(before, extra, strict=True)]
        steps = [1] * dims
    image = _padded(x, before, after, 0)
    n, channels = image.shape[:2]
    made: Any = None
    for part, factor in zip(_places(image, kernel, steps, spread), weight.flatten(2).unbind(-1), strict=True):
        out = part.shape[2:]
        columns = part.reshape(n, groups, channels // groups, math.prod(out))
        rows = factor.reshape(groups, factor.shape[0] // groups, factor.shape[1])
        product = torch.matmul(rows, columns)
        made = product if made is None else made + product
    made = made.reshape(n, weight.shape[0], *out)
    return made if bias is None else made + bias.reshape(-1, *([1] * dims))


def _conv(
    x: torch.Tensor, weight: torch.Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    return _convolved(x, weight, bias, stride, padding, dilation, False, 0, groups)


def _conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    return _convolved(x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _largest(dims: int, *, indices: bool) -> Callable[..., Any]:
    def pooled(x: torch.Tensor, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Any:
        if not _is_whole(x):
            return NotImplemented
        kernel, pads, spread = _each(kernel_size, dims), _each(padding, dims), _each(dilation, dims)
        steps = kernel if stride in ((), []) else _each(stride, dims)
        sizes = x.shape[-dims:]
        more = _beyond(sizes, kernel, steps, pads, spread) if ceil_mode else [0] * dims
        after = [p + extra for p, extra in zip(pads, more, strict=True)]
        values = torch.stack(_places(_padded(x, pads, after, torch.iinfo(x.dtype).min), kernel, steps, spread), -1)
        best = torch.argmax(values, -1, keepdim=True)
        made = torch.gather(values, -1, best).squeeze(-1)
        if not indices:
            return made
        numbers = torch.arange(math.prod(sizes)).reshape(sizes)
        places = torch.stack(_places(_padded(numbers, pads, after, 0), kernel, steps, spread), -1)
        return made, torch.gather(places.expand(values.shape), -1, best).squeeze(-1)

    return pooled


def _mean(dims: int) -> Callable[..., Any]:
    def pooled(
        x: torch.Tensor,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override is None and not _is_whole(x):
            return NotImplemented
        kernel, pads, one = _each(kernel_size, dims), _each(padding, dims), [1] * dims
        steps = kernel if stride in ((), []) else _each(stride, dims)
        more = _beyond(x.shape[-dims:], kernel, steps, pads, one) if ceil_mode else [0] * dims
        after = [p + extra for p, extra in zip(pads, more, strict=True)]
        total: Any = sum(_places(_padded(x, pads, after, 0), kernel, steps, one))
        if divisor_override is None:
            # Of each window what lies in the image, or in the image with its padding.
            inside = _padded(torch.ones(x.shape[-dims:], dtype=torch.int64), pads, pads, int(count_include_pad))
            count: Any = sum(_places(_padded(inside, [0] * dims, more, 0), kernel, steps, one))
            return torch.div(total, count.to(x.dtype), rounding_mode="trunc")
        return torch.div(total, divisor_override, rounding_mode="trunc") if _is_whole(x) else total / divisor_override

    return pooled


def _unfolded(x: torch.Tensor, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Of empty batches, whose axis the converter's Reshape cannot take."""
    if x.dim() != 4 or x.shape[0] != 0:
        return NotImplemented
    kernel, pads = _each(kernel_size, 2), _each(padding, 2)
    columns = torch.stack(_places(_padded(x, pads, pads, 0), kernel, _each(stride, 2), _each(dilation, 2)), 2)
    n, c, k, h, w = columns.shape
    return columns.reshape(n, c * k, h * w)


def _pad(x: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Replicated edges where an axis is also cut, which ONNX Runtime's Pad refuses when nothing is left to begin with."""
    if mode != "replicate" or not all(isinstance(amount, int) for amount in pad) or min(pad) >= 0:
        return NotImplemented
    for number, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = x.dim() - 1 - number
        size = x.shape[axis]
        x = torch.index_select(x, axis, torch.clamp(torch.arange(-before, size + after), 0, size - 1))
    return x


def _pixel_shuffle(x: torch.Tensor, upscale_factor: int) -> Any:
    if not _is_whole(x):
        return NotImplemented
    *lead, channels, h, w = x.shape
    r, n = upscale_factor, len(lead)
    split = x.reshape(*lead, channels // r**2, r, r, h, w)
    moved = split.permute(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return moved.reshape(*lead, channels // r**2, h * r, w * r)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolved,
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.conv3d.default: _conv,
    aten.conv3d.padding: _conv,
    aten.conv_transpose1d.default: _conv_transpose,
    aten.conv_transpose2d.input: _conv_transpose,
    aten.conv_transpose3d.input: _conv_transpose,
    aten.max_pool2d.default: _largest(2, indices=False),
    aten.max_pool2d_with_indices.default: _largest(2, indices=True),
    aten.max_pool3d.default: _largest(3, indices=False),
    aten.max_pool3d_with_indices.default: _largest(3, indices=True),
    aten.avg_pool1d.default: _mean(1),
    aten.avg_pool2d.default: _mean(2),
    aten.avg_pool3d.default: _mean(3),
    aten.im2col.default: _unfolded,
    aten.pad.default: _pad,
    aten.pixel_shuffle.default: _pixel_shuffle,
}
