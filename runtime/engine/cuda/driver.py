"""Calls to NVIDIA's driver that ONNX Runtime has no Python interface for: synchronizing a stream, and copying on one.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator

from onnxferry.runtime.errors import DeviceError
from onnxferry.runtime.machine import nvidia

Copy = tuple[int, int, int]
"""(target address, source address, bytes), both on the device."""


def wait_for(stream: int, device: int) -> None:
    """Blocks until all work on a stream of the GPU ``device`` is done. Raises DeviceError if the driver fails."""
    driver = nvidia.load_driver()
    code = -1
    if driver is not None:
        with primary_context(driver, device):
            code = driver.cuStreamSynchronize(ctypes.c_void_p(stream))
    if code != 0:
        raise DeviceError(f"waiting for the CUDA stream {stream:#x} failed (driver error {code}); is it a stream of this process?")


def copy_on(stream: int, device: int, copies: Iterable[Copy]) -> None:
    """Enqueues copies on a stream without waiting for them. Raises DeviceError if the driver fails."""
    driver = nvidia.load_driver()
    if driver is None:
        raise DeviceError("copying on a GPU needs an NVIDIA driver; run `nvidia-smi` to see what the driver says")
    with primary_context(driver, device):
        for target, source, size in copies:
            if size == 0:
                continue
            code = driver.cuMemcpyDtoDAsync_v2(
                ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), ctypes.c_void_p(stream)
            )
            if code != 0:
                raise DeviceError(f"copying on the CUDA stream {stream:#x} failed (driver error {code}); is it a stream of this process?")


@contextlib.contextmanager
def primary_context(driver: ctypes.CDLL, device: int) -> Iterator[None]:
    """Makes the process's primary context current in this thread, which may never have used CUDA."""
    context = ctypes.c_void_p()
    if driver.cuInit(0) != 0 or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0:
        yield  # the call that follows reports the error
        return
    pushed = driver.cuCtxPushCurrent_v2(context) == 0
    try:
        yield
    finally:
        if pushed:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        driver.cuDevicePrimaryCtxRelease_v2(device)
