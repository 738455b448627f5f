"""Inputs to time a model with: made from its golden samples, from what its kind of model takes, or from its declared shapes.

Several different ones are made for each batch size and used in turn, so that the timing does not depend on a single input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import Contract, kind_of
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.made_inputs import random_array, varied
from onnxferry.runtime.onnx_file.values import TensorSpec, shape_words

WRITTEN = 48
"""Bytes that a text generator writes in one timed run: most of the time is spent in its step loop."""


_MAX_BYTES = 64 * 2**20  # of all inputs of one batch size together, unless two of them are already more


Feeds = dict[str, np.ndarray]


def make_feeds(
    contract: Contract | None,
    inputs: Sequence[TensorSpec],
    batch: int,
    count: int = 8,
    samples: Sequence[Mapping[str, np.ndarray]] = (),
    optional: Collection[str] = (),
) -> list[Feeds]:
    """Up to ``count`` feeds of ``batch`` rows for the required inputs, always the same ones; at least two.

    ``samples``: feeds of any batch size to make them from, in turn, instead of the file's first golden sample.
    ``optional``: names of inputs that samples may also have, and that keep their default. Raises InputError if values for an input
    cannot be generated, and for samples with a missing or an unknown input.
    """
    _check_names(samples, inputs, optional)
    known = samples or _first_whole([golden.inputs for golden in (contract.goldens if contract else ())], inputs)
    rng = np.random.Generator(np.random.PCG64(0))
    axis = next((spec.shape[0] for spec in inputs if spec.shape and not isinstance(spec.shape[0], int)), None)
    feeds: list[Feeds] = []
    while len(feeds) < count:
        sample = known[len(feeds) % len(known)] if known else {}
        made = {spec.name: _array(spec, contract, axis, batch, sample, rng) for spec in inputs if not spec.dtype.startswith("optional(")}
        feeds.append(made)
        if len(feeds) >= 2 and (len(feeds) + 1) * sum(array.nbytes for array in made.values()) > _MAX_BYTES:
            break
    return feeds


def fixed_sizes(inputs: Sequence[TensorSpec], feeds: Sequence[Mapping[str, np.ndarray]]) -> tuple[tuple[str, int], ...]:
    """Sizes of the inputs' dynamic axes by name, if all feeds agree on them; empty if they do not, or no axis is dynamic."""
    found: dict[str, int] = {}
    for feed in feeds:
        for spec in inputs:
            for axis, size in zip(spec.shape, feed[spec.name].shape, strict=True) if spec.name in feed and spec.ranked else ():
                if isinstance(axis, str) and found.setdefault(axis, size) != size:
                    return ()
    return tuple(sorted(found.items()))


def _first_whole(samples: Sequence[Mapping[str, np.ndarray]], inputs: Sequence[TensorSpec]) -> Sequence[Mapping[str, np.ndarray]]:
    """The first sample with every required input, if there is one: a file's samples differ in size, and so in time."""
    names = {spec.name for spec in inputs}
    return [sample for sample in samples if names <= set(sample)][:1]


def _check_names(samples: Sequence[Mapping[str, np.ndarray]], inputs: Sequence[TensorSpec], optional: Collection[str]) -> None:
    needed = [spec.name for spec in inputs if not spec.dtype.startswith("optional(")]
    for sample in samples:
        wrong = sorted(set(sample) - {spec.name for spec in inputs} - set(optional))
        lacking = [name for name in needed if name not in sample]
        if wrong or lacking:
            problem = f"name {wrong[0]!r}, which is no input" if wrong else f"lack the input {lacking[0]!r}"
            raise InputError(f"the feeds {problem}; the model takes {', '.join(needed)}")


def _array(
    spec: TensorSpec, contract: Contract | None, axis: Any, batch: int, sample: Mapping[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    options = contract.options if contract else {}
    kind = kind_of(contract)
    if kind.returns == "text" and spec.name == "uniforms":
        return rng.random((batch, WRITTEN), dtype=np.float32)
    if kind.returns == "text" and spec.name == "prompt":
        known = sample["prompt"] if "prompt" in sample and sample["prompt"].size else np.array([10], np.uint8)
        return rng.choice(known.reshape(-1), (batch, 1))  # one byte: reading it costs little beside the writing
    if kind.takes == "noise" and spec.name == "label" and contract is not None and contract.labels:
        return rng.integers(0, len(contract.labels), batch, np.int64)
    if spec.name in sample:
        return varied(_resized(sample[spec.name], spec, axis, batch, rng), rng, image=kind.takes == "image")
    size = options.get("image_size")
    if kind.takes == "image" and spec.name == "image" and isinstance(size, list) and all(type(side) is int for side in size):
        return _random(spec, (batch, *size, int(spec.shape[3] or 1)), rng)
    return _random(spec, _shape(spec, axis, batch), rng)


def _resized(array: np.ndarray, spec: TensorSpec, axis: Any, batch: int, rng: np.random.Generator) -> np.ndarray:
    """As many randomly drawn rows of a sample as the batch has."""
    for i, size in enumerate(spec.shape):
        is_batch = not isinstance(size, int) and (size == axis if axis is not None else i == 0)
        if is_batch and i < array.ndim and array.shape[i]:
            drawn: np.ndarray = np.take(array, rng.integers(0, array.shape[i], batch), axis=i)
            array = drawn
    return np.ascontiguousarray(array)


def _shape(spec: TensorSpec, axis: Any, batch: int) -> tuple[int, ...]:
    if not spec.ranked:
        raise InputError(
            f"input {spec.name!r} may have any number of axes, and the file carries no golden sample to take one from; {_GIVE}"
        )
    shape = []
    for i, size in enumerate(spec.shape):
        if isinstance(size, int):
            shape.append(size)
        elif size == axis if axis is not None else i == 0:
            shape.append(batch)
        else:
            raise InputError(
                f"input {spec.name!r} {shape_words(spec.shape)} leaves the size of axis {i} open, "
                f"and there is no golden sample to take one from; {_GIVE}"
            )
    return tuple(shape)


def _random(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    try:
        return random_array(spec.dtype, shape, rng)
    except InputError as error:
        raise InputError(f"cannot generate random values for the input {spec.name!r} ({error}); {_GIVE}") from error


_GIVE = "give some inputs: feeds=[{name: array}] in Python, or --feeds FILE.npz"
