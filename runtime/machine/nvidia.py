"""The NVIDIA driver and the CUDA libraries as ONNX Runtime needs them: which, of which version, found where."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

FIRST_ORT_WITH_CUDA_13 = "1.27"
"""Wheels before it were built for CUDA 12."""


# Major version of the toolkit → library and its own major version. From the provider library's dynamic section, and cuDNN,
# cuFFT and NVRTC, which it loads when a graph needs them.
_LIBRARIES = {
    12: {"cudart": 12, "cublasLt": 12, "cublas": 12, "curand": 10, "cufft": 11, "nvrtc": 12, "cudnn": 9},
    13: {"cudart": 13, "cublasLt": 13, "cublas": 13, "curand": 10, "cufft": 12, "nvrtc": 13, "cudnn": 9},
}


def cuda_of_wheel(onnxruntime: ModuleType) -> str | None:
    """The CUDA version that this ONNX Runtime was built for, such as ``"13.0"``; None where it was built without."""
    try:
        info = import_module(f"{onnxruntime.__name__}.capi.build_and_package_info")
    except ImportError:  # built from source
        return None
    version = getattr(info, "cuda_version", None)
    return str(version) if version else None


def library_files(wheel_cuda: str) -> tuple[str, ...]:
    """File names of the libraries that a wheel for this CUDA version needs; none for a version that is not known."""
    libraries = _LIBRARIES.get(int(wheel_cuda.partition(".")[0]), {})
    if sys.platform == "win32":
        return tuple(f"{name}64_{major}.dll" for name, major in libraries.items() if name != "nvrtc")
    return tuple(f"lib{name}.so.{major}" for name, major in libraries.items())


def find_libraries(wheel_cuda: str, folders: Iterable[str] | None = None) -> dict[str, str | None]:
    """File name to where it is: the folder that a pip package of NVIDIA's put it in, ``the system``, or None.

    ``folders``: where pip packages lie, ``sys.path`` if not given.
    """
    roots = [Path(folder) / "nvidia" for folder in (sys.path if folders is None else folders) if folder]
    by_pip = [folder for root in roots if root.is_dir() for folder in sorted(root.glob("*/*")) if folder.name in ("lib", "bin", "x86_64")]
    by_pip += [folder for root in roots if root.is_dir() for folder in sorted(root.glob("*/bin/x86_64"))]
    places: dict[str, str | None] = {}
    for file in library_files(wheel_cuda):
        folder = next((folder for folder in by_pip if (folder / file).is_file()), None)
        places[file] = str(folder) if folder else "the system" if _loads(file) else None
    return places


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the installed NVIDIA driver supports, major and minor; None where there is no driver."""
    driver = load_driver()
    version = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def device_names() -> tuple[str, ...]:
    """Names of the GPUs that the driver can open, such as ``"NVIDIA H100 80GB HBM3"``."""
    driver = load_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    names = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        known = driver.cuDeviceGetName(name, len(name), index) == 0  # a device's handle is its index
        names.append(name.value.decode(errors="replace") if known else "unknown")
    return tuple(names)


def _loads(file: str) -> bool:
    try:
        ctypes.CDLL(file)
    except OSError:
        return False
    return True


_DRIVER_LIBRARIES = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")


def cuda_devices() -> int:
    """NVIDIA devices that the installed driver can open: 0 where there is no driver or no device. Needs no CUDA toolkit.

    Asked of the driver itself (cuInit, cuDeviceGetCount), because the CUDA build of ONNX Runtime lists its CUDA provider
    on every machine, with or without a GPU.
    """
    driver = load_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def load_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library, or None where there is none. Its functions are the CUDA driver API's, prototypes unset."""
    for name in _DRIVER_LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
