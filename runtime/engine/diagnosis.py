"""What this machine can run, what prevents it, and how to fix that. Only collects: ``onnxferry doctor`` prints it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from onnxferry.runtime.artifact.zoo import changed_files, shipped_sums
from onnxferry.runtime.engine import ort
from onnxferry.runtime.errors import OnnxFerryError, install_command
from onnxferry.runtime.machine import cpu as hardware
from onnxferry.runtime.machine import nvidia
from onnxferry.runtime.machine import nvidia as cuda_libraries
from onnxferry.runtime.machine.telemetry import TELEMETRY_OFF

OLDEST_ORT = (1, 24)


UNTRUSTED_ORT = (1, 32)
"""From this version on, no file that our reader accepts is known to read foreign memory in ONNX Runtime."""


NO_LOCAL_RUN = frozenset({"AzureExecutionProvider"})
"""Providers that send the work elsewhere and fall back to the CPU for all else: listed by ONNX Runtime's wheels, not tried."""


Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One fact. A problem has a fix; a note is only information."""

    area: str
    name: str
    value: str
    status: Status = "ok"
    fix: str = ""  # what to do, for a problem or a note


@dataclass(frozen=True)
class Diagnosis:
    findings: tuple[Finding, ...]
    cpu_works: bool  # a one-node model ran on it

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == "problem")


def diagnose() -> Diagnosis:
    """Checks everything once, loading the CUDA libraries if there are any. Does not raise: a failure is a finding."""
    wheels = installed_wheels()
    try:
        module: Any = ort.onnxruntime()
        broken = None
    except OnnxFerryError as error:
        module, broken = None, str(error)
    devices = nvidia.cuda_devices()
    works = {full: ort.provider_problem(full) for full in module.get_available_providers() if full not in NO_LOCAL_RUN} if module else {}
    cpu_works = ort.CPU in works and works[ort.CPU] is None
    findings = [
        *system_findings(),
        shipped_finding(),
        *wheel_findings(wheels, module.__version__ if module else None, broken, devices),
        *provider_findings(works, devices),
        *(cuda_findings(cuda_libraries.cuda_of_wheel(module), devices) if module else ()),
        *thread_findings(),
        telemetry_finding(),
        *extra_findings(metadata.requires("onnxferry") or []),
    ]
    return Diagnosis(tuple(findings), cpu_works)


def system_findings() -> Iterator[Finding]:
    yield Finding("system", "onnxferry", metadata.version("onnxferry"))
    yield Finding("system", "Python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("system", "platform", platform.platform(terse=True) + f", {platform.machine()}")


def installed_wheels(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """Name to version of every installed distribution that brings the package ``onnxruntime``."""
    found = {}
    for distribution in metadata.distributions() if distributions is None else distributions:
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        # onnxruntime-extensions and -genai share the prefix and not the package. None: it kept no list of its files.
        if name.startswith(("onnxruntime", "ort-nightly")) and not name.startswith(("onnxruntime-extensions", "onnxruntime-genai")):
            files = distribution.files
            if files is None or any(file.as_posix() == "onnxruntime/__init__.py" for file in files):
                found[name] = distribution.version
    return dict(sorted(found.items()))


def wheel_findings(wheels: Mapping[str, str], version: str | None, broken: str | None, devices: int) -> Iterator[Finding]:
    """``version``: of the module that is imported, None where it cannot be; then ``broken`` says why."""
    area = "ONNX Runtime"
    kind = "gpu,cuda" if devices else "gpu" if "onnxruntime-gpu" in wheels else "cpu"
    again = install_command(kind)
    if not wheels and version is None:
        yield Finding(area, "wheel", "none is installed", "problem", again)
        return
    if len(wheels) > 1:
        both = " and ".join(f"{name} {number}" for name, number in wheels.items())
        value = f"{both} are installed and overwrite each other's files"
        yield Finding(area, "wheel", value, "problem", f"pip uninstall -y {' '.join(wheels)}, then {again}")
    else:
        yield Finding(area, "wheel", " ".join(*wheels.items()) if wheels else "not from a wheel")
    if version is None:
        fix = f"pip uninstall -y {' '.join(wheels)}, then {again}"
        yield Finding(area, "import", broken or "fails", "problem", fix)
        return
    if wheels and version not in wheels.values():
        fix = f"pip uninstall -y {' '.join(wheels)}, then {again}"
        yield Finding(area, "import", f"gives version {version}, which is not the wheel's: files of another one lie there", "problem", fix)
    if _numbers(version) < OLDEST_ORT:
        value = f"{version} is older than {'.'.join(map(str, OLDEST_ORT))}, the oldest that is tested"
        yield Finding(area, "version", value, "problem", f"pip install -U {next(iter(wheels), 'onnxruntime')}")
    elif _numbers(version) < UNTRUSTED_ORT:
        value = f"{version} has known faults in reading model files, fixed in {'.'.join(map(str, UNTRUSTED_ORT))}"
        yield Finding(area, "version", value, "note", "open files that you don't trust with `onnxferry check FILE --untrusted` only")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def outdated_for_untrusted() -> str | None:
    """The installed ONNX Runtime's version where it has known faults in reading model files, else None. Imports nothing."""
    return next((version for version in installed_wheels().values() if _numbers(version) < UNTRUSTED_ORT), None)


