"""What is free, as the system's files say in containers of both versions and outside of any, and what a process holds."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from onnxferry.runtime.machine import memory
from onnxferry.runtime.machine.memory import free_memory, peak_memory, resident_memory, shortage
from tests.runtime.machine.test_machine import V2_MOUNT, machine

V1_MOUNT = "33 25 0:29 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory"
MEMINFO = {"proc/meminfo": "MemTotal:       8000 kB\nMemFree:        1000 kB\nMemAvailable:   4000 kB\n"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "free"),
    [
        pytest.param("0::/\n", V2_MOUNT, MEMINFO, 4_096_000, id="no limit but the machine's"),
        pytest.param(
            "0::/a\n",
            V2_MOUNT,
            {**MEMINFO, "sys/fs/cgroup/a/memory.max": "3000000\n", "sys/fs/cgroup/a/memory.current": "2500000\n"},
            500_000,
            id="v2 container",
        ),
        pytest.param(
            "0::/a\n",
            V2_MOUNT,
            {
                **MEMINFO,
                "sys/fs/cgroup/a/memory.max": "3000000\n",
                "sys/fs/cgroup/a/memory.current": "2500000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 5\nfile 9\ninactive_file 400000\n",
            },
            900_000,
            id="v2 container: the cache of files can be given up",
        ),
        pytest.param(
            "0::/a\n",
            V2_MOUNT,
            {**MEMINFO, "sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "2500000\n"},
            4_096_000,
            id="v2 without a limit",
        ),
        pytest.param(
            "4:memory:/d\n0::/\n",
            V1_MOUNT,
            {
                **MEMINFO,
                "sys/fs/cgroup/memory/d/memory.limit_in_bytes": "1000000\n",
                "sys/fs/cgroup/memory/d/memory.usage_in_bytes": "1200000\n",
            },
            0,
            id="v1 beyond its limit",
        ),
        pytest.param("0::/\n", V2_MOUNT, {}, None, id="nothing is known"),
    ],
)
def test_free_memory(tmp_path: Path, groups: str, mounts: str, files: dict[str, str], free: int | None) -> None:
    assert free_memory(machine(tmp_path, groups, mounts, files)) == free


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say")
def test_what_this_process_holds() -> None:
    before = resident_memory()
    pages = mmap.mmap(-1, 2**26)  # of the system, and not of what the C library still has
    pages.write(b"\1" * len(pages))
    after, most = resident_memory(), peak_memory()
    assert before is not None
    assert after is not None
    assert most is not None
    assert after.uss - before.uss > 0.9 * len(pages)
    assert after.uss <= after.pss <= after.rss
    assert most > len(pages)
    assert resident_memory(2**22 + 1) is None  # no such process


def test_what_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    assert shortage(10**8) == ""
    assert shortage(2 * 10**9, "int8") == "int8 needs about 2.0 GB of memory, and 1.0 GB are free"
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert shortage(10**15) == ""
