"""What the process may use: affinity, and quotas of control groups as they look in the wild."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxferry.runtime.machine import cpu as hardware
from onnxferry.runtime.machine.cpu import available_cpus, cgroup_quota, default_threads, startable_threads
from onnxferry.runtime.machine.nvidia import cuda_devices

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system with /proc/self/cgroup, /proc/self/mountinfo and control groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, id="v2 container"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None, id="v2 unlimited"),
        pytest.param("0::/\n", V2_MOUNT, {}, None, id="v2 root group has no file"),
        pytest.param(
            "0::/a/b\n",
            V2_MOUNT,
            {
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/c/cpu.max": "100000 100000",
            },
            2.0,
            id="v2 a parent's limit holds, a neighbour's does not",
        ),
        pytest.param(
            "0::/a/b\n",
            V2_MOUNT,
            {"sys/fs/cgroup/a/b/cpu.max": "50000 100000", "sys/fs/cgroup/a/cpu.max": "400000 100000"},
            0.5,
            id="v2 the smallest counts",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/1\n0::/\n",
            V1_MOUNT,
            {
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            3.0,
            id="v1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/1\n",
            V1_MOUNT,
            {
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            None,
            id="v1 unlimited",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/1\n",
            V1_MOUNT.replace("0:29 / ", "0:29 /docker/1 "),
            {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2.5,
            id="v1 container that mounts its own group",
        ),
        pytest.param(
            "4:cpu:/outside/name\n",
            V1_MOUNT.replace("0:29 / ", "0:29 /other "),
            {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"},
            1.0,
            id="v1 group named from outside",
        ),
        pytest.param(
            "0::/../../escape\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": "100000 50000"}, 2.0, id="v2 group above the container's namespace"
        ),
        pytest.param(
            "4:cpu:/a\n0::/b\n",
            f"{V1_MOUNT}\n{V2_MOUNT.replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}",
            {
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/unified/b/cpu.max": "300000 100000",
            },
            3.0,
            id="hybrid",
        ),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": "nonsense"}, None, id="nonsense in the file"),
        pytest.param("nonsense\n", "nonsense\n - \n", {}, None, id="nonsense in proc"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": "100000 0"}, None, id="a period of zero"),
    ],
)
def test_quota(tmp_path, groups, mounts, files, quota):
    assert cgroup_quota(machine(tmp_path, groups, mounts, files)) == quota


def test_no_control_groups_at_all(tmp_path):
    assert cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8), (16.0, 8), (3.9, 3), (1.5, 1), (0.5, 1), (0.01, 1)])
def test_available_cpus(monkeypatch, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(hardware, "cgroup_quota", lambda: quota)
    assert available_cpus() == cpus


def test_available_cpus_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(hardware, "cgroup_quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity cannot be set here")
def test_available_cpus_of_a_process_that_is_held_to_one():
    code = (
        "import os; from onnxferry.runtime.machine.cpu import available_cpus;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(available_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("value", "threads"),
    [("3", 3), (" 3 ", 3), ("4,2", 4), ("64", 64), ("0", 5), ("-2", 5), ("", 5), ("many", 5), ("9" * 30, 5), ("²", 5), (None, 5)],
)
def test_default_threads(monkeypatch, value, threads):
    monkeypatch.setattr(hardware, "available_cpus", lambda: 5)
    monkeypatch.setattr(hardware, "startable_threads", lambda: None)
    if value is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == threads


@pytest.mark.parametrize(("left", "threads"), [(None, 5), (9, 5), (4, 5), (2, 3), (0, 1)])
def test_default_threads_are_no_more_than_can_be_started(monkeypatch, left, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hardware, "available_cpus", lambda: 5)
    monkeypatch.setattr(hardware, "startable_threads", lambda: left)
    assert default_threads() == threads


V1_PIDS = "34 25 0:30 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "left"),
    [
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/pids.max": "10\n", "sys/fs/cgroup/pids.current": "4\n"}, 6, id="v2"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/pids.max": "3", "sys/fs/cgroup/pids.current": "4"}, 0, id="beyond the limit"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/pids.max": "max", "sys/fs/cgroup/pids.current": "4"}, None, id="unlimited"),
        pytest.param("0::/\n", V2_MOUNT, {}, None, id="no files"),
        pytest.param(
            "0::/a\n",
            V2_MOUNT,
            {
                "sys/fs/cgroup/a/pids.max": "100",
                "sys/fs/cgroup/a/pids.current": "1",
                "sys/fs/cgroup/pids.max": "200",
                "sys/fs/cgroup/pids.current": "198",
            },
            2,
            id="a parent's limit",
        ),
        pytest.param("8:pids:/d\n", V1_PIDS, {"sys/fs/cgroup/pids/d/pids.max": "10", "sys/fs/cgroup/pids/d/pids.current": "1"}, 9, id="v1"),
    ],
)
def test_startable_threads(tmp_path, monkeypatch, groups, mounts, files, left):
    monkeypatch.setattr(hardware, "_process_limit", lambda: None)
    assert startable_threads(machine(tmp_path, groups, mounts, files)) == left


def test_startable_threads_under_a_limit_of_the_user(tmp_path, monkeypatch):
    for thread in ("1", "2", "3"):
        (tmp_path / "proc/self/task" / thread).mkdir(parents=True)
    monkeypatch.setattr(hardware, "_process_limit", lambda: 5)
    assert startable_threads(tmp_path) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_other_processes_of_the_user_count_where_the_limit_is_low(tmp_path, monkeypatch):
    for place in ("self/task/1", "7/task/7", "7/task/8", "9/task/9", f"{os.getpid()}/task/1"):
        (tmp_path / "proc" / place).mkdir(parents=True)
    (tmp_path / "proc/meminfo").touch()
    (tmp_path / "proc/11").mkdir()  # has ended meanwhile
    for limit, left in ((10, 6), (3, 0), (5000, 4999)):
        monkeypatch.setattr(hardware, "_process_limit", lambda limit=limit: limit)
        assert startable_threads(tmp_path) == left


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_the_limit_of_the_user(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (7, 9))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert hardware._process_limit() == 7
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert hardware._process_limit() is None


class FakeDriver:
    """libcuda, as far as it is asked."""

    def __init__(self, status: int, count: int) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags):  # noqa: N802 (the driver's names)
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, pointer):  # noqa: N802
        pointer._obj.value = self.count
        return 0


@pytest.mark.parametrize(("status", "count", "devices"), [(0, 2, 2), (0, 0, 0), (100, 1, 0)])  # 100: CUDA_ERROR_NO_DEVICE
def test_cuda_devices(monkeypatch, status, count, devices):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(status, count))
    assert cuda_devices() == devices


def test_cuda_devices_without_a_driver(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert cuda_devices() == 0
