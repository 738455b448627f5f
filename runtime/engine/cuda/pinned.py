"""Page-locked ("pinned") host memory: a GPU copies from it and to it by itself, without the driver's buffer in between.

It comes from NVIDIA's driver, cuMemHostAlloc, because ONNX Runtime (up to 1.31) has no public way to its own from Python:
``OrtDevice.make`` has no kind of memory to choose, ``OrtValue.ortvalue_from_shape_and_type`` takes device memory even for an inner
OrtDevice that is HOST_ACCESSIBLE, and with a ``memory_info`` knows the allocators of plug-in providers alone ("No shared allocator
found for: … CudaPinned"). The inner session of 1.31 may give some, which would have to go with the session.
Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__MEM.html
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxferry.runtime.errors import DeviceError
from onnxferry.runtime.machine import nvidia

_FOR_ALL_CONTEXTS = 1  # CU_MEMHOSTALLOC_PORTABLE


def pinned_like(array: np.ndarray, device: int = 0) -> np.ndarray:
    """New page-locked memory of an array's shape and dtype, of any contents; it is freed with the last array that shares it.

    ``device``: the GPU that it is for, as CUDA counts them. Raises DeviceError where the driver gives none.
    """
    return np.asarray(_Memory(array, device))


class _Memory:
    """Owns the memory; ``np.asarray`` of it shares it, and keeps it alive."""

    def __init__(self, array: np.ndarray, device: int) -> None:
        self._pointer: int | None = None
        self._device = device
        driver = nvidia.load_driver()
        if driver is None or driver.cuInit(0) != 0:
            raise DeviceError("page-locked memory needs an NVIDIA driver with a usable GPU; run `nvidia-smi` to see what the driver says")
        self._driver = driver
        # Held for as long as the memory: both belong to the context that all of this process shares.
        self._context = ctypes.c_void_p()
        code = self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device)
        if code != 0:
            raise DeviceError(f"page-locked memory for GPU {device} cannot be had (driver error {code}); `onnxferry doctor` shows the GPUs")
        pointer = ctypes.c_void_p()
        with self._current():
            code = self._driver.cuMemHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(max(1, array.nbytes)), _FOR_ALL_CONTEXTS)
        if code != 0 or not pointer.value:
            self._driver.cuDevicePrimaryCtxRelease_v2(device)
            raise DeviceError(f"no page-locked memory of {array.nbytes} bytes is left (driver error {code}); use numpy.empty instead")
        self._pointer = pointer.value
        self.__array_interface__: dict[str, Any] = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (pointer.value, False),
            "version": 3,
        }

    def __del__(self) -> None:
        if self._pointer is not None:
            with self._current():
                self._driver.cuMemFreeHost(ctypes.c_void_p(self._pointer))
            self._driver.cuDevicePrimaryCtxRelease_v2(self._device)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Any thread may come here, garbage collection in one that never saw CUDA among them."""
        pushed = self._driver.cuCtxPushCurrent_v2(self._context) == 0
        try:
            yield
        finally:
            if pushed:
                self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
