"""Inputs that a file is compared on besides the examples: other sizes of every dynamic axis, and other magnitudes.

Values are drawn from the range that the examples show, so that ids stay ids and masks stay masks; zeros, larger and
negative values go to real inputs only. Everything is drawn with a fixed seed: the same model gets the same probes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.export.source import Feeds, InputSpec, dynamic_axes
from onnxferry.runtime.onnx_file.made_inputs import random_like

# A larger probe is left out: comparing must stay cheap beside the export itself.
MAX_PROBE_BYTES = 64 * 2**20


SEED = 20


@dataclass(frozen=True, eq=False)
class Case:
    """One input to compare source and file on."""

    name: str  # as shown to users: "example", "batch=1, height=7", "values x10"
    feeds: Feeds
    sizes: Mapping[str, int]  # of the dynamic axes
    generated: bool = False  # generated, not given: dropped if the source does not accept it


def given_case(name: str, feeds: Feeds, inputs: Sequence[InputSpec]) -> Case:
    """A case of given arrays. Sizes are read from their shapes."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for axis, size in zip(spec.shape, np.shape(feeds[spec.name]), strict=True):
            if isinstance(axis, str):
                sizes.setdefault(axis, size)
    return Case(name, feeds, sizes)


def probes(
    inputs: Sequence[InputSpec],
    examples: Feeds,
    ranges: Mapping[str, tuple[int, int | None]] | None = None,
    adjust: Callable[[str, Feeds], Feeds] | None = None,
) -> Iterator[Case]:
    """Generated cases: untraced sizes first, then other values at the traced sizes.

    ``ranges``: sizes for which the framework's capture is valid. A probe goes just beyond each bound: a Python ``if`` on a size
    leaves such a bound, and the file then has one side of it only.
    ``adjust``: given a case's name and inputs, the inputs to use instead, of the same shapes.
    """
    for case in _probes(inputs, examples, ranges or {}):
        yield case if adjust is None else dataclasses.replace(case, feeds=adjust(case.name, case.feeds))


def _probes(inputs: Sequence[InputSpec], examples: Feeds, ranges: Mapping[str, tuple[int, int | None]]) -> Iterator[Case]:
    traced = dynamic_axes(inputs)
    seen = {tuple(traced.values())}
    number = 0
    for sizes in _size_sets(traced, ranges):
        key = tuple(sizes.values())
        if key in seen or bytes_at(inputs, sizes) > MAX_PROBE_BYTES:
            continue
        seen.add(key)
        number += 1
        rng = np.random.default_rng((SEED, number))
        name = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        yield Case(name, {s.name: random_values(s, examples[s.name], s.shape_at(sizes), rng) for s in inputs}, sizes, generated=True)
    if any(spec.dtype.startswith("float") for spec in inputs):
        rng = np.random.default_rng(SEED)
        for name, factor in (("zeros", 0.0), ("values x10", 10.0), ("values negated", -1.0)):
            feeds = {spec.name: _scaled(random_values(spec, examples[spec.name], spec.traced, rng), factor) for spec in inputs}
            yield Case(name, feeds, traced, generated=True)


def variations(inputs: Sequence[InputSpec], examples: Feeds) -> Iterator[Case]:
    """More cases at the traced sizes, of both signs and several magnitudes: to reach a branch that no other case took."""
    traced = dynamic_axes(inputs)
    for number in range(8):
        rng = np.random.default_rng((SEED, 1000 + number))
        for factor in (1.0, -1.0, 10.0, -10.0):
            feeds = {spec.name: _scaled(random_values(spec, examples[spec.name], spec.traced, rng), factor) for spec in inputs}
            # A flag that the example has up may take another way when it is down.
            feeds |= {spec.name: rng.random(spec.traced) < 0.5 for spec in inputs if spec.dtype == "bool"}
            yield Case(f"values drawn again ({number}) x{factor:g}", feeds, traced, generated=True)


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    finite = np.isfinite(array)  # a mask's infinities stay: times 0 they would be NaN
    return np.where(finite, np.where(finite, array, 0) * array.dtype.type(factor), array)


def _size_sets(traced: Mapping[str, int], ranges: Mapping[str, tuple[int, int | None]]) -> Iterator[dict[str, int]]:
    if not traced:
        return
    # Together: tiny, even, and a multiple that keeps ratios and divisibility; then every axis different and odd.
    yield dict.fromkeys(traced, 1)
    yield dict.fromkeys(traced, 2)
    yield {axis: 2 * size for axis, size in traced.items()}
    yield {axis: _odd(size) + 2 * i for i, (axis, size) in enumerate(traced.items())}
    # Each alone, so that one that must keep its size (or equal another) does not hide the others.
    for axis, size in traced.items():
        for other in (1, _odd(size), 2 * size, 3 * size):
            yield {**traced, axis: other}
    for axis, (low, high) in ranges.items():
        if axis in traced:
            if low > 2:
                yield {**traced, axis: low - 1}
            if high is not None:
                yield {**traced, axis: high + 1}


def _odd(size: int) -> int:
    """The next odd number above."""
    return size + 1 if size % 2 == 0 else size + 2


def bytes_at(inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> int:
    return sum(int(np.prod(spec.shape_at(sizes), dtype=np.int64)) * np.dtype(spec.dtype).itemsize for spec in inputs)


def random_values(spec: InputSpec, example: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if spec.dtype != "str":
        example = example.astype(spec.dtype, copy=False)
    made = random_like(example, shape, rng, spec.by_column)
    if spec.begins and made.size:
        made = np.sort(made, axis=None).reshape(shape)
        made[:1] = 0
    return made
