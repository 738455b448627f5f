"""ONNX Runtime's plugin providers: wheels named onnxruntime-ep-NAME that bring a library, registered when they are first asked for.

    load("model.onnx", providers=["onnxruntime-ep-openvino", "cpu"])

Source: https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/ (register_execution_provider_library and others).
"""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxferry.runtime.errors import DeviceError

KNOWN = ("onnxruntime-ep-openvino",)
"""Those that are known to compute in float32 with the options below; ``tune`` tries no others."""


_NAME = re.compile(r"onnxruntime-ep-[a-z0-9][a-z0-9-]{0,40}")


@dataclass(frozen=True)
class Plugin:
    """A registered one."""

    provider: str  # the name of its execution provider, as ONNX Runtime reports it
    devices: tuple[Any, ...]  # onnxruntime.OrtEpDevice, the CPU's


_registered: dict[str, Plugin] = {}


_lock = threading.Lock()


def is_plugin(name: str) -> bool:
    """Whether it is named as such wheels are."""
    return _NAME.fullmatch(name) is not None


def registered(name: str, runtime: Any) -> Plugin:
    """The plugin of a wheel, registered now or before. ``runtime``: the onnxruntime module.

    Raises DeviceError where the wheel is not installed, does not register, or offers no CPU.
    """
    with _lock:
        if name not in _registered:
            _registered[name] = _register(name, runtime)
        return _registered[name]


def _register(name: str, runtime: Any) -> Plugin:
    module = name.replace("-", "_")
    if not hasattr(runtime, "register_execution_provider_library"):
        raise DeviceError(f"{name} needs ONNX Runtime 1.23 or newer, and {runtime.__version__} is installed; pip install -U onnxruntime")
    try:
        wheel = importlib.import_module(module)
        library, provider = wheel.get_library_path(), wheel.get_ep_name()
    except ModuleNotFoundError as error:
        if error.name != module:
            raise DeviceError(f"{name} is installed but cannot be imported ({error})") from error
        raise DeviceError(f"the provider {name!r} comes with a wheel that is not installed: pip install {name}") from error
    except (ImportError, OSError, AttributeError) as error:
        raise DeviceError(f"{name} is installed but cannot be used ({_line(error)}); install it again") from error
    try:
        runtime.register_execution_provider_library(name, library)
        devices = [each for each in runtime.get_ep_devices() if each.ep_name == provider]
    except Exception as error:
        raise DeviceError(f"{name} does not register with ONNX Runtime {runtime.__version__}: {_line(error)}") from error
    on_cpu = tuple(each for each in devices if each.device.type == runtime.OrtHardwareDeviceType.CPU)
    if not on_cpu:
        raise DeviceError(f"{name} registered, but its provider {str(provider)[:80]!r} offers no CPU here")
    return Plugin(str(provider), on_cpu)


Providers = Sequence[tuple[str, Mapping[str, Any]]]


def add_all(options: Any, providers: Providers, threads: int, runtime: Any) -> Providers:
    """Adds all plugins among ``providers`` (full names with options) to session options, which takes the CPU beside them and no others.

    Returns their providers' names, as a session reports them. Raises what :func:`registered` raises, and DeviceError.
    """
    others = [name for name, _ in providers if not is_plugin(name) and name != "CPUExecutionProvider"]
    if others:
        raise DeviceError(f"ONNX Runtime takes no other provider beside a plugin's but the CPU, got {', '.join(others)}")
    return [(add_to(options, name, given, threads, runtime), {}) for name, given in providers if is_plugin(name)]


def add_to(options: Any, name: str, settings: Mapping[str, Any], threads: int, runtime: Any) -> str:
    """Adds a plugin's provider to session options, in float32 and with that many threads. Returns the provider's full name."""
    plugin = registered(name, runtime)
    given = {str(key): str(value) for key, value in settings.items()}
    options.add_provider_for_devices(list(plugin.devices), {**_options_of(name, threads), **given})
    return plugin.provider


def _options_of(name: str, threads: int) -> dict[str, str]:
    if name != "onnxruntime-ep-openvino":
        return {}
    # On AMX, OpenVINO would compute in bfloat16 by default.
    config = {"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}}
    return {"load_config": json.dumps(config)}


def _line(error: BaseException) -> str:
    words: Sequence[str] = str(error).split()
    return " ".join(words)[:300] or type(error).__name__