def provider_findings(works: Mapping[str, str | None], devices: int) -> Iterator[Finding]:
    """``works``: full name of each provider that ONNX Runtime offers to why it cannot run a one-node model, None where it can."""
    for full, problem in works.items():
        name = ort.short_name(full)
        if problem is None:
            yield Finding("providers", name, "works: ran a one-node model")
            continue
        # TensorRT needs a library of its own that few have, and CUDA a GPU: only where that is here is it a problem.
        wanted = full == ort.CPU or (full == ort.CUDA and devices > 0)
        value, _, fix = problem.partition("; ")
        yield Finding("providers", name, value, "problem", fix) if wanted else Finding("providers", name, value, "note")
    if works and devices and ort.CUDA not in works:
        value = f"not offered, though there {'is an NVIDIA GPU' if devices == 1 else f'are {devices} NVIDIA GPUs'} here"
        yield Finding("providers", "cuda", value, "problem", f"pip uninstall -y onnxruntime, then {install_command('gpu,cuda')}")


def cuda_findings(wheel_cuda: str | None, devices: int) -> Iterator[Finding]:
    """``wheel_cuda``: the CUDA version that the installed ONNX Runtime was built for, None where it was built without."""
    area = "CUDA"
    driver = cuda_libraries.driver_cuda()
    if devices:
        yield Finding(area, "GPUs", f"{devices}: {', '.join(cuda_libraries.device_names())}")
    elif driver is None:
        yield Finding(area, "driver", "none, so models run on the CPU", "note" if wheel_cuda else "ok")
    else:
        yield Finding(
            area, "GPUs", "none that the driver can open, so models run on the CPU", "note", "nvidia-smi says what the driver sees"
        )
    if driver is not None:
        too_old = wheel_cuda is not None and driver[0] < int(wheel_cuda.partition(".")[0])
        value = f"supports CUDA up to {driver[0]}.{driver[1]}"
        if too_old:
            fix = f"update the NVIDIA driver, or pip install 'onnxruntime-gpu<{cuda_libraries.FIRST_ORT_WITH_CUDA_13}'"
            yield Finding(area, "driver", f"{value}, and this ONNX Runtime needs {wheel_cuda}", "problem", fix)
        else:
            yield Finding(area, "driver", value)
    if wheel_cuda is None:
        return
    places = cuda_libraries.find_libraries(wheel_cuda)
    missing = [name for name, place in places.items() if place is None]
    for name, place in places.items():
        if place is not None:
            yield Finding(area, name, f"found: {place}")
    if missing:
        value = f"not found: {', '.join(missing)}"
        fix = install_command("cuda") if int(wheel_cuda.partition(".")[0]) >= 13 else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        yield Finding(
            area, "libraries", value, "problem" if devices else "note", fix if devices else f"{fix}, should there be a GPU one day"
        )


def thread_findings() -> Iterator[Finding]:
    area = "threads"
    quota = hardware.cgroup_quota()
    usable, default = hardware.available_cpus(), hardware.default_threads()
    yield Finding(area, "CPUs", f"{os.cpu_count()} in the machine, {usable} for this process")
    yield Finding(area, "cgroup quota", "none" if quota is None else f"{quota:g} CPUs")
    asked = os.environ.get("OMP_NUM_THREADS")
    yield Finding(area, "OMP_NUM_THREADS", asked if asked else "not set")
    if default > usable:
        value = f"{default} by default, more than the {usable} CPUs this process may use: they will wait for each other"
        yield Finding(area, "a model gets", value, "problem", f"unset OMP_NUM_THREADS, or set it to {usable}")
    else:
        yield Finding(area, "a model gets", f"{default} by default")


def telemetry_finding() -> Finding:
    """Whether ONNX Runtime may send usage data. Reads the environment that it was imported with."""
    if os.environ.get(TELEMETRY_OFF) == "1":
        return Finding("privacy", "telemetry", f"ONNX Runtime's is off ({TELEMETRY_OFF}=1); onnxferry has none")
    value = f"{TELEMETRY_OFF} is {os.environ.get(TELEMETRY_OFF)!r}: ONNX Runtime 1.29 and newer may send usage data"
    return Finding("privacy", "telemetry", value, "note", f"unset {TELEMETRY_OFF}, or set it to 1")


def shipped_finding() -> Finding:
    """Whether the shipped models are the files that this release shipped."""
    try:
        count, wrong = len(shipped_sums()), changed_files()
    except OnnxFerryError as error:
        count, wrong = 0, [str(error)]
    if wrong:
        return Finding("system", "shipped models", wrong[0], "problem", "pip install --force-reinstall --no-deps onnxferry")
    return Finding("system", "shipped models", f"all {count} files have the SHA-256 that they were shipped with")


def extra_findings(requirements: Iterable[str]) -> Iterator[Finding]:
    """Which optional extras are there, by the package's own list of requirements (Requires-Dist lines)."""
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        # Those of [all], [dev] repeat other extras', and which ONNX Runtime is there is reported above.
        match = re.fullmatch(r"([\w.-]+)[^;]*;\s*extra == ['\"]([\w-]+)['\"]", requirement)
        if match and match[2] not in ("all", "dev", "cpu", "gpu", "cuda"):
            extras.setdefault(match[2], []).append(match[1])
    for extra, packages in extras.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        there = ", ".join(f"{package} {version}" for package, version in versions.items() if version is not None)
        if missing:
            value = f"not installed: {', '.join(missing)}" + (f" (there: {there})" if there else "")
            yield Finding("extras", extra, value, "note", install_command(extra))
        else:
            yield Finding("extras", extra, there)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
