"""Runs on arrays on the model's own device, without a copy: anything that supports DLPack (torch, cupy, jax, numpy).

Source: https://dmlc.github.io/dlpack/latest/python_spec.html. On CUDA, work is ordered by streams. With ``Engine(cuda_stream=…)``
everything runs on the caller's stream: producers are asked to make their data ready there, and nothing waits. Without it ONNX
Runtime uses a stream of its own, which others cannot be ordered against: the device is synchronized before and after the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import kind
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.cuda import driver as cuda_driver
from onnxferry.runtime.engine.inputs import TensorCheck, numpy_name
from onnxferry.runtime.errors import InputError

_DEVICE_TYPES = {1: "cpu", 2: "cuda"}  # DLDeviceType


_ANY_STREAM = -1  # DLPack: the consumer orders the work itself


class DeviceArray:
    """An output on the model's device. ``torch.from_dlpack(array)`` and the like share its memory; :meth:`numpy` copies to the CPU."""

    def __init__(self, value: Any, stream: int | None) -> None:
        self._value = value  # onnxruntime.OrtValue; owns the memory
        self._stream = stream

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._value.shape())

    @property
    def dtype(self) -> str:
        """``float32``, as in :class:`TensorSpec`."""
        return numpy_name(self._value.data_type())

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        name: str = self._value.device_name()
        return name

    def numpy(self) -> np.ndarray:
        """A copy in CPU memory."""
        self._wait()
        return np.array(self._value.numpy())

    def __dlpack__(self, *, stream: int | None = None, copy: bool | None = None, **_: object) -> Any:
        if copy:  # the consumer then copies
            raise TypeError("this array shares its memory, and makes no copy")
        # A stream other than the one that writes the array must not read before that is done.
        if self._stream is not None and stream not in (_ANY_STREAM, self._stream):
            self._wait()
        return self._value.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._value.__dlpack_device__()
        return device

    def _wait(self) -> None:
        if self._stream is not None:
            cuda_driver.wait_for(self._stream, self.__dlpack_device__()[1])

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype} {self.shape}, {self.device})"


class _OnStream:
    """A producer that exports its data for one stream. ONNX Runtime reads ``dtype`` to recognize bools."""

    def __init__(self, array: Any, stream: int | None) -> None:
        self._array = array
        self._stream = stream
        self.dtype = getattr(array, "dtype", None)

    def __dlpack__(self) -> Any:
        # The CPU has no streams, and some producers refuse the argument.
        return self._array.__dlpack__() if self._stream is None else self._array.__dlpack__(stream=self._stream)


def values_of(feeds: Mapping[str, Any], known: Mapping[str, TensorCheck], device: tuple[str, int], stream: int | None) -> dict[str, Any]:
    """The OrtValues that share the arrays' memory. Raises InputError for an array that does not fit."""
    return {name: _value(array, known[name], device, stream) for name, array in feeds.items()}


def run_on_device(
    session: Any,
    feeds: Mapping[str, Any],
    names: Sequence[str],
    known: Mapping[str, TensorCheck],
    device: tuple[str, int],
    stream: int | None,
    defaults: Mapping[str, Any],
) -> dict[str, DeviceArray]:
    """Runs once on arrays on ``device`` (kind, number). The inputs' names are checked already. ``defaults``: OrtValues on the device,
    of inputs that may be left out."""
    values = {**defaults, **values_of(feeds, known, device, stream)}
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    # A new binding, so that the outputs are new memory: a binding that is used again reuses the last run's.
    for name in names:
        binding.bind_output(name, *device)
    options = None
    if stream is None:
        binding.synchronize_inputs()
    else:
        options = ort.onnxruntime().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    session.run_with_iobinding(binding, options)
    return {name: DeviceArray(value, stream) for name, value in zip(names, binding.get_outputs(), strict=True)}


def _value(array: Any, feed: TensorCheck, device: tuple[str, int], stream: int | None) -> Any:
    """The OrtValue that shares an array's memory, checked."""
    name, spec = feed.spec.name, feed.spec
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise InputError(f"input {name!r} must be an array with __dlpack__, such as a torch tensor, got {kind(array)}")
    number, index = array.__dlpack_device__()
    lies = (_DEVICE_TYPES.get(int(number), f"DLPack device {int(number)}"), int(index))
    if lies != device:
        here, there = (f"{kind_of}:{at}" if kind_of != "cpu" else "cpu" for kind_of, at in (device, lies))
        raise InputError(f"input {name!r} lies on {there}, the model runs on {here}; move it there first, or use run() with numpy arrays")
    refusals: tuple[type[Exception], ...] = (*ort.error_classes(), BufferError)
    try:
        value = ort.onnxruntime().OrtValue.from_dlpack(_OnStream(array, stream if device[0] == "cuda" else None))
    except refusals as error:
        text = ort.message_of(error)
        if "ontiguous" in text:
            text = f"it is not contiguous; use {name}.contiguous()"
        raise InputError(f"input {name!r} cannot be taken as it is: {text}") from error
    dtype, shape = numpy_name(value.data_type()), tuple(value.shape())
    if dtype != spec.dtype:
        raise InputError(f"input {name!r} must be {spec.dtype}, got {dtype}")
    feed.check_shape(shape)
    return value
