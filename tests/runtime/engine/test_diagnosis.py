"""The findings, from facts that are made up: no machine has all of these troubles at once."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from onnxferry.runtime.engine import diagnosis, ort
from onnxferry.runtime.engine.diagnosis import (
    Finding,
    cuda_findings,
    diagnose,
    extra_findings,
    installed_wheels,
    outdated_for_untrusted,
    provider_findings,
    thread_findings,
    wheel_findings,
)
from onnxferry.runtime.errors import install_command
from onnxferry.runtime.machine import cpu as hardware
from onnxferry.runtime.machine import nvidia as cuda_libraries


def distribution(folder: Path, name: str, version: str, files: list[str] | None) -> metadata.Distribution:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if files is not None:
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return metadata.Distribution.at(info)


def problems(findings) -> list[tuple[str, str]]:
    return [(finding.value, finding.fix) for finding in findings if finding.status == "problem"]


class TestWheels:
    def test_those_that_bring_the_package(self, tmp_path: Path) -> None:
        package = ["onnxruntime/__init__.py"]
        found = installed_wheels(
            [
                distribution(tmp_path, "onnxruntime-gpu", "1.31.1", package),
                distribution(tmp_path, "onnxruntime", "1.30.0", package),
                distribution(tmp_path, "onnxruntime_directml", "1.24", None),
                distribution(tmp_path, "onnxruntime-extensions", "0.1", ["onnxruntime_extensions/__init__.py"]),
                distribution(tmp_path, "onnxruntime-tools", "1.7", ["onnxruntime_tools/__init__.py"]),
                distribution(tmp_path, "onnx", "1.20", ["onnx/__init__.py"]),
            ]
        )
        assert found == {"onnxruntime": "1.30.0", "onnxruntime-directml": "1.24", "onnxruntime-gpu": "1.31.1"}

    def test_the_one_of_this_environment_is_found(self) -> None:
        assert ort.onnxruntime().__version__ in installed_wheels().values()

    def test_one_that_works(self) -> None:
        (finding,) = wheel_findings({"onnxruntime": "1.32.0"}, "1.32.0", None, 0)
        assert (finding.status, finding.value) == ("ok", "onnxruntime 1.32.0")

    def test_one_for_trusted_files_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, finding = wheel_findings({"onnxruntime": "1.31.1"}, "1.31.1", None, 0)
        assert (finding.status, finding.name) == ("note", "version")
        assert "fixed in 1.32" in finding.value
        for version, outdated in (("1.31.1", "1.31.1"), ("1.32.0", None)):
            monkeypatch.setattr("onnxferry.runtime.engine.diagnosis.installed_wheels", lambda version=version: {"onnxruntime": version})
            assert outdated_for_untrusted() == outdated

    def test_none(self) -> None:
        assert problems(wheel_findings({}, None, "not installed", 0)) == [("none is installed", install_command("cpu"))]
        assert problems(wheel_findings({}, None, "not installed", 1)) == [("none is installed", install_command("gpu,cuda"))]

    def test_both(self) -> None:
        (problem,) = problems(wheel_findings({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "1.31.1", None, 0))
        assert problem == (
            "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 are installed and overwrite each other's files",
            f"pip uninstall -y onnxruntime onnxruntime-gpu, then {install_command('gpu')}",
        )

    def test_one_that_cannot_be_imported(self) -> None:
        assert problems(wheel_findings({"onnxruntime": "1.31.1"}, None, "it is half installed", 0)) == [
            ("it is half installed", f"pip uninstall -y onnxruntime, then {install_command('cpu')}")
        ]

    def test_files_of_another_one(self) -> None:
        ((value, fix),) = problems(wheel_findings({"onnxruntime-gpu": "1.31.1"}, "1.24.0", None, 0))
        assert "gives version 1.24.0" in value
        assert fix == f"pip uninstall -y onnxruntime-gpu, then {install_command('gpu')}"

    @pytest.mark.parametrize(("version", "old"), [("1.9.0", True), ("1.23.2", True), ("1.24.1", False), ("1.31.1", False), ("2.0", False)])
    def test_one_that_is_too_old(self, version: str, old: bool) -> None:
        found = problems(wheel_findings({"onnxruntime": version}, version, None, 0))
        assert bool(found) is old
        assert not old or found[0][1] == "pip install -U onnxruntime"


class TestProviders:
    def test_the_cpu_must_work(self) -> None:
        works, fails = (list(provider_findings({ort.CPU: problem}, 0)) for problem in (None, "it broke; mend it so"))
        assert works == [Finding("providers", "cpu", "works: ran a one-node model")]
        assert fails == [Finding("providers", "cpu", "it broke", "problem", "mend it so")]

    def test_cuda_must_work_where_there_is_a_gpu(self) -> None:
        offered = {ort.CUDA: "no library; pip install it", ort.CPU: None}
        assert [finding.status for finding in provider_findings(offered, 0)] == ["note", "ok"]
        assert [finding.status for finding in provider_findings(offered, 1)] == ["problem", "ok"]

    def test_a_gpu_and_a_wheel_without_cuda(self) -> None:
        assert problems(provider_findings({ort.CPU: None}, 0)) == []
        ((value, fix),) = problems(provider_findings({ort.CPU: None}, 2))
        assert value == "not offered, though there are 2 NVIDIA GPUs here"
        assert "[gpu,cuda]" in fix


class TestCuda:
    @pytest.fixture(autouse=True)
    def made_up_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "driver_cuda", lambda: (13, 0))
        monkeypatch.setattr(cuda_libraries, "device_names", lambda: ("NVIDIA Test",))
        monkeypatch.setattr(cuda_libraries, "find_libraries", lambda version: {"liba.so.1": "/there", "libb.so.2": "the system"})

    def test_all_is_well(self) -> None:
        findings = list(cuda_findings("13.0", 1))
        assert {finding.status for finding in findings} == {"ok"}
        assert [finding.value for finding in findings] == [
            "1: NVIDIA Test",
            "supports CUDA up to 13.0",
            "found: /there",
            "found: the system",
        ]

    def test_a_library_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "find_libraries", lambda version: {"liba.so.1": None, "libb.so.2": "x", "libc.so.3": None})
        assert problems(cuda_findings("13.0", 1)) == [("not found: liba.so.1, libc.so.3", install_command("cuda"))]
        assert problems(cuda_findings("12.8", 1)) == [("not found: liba.so.1, libc.so.3", "pip install 'onnxruntime-gpu[cuda,cudnn]'")]
        assert problems(cuda_findings("13.0", 0)) == []

    def test_the_driver_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "driver_cuda", lambda: (12, 4))
        ((value, fix),) = problems(cuda_findings("13.0", 1))
        assert value == "supports CUDA up to 12.4, and this ONNX Runtime needs 13.0"
        assert "update the NVIDIA driver" in fix
        assert problems(cuda_findings("12.8", 1)) == []  # minor versions are compatible

    def test_no_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "driver_cuda", lambda: None)
        assert [finding.status for finding in cuda_findings(None, 0)] == ["ok"]
        assert next(finding.status for finding in cuda_findings("13.0", 0)) == "note"


class TestThreads:
    def test_more_than_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hardware, "available_cpus", lambda: 2)
        monkeypatch.setenv("OMP_NUM_THREADS", "16")
        ((value, fix),) = problems(thread_findings())
        assert "16 by default, more than the 2 CPUs" in value
        assert fix == "unset OMP_NUM_THREADS, or set it to 2"

    def test_as_many_as_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hardware, "available_cpus", lambda: 3)
        monkeypatch.setattr(hardware, "cgroup_quota", lambda: 3.5)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        findings = {finding.name: finding.value for finding in thread_findings()}
        assert findings == {
            "CPUs": f"{os.cpu_count()} in the machine, 3 for this process",
            "cgroup quota": "3.5 CPUs",
            "OMP_NUM_THREADS": "not set",
            "a model gets": "3 by default",
        }


def test_extras_by_the_packages_own_list() -> None:
    findings = list(
        extra_findings(
            [
                "numpy>=1.26",
                'onnxruntime>=1.20; extra == "cpu"',
                'numpy; extra == "train"',
                'no-such-package<3,>=2; extra == "train"',
                'pillow>=1 ; extra == "export"',
                'onnxferry[train]; extra == "all"',
                'no-such; sys_platform == "linux" and extra == "all"',
            ]
        )
    )
    numpy, pillow = metadata.version("numpy"), metadata.version("pillow")
    assert findings == [
        Finding("extras", "train", f"not installed: no-such-package (there: numpy {numpy})", "note", install_command("train")),
        Finding("extras", "export", f"pillow {pillow}"),
    ]


class TestLibraries:
    @pytest.mark.parametrize("layout", ["cu13/lib", "cublas/lib"])
    def test_those_of_pip_are_found(self, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.platform", "linux")
        folder = tmp_path / "nvidia" / layout
        folder.mkdir(parents=True)
        (folder / "libcublas.so.13").touch()
        places = cuda_libraries.find_libraries("13.0", [str(tmp_path), ""])
        assert places["libcublas.so.13"] == str(folder)
        assert set(places) == {
            f"lib{name}"
            for name in ("cudart.so.13", "cublasLt.so.13", "cublas.so.13", "curand.so.10", "cufft.so.12", "nvrtc.so.13", "cudnn.so.9")
        }

    def test_those_of_the_system_are_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "library_files", lambda version: ("libc.so.6", "libno-such.so.1"))
        assert cuda_libraries.find_libraries("13.0", []) == {"libc.so.6": "the system", "libno-such.so.1": None}

    def test_an_unknown_cuda_is_not_guessed_at(self) -> None:
        assert cuda_libraries.library_files("99.1") == ()

    def test_the_wheels_cuda_is_read_from_the_wheel(self) -> None:
        version = cuda_libraries.cuda_of_wheel(ort.onnxruntime())
        assert (version is not None) is (ort.CUDA in ort.onnxruntime().get_available_providers())

    def test_without_a_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "load_driver", lambda: None)
        assert cuda_libraries.driver_cuda() is None
        assert cuda_libraries.device_names() == ()


class TestDriver:
    class Driver:
        """The CUDA driver API of a machine with two GPUs."""

        def cuInit(self, flags: int) -> int:  # noqa: N802
            return 0

        def cuDriverGetVersion(self, version) -> int:  # noqa: N802
            version._obj.value = 12040
            return 0

        def cuDeviceGetCount(self, count) -> int:  # noqa: N802
            count._obj.value = 2
            return 0

        def cuDeviceGetName(self, name, length: int, device: int) -> int:  # noqa: N802
            name.value = b"NVIDIA Test %d" % device
            return 0 if device == 0 else 999

    def test_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_libraries, "load_driver", self.Driver)
        assert cuda_libraries.driver_cuda() == (12, 4)
        assert cuda_libraries.device_names() == ("NVIDIA Test 0", "unknown")


def test_this_machine() -> None:
    found = diagnose()
    assert found.cpu_works
    areas = [finding.area for finding in found.findings]
    assert [area for i, area in enumerate(areas) if area not in areas[:i]] == [
        "system",
        "ONNX Runtime",
        "providers",
        "CUDA",
        "threads",
        "privacy",
        "extras",
    ]
    assert all(finding.fix for finding in found.problems)


def test_no_onnx_runtime_is_a_finding_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxferry.runtime.errors import MissingExtraError

    def missing() -> object:
        raise MissingExtraError("onnxruntime", "cpu", "running a model")

    monkeypatch.setattr(ort, "onnxruntime", missing)
    monkeypatch.setattr(diagnosis, "installed_wheels", dict)
    found = diagnose()
    assert not found.cpu_works
    assert ("none is installed", install_command("cpu")) in problems(found.findings)


def test_shipped_models_that_were_changed_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnosis.shipped_finding().status == "ok"
    monkeypatch.setattr(diagnosis, "changed_files", lambda: ["digits/digits.onnx is not the file that was shipped"])
    found = diagnosis.shipped_finding()
    assert (found.status, found.value) == ("problem", "digits/digits.onnx is not the file that was shipped")
    assert "--force-reinstall" in found.fix
