"""How a text generator's weights are stored in its file: float32, half precision, or 8 bits with a scale a row.

Storing loses nothing: what is to be stored small is rounded first (:func:`rounded`), in PyTorch's network too, and the file
is compared with that one. A weight then takes the smallest form that gives every number back exactly; how the network came
to its numbers need not be given. The operators that make float32 of a form (Cast, and Mul by the scales) work on constants, so
that runtimes do them once, when they load the file: DequantizeLinear would say the same in one operator, but ONNX Runtime leaves
it standing, to be run again with every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

LARGEST = 127  # of a signed 8-bit weight: symmetric, so that -128 is not used


@dataclass(frozen=True)
class Rows:
    """``numbers`` int8 (…, rows, columns) and ``scales`` float32 (…, rows, 1), whose product is the weight."""

    numbers: np.ndarray
    scales: np.ndarray

    def value(self) -> np.ndarray:
        """float32 (…, rows, columns)."""
        product: np.ndarray = self.numbers.astype(np.float32) * self.scales
        return product


def row_rounded(weight: np.ndarray) -> Rows:
    """float32 (…, rows, columns) in 8 bits: a row's largest number is 127 times its scale, and the others the nearest, ties to even.

    Scales that cut off a row's largest numbers were tried: the least squared error was 0.6 % of its root smaller in trained
    networks, which no score shows.
    """
    scales = (np.abs(weight).max(axis=-1, keepdims=True) / np.float32(LARGEST)).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1  # a row of zeros, or of numbers that are as good as none
    numbers = np.clip(np.rint(weight / scales), -LARGEST, LARGEST).astype(np.int8)
    return Rows(numbers, scales)


def exact_rows(weight: np.ndarray) -> Rows | None:
    """The 8-bit form of a float32 weight (…, rows, columns) that was made of one; None where it is not that exactly."""
    if weight.ndim < 2 or not weight.size:
        return None
    guess = row_rounded(weight).scales
    scales, found = guess.copy(), np.zeros(guess.shape, bool)
    # 127 times the scale was rounded, and so is its 127th: the scale itself lies at most a few units in the last place away.
    for step in (0, 1, -1, 2, -2):
        tried = (guess.view(np.int32) + np.int32(step)).view(np.float32)
        numbers = np.rint(weight / tried)
        fits = (np.abs(numbers).max(axis=-1, keepdims=True) <= LARGEST) & (numbers * tried == weight).all(axis=-1, keepdims=True)
        scales = np.where(fits & ~found, tried, scales)
        found |= fits
    return Rows(np.rint(weight / scales).astype(np.int8), scales) if found.all() else None


def stored(name: str, array: np.ndarray) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Initializers and nodes that make the float32 constant ``name`` of the smallest form that loses nothing."""
    array = np.ascontiguousarray(array, np.float32)
    rows = exact_rows(array)
    if rows is not None:
        tensors = [numpy_helper.from_array(rows.numbers, f"{name}_int8"), numpy_helper.from_array(rows.scales, f"{name}_scales")]
        nodes = [
            onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_numbers"], name=f"{name}_cast", to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [f"{name}_numbers", f"{name}_scales"], [name], name=f"{name}_scale"),
        ]
        return tensors, nodes
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if np.array_equal(half.astype(np.float32), array):
        cast = onnx.helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)
        return [numpy_helper.from_array(half, f"{name}_half")], [cast]
    return [numpy_helper.from_array(array, name)], []


def stored_values(tensors: Sequence[onnx.TensorProto]) -> dict[str, np.ndarray]:
    """Every constant that ``stored`` made, and all other initializers as they are, by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    values: dict[str, np.ndarray] = {}
    for name, array in found.items():
        if name.endswith("_int8") and f"{name.removesuffix('_int8')}_scales" in found:
            plain = name.removesuffix("_int8")
            values[plain] = Rows(array, found[f"{plain}_scales"]).value()
        elif name.endswith("_half"):
            values[name.removesuffix("_half")] = array.astype(np.float32)
        else:
            values[name] = array
    return values
