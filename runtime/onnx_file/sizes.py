"""Sizes of tensors inside a graph, as far as the sizes of its inputs decide them: for operators that must never get an empty one.

    batch = Input("x", 1)
    cut = sliced(batch, 4, 2**63 - 1, 1)       # x[:, 4:]
    size_of(cut, {"x": (9, 3, 2)})             # 0: nothing is left of three

A size is a number, or a :class:`Size` that is computed from the shapes of a run's inputs. Operators that are not listed here give
tensors of unknown shape. Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

_MOST = 64
"""Computations that one size may take: more are not followed, so that a graph cannot make this slow, or deep."""


Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a run's inputs by name."""


@dataclass(frozen=True, eq=False, slots=True)
class Size:
    """A size that is computed from others."""

    compute: Callable[..., int] = field(repr=False)
    parts: tuple[int | Input | Size, ...] = field(repr=False)
    computations: int


@dataclass(frozen=True, slots=True)
class Input:
    """The size of one axis of an input."""

    name: str
    axis: int


Dimension = int | Input | Size
Shape = tuple[Dimension, ...] | None
"""None: not known."""


class UnknownSizeError(Exception):
    """What was to be computed is not followed."""


def size_of(size: Dimension, shapes: Shapes) -> int:
    """In a run whose inputs have these shapes. Raises UnknownSizeError where an input is missing or has other axes."""
    if isinstance(size, int):
        return size
    if isinstance(size, Input):
        shape = shapes.get(size.name, ())
        if size.axis >= len(shape):
            raise UnknownSizeError
        return shape[size.axis]
    return size.compute(*(size_of(part, shapes) for part in size.parts))


def computed(compute: Callable[..., int], *parts: Dimension) -> Dimension:
    if all(isinstance(part, int) for part in parts):
        return compute(*parts)
    computations = 1 + sum(part.computations for part in parts if isinstance(part, Size))
    if computations > _MOST:
        raise UnknownSizeError
    return Size(compute, parts, computations)


TO_THE_START = (2**31 - 1, 2**63 - 1)
"""Ends that mean the first element to ONNX Runtime where a Slice goes backwards."""


def sliced(size: Dimension, start: int, end: int, step: int) -> Dimension:
    """What ``start:end:step`` leaves of an axis."""
    whole = step < 0 and end in TO_THE_START

    def left(size: int) -> int:
        low, high = (0, size) if step > 0 else (-1, size - 1)
        first = min(max(start + size if start < 0 else start, 0), high)
        last = low if whole else min(max(end + size if end < 0 else end, low), high)
        return len(range(first, last, step)) if size and step else 0

    return computed(left, size)


def _joined(*sizes: int) -> int:
    return sum(sizes)


def product(*sizes: int) -> int:
    return math.prod(sizes)


def _broadcast(a: int, b: int) -> int:
    return b if a == 1 else a


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Of an elementwise operator."""
    known = [shape for shape in shapes if shape is not None]
    if not known or len(known) != len(shapes):
        return None
    rank = max(map(len, known))
    result: list[Dimension] = [1] * rank
    for shape in known:
        for axis, size in enumerate(shape, rank - len(shape)):
            mine = result[axis]
            if mine is not size and mine != size and size != 1:
                result[axis] = size if mine == 1 else computed(_broadcast, mine, size)
    return tuple(result)


def reshaped(shape: Shape, wanted: Sequence[int], allow_zero: bool) -> Shape:
    """``wanted`` as Reshape takes it: 0 keeps an axis, -1 takes what is left."""
    if shape is None:
        known = [-1 if size < 0 or (size == 0 and not allow_zero) else size for size in wanted]
        return None if -1 in known else tuple(known)
    result: list[Dimension] = []
    for axis, size in enumerate(wanted):
        keeps = size == 0 and not allow_zero
        if keeps and axis >= len(shape):
            raise UnknownSizeError
        result.append(shape[axis] if keeps else size)
    if -1 in wanted:
        open_axis = list(wanted).index(-1)
        whole = computed(product, *shape)
        rest = computed(product, *(size for axis, size in enumerate(result) if axis != open_axis))
        result[open_axis] = computed(lambda whole, rest: whole // rest if rest else 0, whole, rest)
    return tuple(result)


def axis_of(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise UnknownSizeError
    return axis % rank


def slice_shape(shape: Shape, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Shape:
    if shape is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    result = list(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = axis_of(axis, len(result))
        result[at] = sliced(result[at], start, end, step)
    return tuple(result)


def transposed(shape: Shape, perm: Sequence[int]) -> Shape:
    if shape is None:
        return None
    order = list(perm) or list(reversed(range(len(shape))))
    return tuple(shape[axis_of(axis, len(shape))] for axis in order)


def squeezed(shape: Shape, axes: Sequence[int] | None) -> Shape:
    """``axes``: None for all of size 1, which must then be known."""
    if shape is None:
        return None
    if axes is None:
        return tuple(size for size in shape if size != 1) if all(isinstance(size, int) for size in shape) else None
    gone = {axis_of(axis, len(shape)) for axis in axes}
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def unsqueezed(shape: Shape, axes: Sequence[int]) -> Shape:
    if shape is None:
        return None
    rank = len(shape) + len(axes)
    new, old = {axis_of(axis, rank) for axis in axes}, iter(shape)
    return tuple(1 if axis in new else next(old, 1) for axis in range(rank))


def gathered(shape: Shape, indices: Shape, axis: int) -> Shape:
    if shape is None or indices is None:
        return None
    at = axis_of(axis, len(shape))
    return (*shape[:at], *indices, *shape[at + 1 :])


def concatenated(shapes: Sequence[Shape], axis: int) -> Shape:
    known = [shape for shape in shapes if shape is not None]
    if not known or len(known) != len(shapes) or len(set(map(len, known))) != 1:
        return None
    at = axis_of(axis, len(known[0]))
    return (*known[0][:at], computed(_joined, *(shape[at] for shape in known)), *known[0][at + 1 :])


def split(shape: Shape, axis: int, parts: Sequence[int], count: int) -> list[Shape]:
    """Of all outputs. ``parts``: their sizes; none for ``count`` even ones, of which the last may be smaller."""
    if shape is None:
        return [None] * count
    at = axis_of(axis, len(shape))

    def part(number: int) -> Callable[[int], int]:
        return lambda size: max(0, min(-(-size // count), size - number * -(-size // count)))

    sizes: list[Dimension] = list(parts) if parts else [computed(part(number), shape[at]) for number in range(count)]
    return [(*shape[:at], size, *shape[at + 1 :]) for size in sizes]


def tiled(shape: Shape, times: Sequence[int]) -> Shape:
    if shape is None or len(times) != len(shape):
        return None
    return tuple(computed(product, size, each) for size, each in zip(shape, times, strict=True))


def multiplied(a: Shape, b: Shape) -> Shape:
    """Of MatMul."""
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    outer = broadcast([a[:-2], b[:-2]])
    return None if outer is None else (*outer, a[-2], b[-1])
