"""Names for the axes of a file that have none, or one that an exporter numbered (``unk__36``, ``s72``).

An axis that says nothing makes a worse interface: callers cannot tell the batch from the time. Names are given by place and found by
running the file: axes that have to be equal get one name, as the batch of all inputs does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.onnx_file.made_inputs import SEED, random_array
from onnxferry.runtime.onnx_file.values import TensorSpec

Axes = dict[str, dict[int, str]]
"""Input name -> place of an axis -> its name."""

MADE_UP = re.compile(r"unk__\d+|[su]\d+|dim_?\d+|dynamic_axes_\d+|\?|None|-1|N|\d+|.*(?:[^\w].*)")
"""Names that tools number, and expressions: none says what an axis is."""

SIZES = ((2, 64, 96, 128), (3, 128, 64, 96))
"""Of the first axis and of further ones: two sets, multiples of 32, as networks that halve an image five times need."""

SMALL = ((2, 8, 12, 16), (3, 5, 9, 7))
"""Where the larger sizes do not fit, as that of a window of time."""


def named_axes(specs: Sequence[TensorSpec], given: Mapping[str, Mapping[int, str]]) -> Iterator[Axes]:
    """Names for all open axes of the inputs, the most general choice first. ``given``: those that the user names.

    Names of the file are kept where they say something; one that a tool numbered keeps what it says of equality.
    """
    groups: dict[object, list[tuple[TensorSpec, int]]] = {}
    for spec in specs:
        for place, size in enumerate(spec.shape):
            if not isinstance(size, int) and place not in given.get(spec.name, {}):
                groups.setdefault(size if size else (spec.name, place), []).append((spec, place))
    known = {spec.name: dict(given.get(spec.name, {})) for spec in specs}
    open_groups = []
    for key, members in groups.items():
        if isinstance(key, str) and not MADE_UP.fullmatch(key):
            for spec, place in members:
                known[spec.name][place] = key
        else:
            open_groups.append(members)
    for by_place in (False, True):
        for one_batch in (True, False):
            taken = {name for places in known.values() for name in places.values()}
            axes = {name: dict(places) for name, places in known.items()}
            for members in open_groups:
                spec, place = members[0]
                name = _name(spec, place, one_batch, by_place, len(specs) > 1)
                if name in taken and not (name == "batch" or by_place):
                    name = f"{spec.name}_{name}"
                for each, where in members:
                    axes[each.name][where] = name
            yield axes


def _name(spec: TensorSpec, place: int, one_batch: bool, by_place: bool, several: bool) -> str:
    prefix = f"{re.sub(r'[^A-Za-z0-9_]', '_', spec.name)}_" if several and not by_place else ""
    if place == 0:
        return "batch" if one_batch or by_place else f"{prefix}batch"
    sizes = spec.shape
    if len(sizes) == 4 and spec.dtype.startswith(("float", "uint8")):
        channels_last = sizes[3] in (1, 3, 4) and sizes[1] not in (1, 3, 4)
        image = {1: "height", 2: "width"} if channels_last else {1: "channels", 2: "height", 3: "width"}
        if place in image:
            return prefix + image[place]
    if place == 1 and len(sizes) in (2, 3):
        return f"{prefix}time"
    return f"{prefix}dim{place}"


def examples_for(
    specs: Sequence[TensorSpec], axes: Axes, run: Callable[[Mapping[str, np.ndarray]], object], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray] | None:
    """Random inputs for which the file runs at two sizes of every open axis with these names; None where there are none.

    Arrays that are ``given`` are taken as they are.
    """
    for sets in (SIZES, SMALL):
        made = []
        for sizes in sets:
            lengths = _lengths(specs, axes, sizes, given)
            feeds = {
                spec.name: given[spec.name]
                if spec.name in given
                else random_array(
                    spec.dtype,
                    [size if isinstance(size, int) else lengths[axes[spec.name][place]] for place, size in enumerate(spec.shape)],
                    np.random.default_rng((SEED, number)),
                )
                for number, spec in enumerate(specs)
            }
            try:
                run(feeds)
            except OnnxFerryError:
                break
            made.append(feeds)
        if len(made) == len(sets):
            return made[0]
    return None


def _lengths(specs: Sequence[TensorSpec], axes: Axes, sizes: Sequence[int], given: Mapping[str, np.ndarray]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for spec in specs:
        if spec.name in given:
            for place, name in axes[spec.name].items():
                lengths.setdefault(name, given[spec.name].shape[place])
    others = itertools.cycle(sizes[1:])
    for spec in specs:
        for place, name in sorted(axes[spec.name].items()):
            if name not in lengths:
                lengths[name] = sizes[0] if place == 0 else next(others)
    return lengths
