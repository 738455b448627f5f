"""Value probes: inputs on which faults of converters and kernels show, by the dtype of an input and what the graph does with it.

Random values of the example's range meet no tie, no large whole number and no underflow. Every probe here is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from onnxferry.export.graphs.roles import Role
from onnxferry.export.parity.probes import MAX_PROBE_BYTES, SEED, Case, bytes_at, random_values
from onnxferry.export.source import Feeds, InputSpec

Shape = tuple[int, ...]
Fill = Callable[[Shape, np.random.Generator], np.ndarray]
"""Makes an array of a shape."""

# The example's own values, where an input has no patterns.
_AS_EXAMPLE = "as the example"


def value_probes(
    inputs: Sequence[InputSpec], examples: Feeds, found: Mapping[str, Role], shapes: Sequence[Mapping[str, int]]
) -> list[Case]:
    """Probes at each of ``shapes`` (sizes of the dynamic axes), the most telling first.

    First all inputs have a pattern together, then each alone, beside random values for the others.
    """
    patterns = {spec.name: _patterns(spec, examples[spec.name], found.get(spec.name, Role())) for spec in inputs}
    cases: list[Case] = []
    for sizes in shapes:
        if bytes_at(inputs, sizes) <= MAX_PROBE_BYTES:
            cases += _together(inputs, examples, patterns, sizes)
    for sizes in shapes[:1] if len(inputs) > 1 else ():
        if bytes_at(inputs, sizes) <= MAX_PROBE_BYTES:
            cases += _alone(inputs, examples, patterns, sizes)
    return cases


def nonfinite_probes(inputs: Sequence[InputSpec], examples: Feeds, sizes: Mapping[str, int]) -> list[Case]:
    """Not-a-number and infinities, in one element of every row, in one input at a time."""
    cases = []
    for spec in inputs:
        if np.dtype(spec.dtype if spec.dtype != "str" else "O").kind != "f" or bytes_at(inputs, sizes) > MAX_PROBE_BYTES:
            continue
        for number, (name, value) in enumerate((("NaN", np.nan), ("+inf", np.inf), ("-inf", -np.inf))):
            rng = np.random.default_rng((SEED, 3000 + number))
            feeds = {s.name: random_values(s, examples[s.name], s.shape_at(sizes), rng) for s in inputs}
            if not feeds[spec.name].size:
                continue
            rows = feeds[spec.name].reshape(-1, feeds[spec.name].shape[-1] if feeds[spec.name].ndim else 1)
            # In another place of each row; the last row stays finite.
            for row in range(max(1, len(rows) - 1)):
                rows[row, row % rows.shape[1]] = value
            feeds[spec.name] = rows.reshape(feeds[spec.name].shape)
            cases.append(Case(f"{name} in {spec.name}", feeds, sizes, generated=True))
    return cases


def _together(
    inputs: Sequence[InputSpec], examples: Feeds, patterns: Mapping[str, Sequence[tuple[str, Fill]]], sizes: Mapping[str, int]
) -> Iterator[Case]:
    for number in range(max((len(p) for p in patterns.values()), default=0)):
        rng = np.random.default_rng((SEED, 2000 + number))
        feeds, names = {}, []
        for spec in inputs:
            own = patterns[spec.name]
            name, fill = own[number % len(own)] if own else (_AS_EXAMPLE, None)
            feeds[spec.name] = _filled(spec, examples[spec.name], fill, sizes, rng)
            names.append(name)
        words = ", ".join(dict.fromkeys(names))
        yield Case(f"values: {words}{_at(sizes)}", feeds, sizes, generated=True)


def _alone(
    inputs: Sequence[InputSpec], examples: Feeds, patterns: Mapping[str, Sequence[tuple[str, Fill]]], sizes: Mapping[str, int]
) -> Iterator[Case]:
    longest = max((len(p) for p in patterns.values()), default=0)
    for number in range(longest):
        for chosen in inputs:
            if number >= len(patterns[chosen.name]):
                continue
            name, fill = patterns[chosen.name][number]
            rng = np.random.default_rng((SEED, 2500 + number))
            feeds = {s.name: _filled(s, examples[s.name], fill if s is chosen else None, sizes, rng) for s in inputs}
            yield Case(f"values: {name} in {chosen.name}{_at(sizes)}", feeds, sizes, generated=True)


def _at(sizes: Mapping[str, int]) -> str:
    return f" at {', '.join(f'{axis}={size}' for axis, size in sizes.items())}" if sizes else ""


def _filled(spec: InputSpec, example: np.ndarray, fill: Fill | None, sizes: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    shape = spec.shape_at(sizes)
    if fill is None:
        return random_values(spec, example, shape, rng)
    with np.errstate(over="ignore"):
        return np.array(np.broadcast_to(fill(shape, rng), shape).astype(spec.dtype))


def _patterns(spec: InputSpec, example: np.ndarray, role: Role) -> list[tuple[str, Fill]]:
    if spec.dtype == "str" or spec.begins:
        return _constants({"zeros": 0}) if spec.begins else []
    kind = np.dtype(spec.dtype)
    if kind.kind == "b":
        return _flags()
    if kind.kind == "f":
        return [] if role.sizes else _floats(kind, example)
    if role.sizes:
        return []
    if role.rows is not None:
        return _indices(role.rows)
    if example.size > 1 and set(np.unique(example)[:3].tolist()) == {0, 1}:
        return [("a mix", _among([0, 1])), *_constants({"zeros": 0, "ones": 1})]
    return _integers(kind, spec)


def column_patterns(spec: InputSpec, example: np.ndarray) -> list[tuple[str, Fill]]:
    """The patterns of the columns of a table, by dtype; none for text."""
    return _patterns(spec, example, Role())


def _constants(values: Mapping[str, float]) -> list[tuple[str, Fill]]:
    return [(name, lambda shape, rng, value=value: np.full(shape, value)) for name, value in values.items()]  # type: ignore[misc]


def _among(values: Sequence[float]) -> Fill:
    dtype = np.int64 if all(isinstance(value, int) for value in values) else np.float64
    return lambda shape, rng: rng.choice(np.array(values, dtype), shape)


def _equal_rows(values: Sequence[float]) -> Fill:
    """One value all along the last axis, another in the next row."""
    drawn = _among(values)
    return lambda shape, rng: drawn((*shape[:-1], 1), rng) if shape else drawn(shape, rng)


def _flags() -> list[tuple[str, Fill]]:
    return [
        ("a mix of flags", lambda shape, rng: rng.integers(0, 2, shape)),
        ("all true", lambda shape, rng: np.ones(shape)),
        ("all false", lambda shape, rng: np.zeros(shape)),
        ("rows all true or all false", _equal_rows([0, 1])),
    ]


def _indices(rows: int) -> list[tuple[str, Fill]]:
    """Into a table of so many rows."""
    return [
        ("any row of the table", lambda shape, rng: rng.integers(0, rows, shape)),
        ("the last row of the table", lambda shape, rng: np.full(shape, rows - 1)),
        ("the first row of the table", lambda shape, rng: np.zeros(shape)),
        ("rows counted from the end", lambda shape, rng: np.full(shape, -1)),
    ]


def _integers(kind: np.dtype[np.generic], spec: InputSpec) -> list[tuple[str, Fill]]:
    limits = np.iinfo(kind.name)
    large = [2**24 + 1, 2**24 + 3, 2**31 - 1, 2**31, 2**31 + 5, 3 * 10**9, 2**40 + 59, 2**53 + 1]
    large = [n for n in large if n <= limits.max]
    # The largest of a small dtype; of a large one, sums would overflow, which is not meant.
    small = [n for n in (limits.min, limits.min + 1, 127, 128, limits.max - 1, limits.max) if kind.itemsize == 1 and n <= limits.max]
    signed = limits.min < 0
    lengths = [n for n in (0, 1, *spec.traced) if n <= limits.max]
    everyday = [n for n in (0, 1, 2, 3, 7, 10, 59, 60, 61, 100) if n <= limits.max]
    if signed:
        everyday += [-n for n in everyday]
        large += [-n for n in large]
    found: list[tuple[str, Fill]] = [("a mix", _among([*everyday, *large, *small])), ("small numbers", _among(everyday))]
    found += [("large whole numbers", _among(large))] if large else []
    found += [("the ends of the dtype", _among(small))] if small else []
    found += [*_constants({"zeros": 0, "ones": 1, **({"negative ones": -1} if signed else {})}), ("equal rows", _equal_rows(everyday))]
    return [*found, ("lengths", _among(lengths))]


def _floats(kind: np.dtype[np.generic], example: np.ndarray) -> list[tuple[str, Fill]]:
    if not np.isfinite(example).all():
        return _constants({"zeros": 0.0})  # a mask of infinities: other numbers mean nothing in it
    halves = [n / 2 for n in range(-7, 8)]
    tenths = [n / 10 for n in range(-20, 21)]
    steep = [88.0, -88.0, 20.0, -20.0, -100.0, 100.0]
    whole = {2: [2049.0], 4: [2.0**24, 2.0**24 + 2], 8: [2.0**24 + 1, 2.0**31 + 5, 2.0**53 - 1]}[kind.itemsize]
    # Beyond float32's exponentials a float64 model has nothing special.
    tiny, large = [1e-8, -1e-8, 3e-8, 1e-6, -1e-6], [1e4, -1e4, 5e3, -2.5e3]
    found: list[tuple[str, Fill]] = [
        ("a mix", _among([*halves, *tenths, *tiny, 88.0, -88.0, -0.0])),
        ("halves", _among(halves)),
        ("tenths", _among(tenths)),
        ("tiny", _among(tiny)),
        ("near the limits of exponentials", _among(steep)),
        ("large", _among(large)),
        ("large and small", _among([*large, *tiny, *halves])),
        ("equal rows", _equal_rows([*halves, *tenths])),
        ("unlikely logarithms", _among([-100.0, -150.0, -200.0])),
        ("a steep climb", lambda shape, rng: np.linspace(-200.0, 1.0, shape[-1]) + np.zeros(shape) if shape else np.full(shape, -200.0)),
        ("whole numbers and zeros of both signs", _among([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0])),
        *_constants({"zeros": 0.0, "ones": 1.0, "negative ones": -1.0}),
        ("all equal and large", lambda shape, rng: np.full(shape, 1e4)),
        ("large whole numbers", _among(whole)),
    ]
    return found
