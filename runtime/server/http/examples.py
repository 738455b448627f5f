"""Inputs that a served model takes as they are: for its description and its page, where they can be copied and sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.onnx_file.made_inputs import random_array
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.server.models import ServedModel
from onnxferry.runtime.server.tensors import metadata

MOST_NUMBERS = 2000
"""In an example: a whole photo in numbers is none."""


SIZES = (4, 32, 1)
"""Of open axes after the first: the first with which the model runs is taken."""


SECONDS = 5.0
"""That an example may take to run."""

Feeds = Mapping[str, np.ndarray]

_known: WeakKeyDictionary[ServedModel, Feeds | None] = WeakKeyDictionary()
_lock = threading.Lock()


def example_feeds(served: ServedModel) -> Feeds | None:
    """Arrays by input name, made up, with which the model has been run once: one row, or as many as the graph fixes.

    None where none of at most MOST_NUMBERS numbers is found. The file's golden samples are not used: they may be data that the clients of
    a server should not see. Runs the model at the first call: not for an event loop.
    """
    with _lock:
        if served not in _known:
            _known[served] = next((feeds for feeds in _candidates(served) if _runs(served, feeds)), None)
        return _known[served]


def infer_example(feeds: Feeds, inputs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The body of a request of the protocol."""
    rows = [{**metadata(inputs[name]), "shape": list(array.shape), "data": array.ravel().tolist()} for name, array in feeds.items()]
    return {"inputs": rows}


def run_example(feeds: Feeds) -> dict[str, Any]:
    """The body of a plain request: nested lists by input name."""
    return {name: array.tolist() for name, array in feeds.items()}


def _candidates(served: ServedModel) -> Iterator[Feeds]:
    for size in SIZES:
        try:
            feeds = {spec.name: _made(spec, size, number) for number, spec in enumerate(served.engine.inputs)}
        except (OnnxFerryError, ValueError):
            return
        if _fits(served, feeds):
            yield feeds


def _fits(served: ServedModel, feeds: Feeds) -> bool:
    return bool(feeds) and sum(array.size for array in feeds.values()) <= MOST_NUMBERS and set(feeds) <= set(served.inputs)


def _made(spec: TensorSpec, size: int, number: int) -> np.ndarray:
    shape = [each if isinstance(each, int) else 1 if axis == 0 else size for axis, each in enumerate(spec.shape)]
    if not spec.ranked or np.prod([1, *shape]) > MOST_NUMBERS:
        raise ValueError("no small example")
    if spec.dtype == "str":
        return np.full(shape, "text", object)
    array = random_array(spec.dtype, shape, np.random.default_rng(number))
    return array.round(2) if array.dtype.kind == "f" else array


def _runs(served: ServedModel, feeds: Feeds) -> bool:
    try:
        served.engine.run(dict(feeds), timeout=SECONDS)
    except OnnxFerryError:
        return False
    return True
