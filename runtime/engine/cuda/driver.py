"""What NVIDIA's driver is asked for directly, because ONNX Runtime has no way to it from Python: waiting for a stream, and copying on one.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator

from onnxferry.runtime.errors import DeviceError
from onnxferry.runtime.machine import nvidia

Copy = tuple[int, int, int]
"""To an address, from an address, bytes: both on the device."""


def wait_for(stream: int, device: int) -> None:
    """Until all that was put on a stream of the GPU ``device`` is done."""
    driver = nvidia.load_driver()
    code = -1
    if driver is not None:
        with primary_context(driver, device):
            code = driver.cuStreamSynchronize(ctypes.c_void_p(stream))
    if code != 0:
        raise DeviceError(f"waiting for the CUDA stream {stream:#x} failed (driver error {code}); is it a stream of this process?")


def copy_on(stream: int, device: int, copies: Iterable[Copy]) -> None:
    """Puts copies on a stream, and does not wait for them."""
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
    """The context that all of this process shares, current in this thread: any thread may come here, one that never saw CUDA too."""
    context = ctypes.c_void_p()
    if driver.cuInit(0) != 0 or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0:
        yield  # what is called then says what is wrong
        return
    pushed = driver.cuCtxPushCurrent_v2(context) == 0
    try:
        yield
    finally:
        if pushed:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        driver.cuDevicePrimaryCtxRelease_v2(device)
