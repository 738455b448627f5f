"""Random inputs for a model, from what it declares or from an example.

    example_inputs(engine.inputs)                     # one array for each input, always the same ones
    random_array("float32", (4, 10), rng)             # standard normal
    random_like(example, (7, 10), rng)                # values of the example's range, in another shape
    varied(example, rng)                              # the example, a little different

Every function takes its random generator or has a fixed seed, so that the same model gets the same inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.values import TensorSpec

# Sizes of open axes for which none is given. They differ from one another, so that no axis can be mistaken for another, and they are
# large enough for a few strided convolutions.
FIRST_AXIS = 2
OTHER_AXES = (32, 40, 48, 56)

SEED = 7

MAX_BYTES = 2**31
"""Of one generated array: the sizes that a file declares may be any number."""

VARIATION = 0.05
"""Noise that ``varied`` adds to floating-point numbers, as a share of their standard deviation."""


def example_inputs(specs: Sequence[TensorSpec], given: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """An array for each input, by name: the given one, else random values of the declared dtype and shape.

    An open axis is 2 long if it is the first, else 32, 40, 48 or 56; axes of one name have one size. Raises InputError for an input
    whose values cannot be generated (text, a sequence, any number of axes).
    """
    sizes: dict[str, int] = {}
    made = {}
    for number, spec in enumerate(specs):
        if given is not None and spec.name in given:
            made[spec.name] = given[spec.name]
            continue
        if not spec.ranked:
            raise InputError(f"cannot generate random values for the input {spec}: give them with --samples")
        shape = tuple(
            size if isinstance(size, int) else open_axis(size or f"{spec.name}_dim{axis}", axis, sizes)
            for axis, size in enumerate(spec.shape)
        )
        try:
            made[spec.name] = random_array(spec.dtype, shape, np.random.default_rng((SEED, number)))
        except InputError as error:
            raise InputError(f"cannot generate random values for the input {spec} ({error}): give them with --samples") from error
    return made


def open_axis(name: str, axis: int, sizes: dict[str, int]) -> int:
    """The size of the open axis ``name``, which is axis number ``axis``: what ``sizes`` has for it, else a new one, entered there."""
    if name not in sizes:
        used = len(set(sizes.values()) & set(OTHER_AXES))
        sizes[name] = FIRST_AXIS if axis == 0 else OTHER_AXES[used % len(OTHER_AXES)]
    return sizes[name]


def random_array(
    dtype: str, shape: Sequence[int], rng: np.random.Generator, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """Random values of a dtype, by numpy's name.

    Between ``low`` and ``high`` where both are given, evenly. Else floats are standard normal, uint8 is 0 to 255 as in an image,
    and other integers are 0 or 1, most likely valid as indices. Booleans are true half of the time.
    Raises InputError for text and everything else that is no number, and for an array beyond MAX_BYTES.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if math.prod(shape) * kind.itemsize > MAX_BYTES:
        raise InputError(f"an array {tuple(shape)} of {dtype} takes more than 2 GiB")
    if kind.kind == "f":
        values = rng.standard_normal(shape) if low is None or high is None else rng.uniform(low, high, shape)
        return values.astype(kind)
    if kind.kind == "b":
        return rng.integers(0, 2, shape, dtype=bool)
    if kind.kind in "iu":
        least = 0 if low is None else int(low)
        most = (255 if kind == np.uint8 else 1) if high is None else int(high)
        return rng.integers(least, most, shape, dtype=kind, endpoint=True)
    raise InputError(f"there are none of the type {dtype}")


def random_like(example: np.ndarray, shape: Sequence[int], rng: np.random.Generator, by_column: bool = False) -> np.ndarray:
    """Random values as they occur in ``example``, in another shape and its dtype: ids stay ids, and masks stay masks.

    Numbers lie between the smallest and the largest finite one; not-a-number and infinities come as often as in the example. Text is
    drawn from the example's. ``by_column``: each place along the last axis has a range of its own, as in a table.
    """
    shape = tuple(shape)
    if example.dtype.kind in "UO":
        return rng.choice(example.ravel(), shape) if example.size else np.full(shape, "")
    if by_column and shape[-1] > 1:
        return np.stack([random_like(example[..., i], shape[:-1], rng) for i in range(shape[-1])], axis=-1)
    if example.dtype.kind == "f":
        return _floats_like(example, shape, rng)
    if example.dtype.kind == "b":
        share = float(example.mean()) if example.size else 0.5
        return np.asarray(rng.random(shape) < share)
    low, high = (int(example.min()), int(example.max())) if example.size else (0, 1)
    return random_array(example.dtype.name, shape, rng, low, high)


def _floats_like(example: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    finite = example[np.isfinite(example)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 1.0)
    if low == high == 0.0:
        # All zeros, as in a fresh recurrent state: zeros would hide what the state does. Beside infinities they are those of a mask.
        values = rng.standard_normal(shape) if finite.size == example.size else np.zeros(shape)
    else:
        if low == high:
            low, high = sorted((0.0, low))
        values = rng.uniform(low, high, shape)
    if finite.size < example.size:
        others = example[~np.isfinite(example)]
        where = rng.random(shape) < others.size / example.size
        values = np.where(where, rng.choice(others.astype(np.float64).ravel(), shape), values)
    return values.astype(example.dtype)


def varied(array: np.ndarray, rng: np.random.Generator, image: bool = False) -> np.ndarray:
    """The array, a little different and as likely an input: for timing, where no run should repeat the one before.

    Floating-point numbers get normal noise of 5 % of their standard deviation (of their mean size where all are equal), finite ones
    alone; zeros all through stay zeros. Pixels (``image``, uint8) change by up to 8 levels. Other whole numbers stay as they are.
    """
    if image and array.dtype == np.uint8:
        pixels: np.ndarray = np.clip(array.astype(np.int16) + rng.integers(-8, 9, array.shape), 0, 255).astype(np.uint8)
        return pixels
    finite = np.isfinite(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    if not finite.any():
        return array
    values = array[finite].astype(np.float64)
    spread = float(values.std()) or float(np.abs(values).mean())
    moved = array.astype(np.float64)
    moved[finite] += VARIATION * spread * rng.standard_normal(array.shape)[finite]
    return moved.astype(array.dtype)


def noise_inputs(specs: Sequence[TensorSpec], count: int, classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What an image generator takes, ``count`` rows: standard normal float32 noise, and all class indices in turn."""
    made: dict[str, np.ndarray] = {}
    for spec in specs:
        if spec.dtype == "float32":
            sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
            made[spec.name] = rng.standard_normal((count, *sizes), dtype=np.float32)
        else:
            made[spec.name] = (np.arange(count) % max(1, classes)).astype(spec.dtype)
    return made
