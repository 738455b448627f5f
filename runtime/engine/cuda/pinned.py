"""Page-locked ("pinned") host memory: the GPU reads and writes it directly, without the driver's staging buffer.

It is allocated by NVIDIA's driver, cuMemHostAlloc, because ONNX Runtime (up to 1.31) has no public Python interface for it:
``OrtDevice.make`` cannot choose a kind of memory, ``OrtValue.ortvalue_from_shape_and_type`` allocates device memory even for an inner
OrtDevice that is HOST_ACCESSIBLE, and with a ``memory_info`` it knows the allocators of plug-in providers only ("No shared allocator
found for: … CudaPinned"). The inner session of 1.31 may allocate some, which would be freed with the session.
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
    """An uninitialized page-locked array of the given array's shape and dtype, freed with the last array that shares its memory.

    ``device``: the GPU, as CUDA numbers them. Raises DeviceError if the driver cannot allocate it.
    """
    return np.asarray(_Memory(array, device))


class _Memory:
    """Owns the memory; ``np.asarray`` of it shares the memory and keeps it alive."""

    def __init__(self, array: np.ndarray, device: int) -> None:
        self._pointer: int | None = None
        self._device = device
        driver = nvidia.load_driver()
        if driver is None or driver.cuInit(0) != 0:
            raise DeviceError("page-locked memory needs an NVIDIA driver with a usable GPU; run `nvidia-smi` to see what the driver says")
        self._driver = driver
        # The process's primary context, retained for as long as the memory.
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
        """Makes the context current: any thread may call this, also by garbage collection in one that never used CUDA."""
        pushed = self._driver.cuCtxPushCurrent_v2(self._context) == 0
        try:
            yield
        finally:
            if pushed:
                self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
