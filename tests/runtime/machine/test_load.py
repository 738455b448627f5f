"""A busy machine is noticed by the system's counters, and only where they can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxferry.runtime.machine import load
from onnxferry.runtime.machine.load import LoadMeter

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no /proc/stat")


class Machine:
    """Two CPUs; seconds pass when it is told."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.wall, self.own, self.busy, self.stolen, self.throttled = root, 0.0, 0.0, 0.0, 0.0, 0.0
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
        monkeypatch.setattr(os, "sysconf", lambda _: 100)
        monkeypatch.setattr(load.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(load.time, "process_time", lambda: self.own)
        (root / "proc").mkdir()
        (root / "sys/fs/cgroup").mkdir(parents=True)
        self.passes(0)

    def passes(self, wall: float, own: float = 0, others: float = 0, stolen: float = 0, throttled: float = 0) -> None:
        self.wall, self.own, self.busy = self.wall + wall, self.own + own, self.busy + own + others
        self.stolen, self.throttled = self.stolen + stolen, self.throttled + throttled
        rows = [f"cpu{n} {self.busy * 50:.0f} 0 0 7 7 0 0 {self.stolen * 50:.0f} 0 0" for n in (0, 3)]
        (self.root / "proc/stat").write_text("\n".join(["cpu 1 2 3 4 5 6 7 8", rows[0], "cpu1 9000 0 0 0 0 0 0 0", rows[1], "intr 5"]))
        (self.root / "sys/fs/cgroup/cpu.stat").write_text(f"usage_usec 5\nthrottled_usec {self.throttled * 1e6:.0f}\n")


@linux
def test_what_keeps_it_busy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    meter = LoadMeter(tmp_path)
    machine.passes(0.1, others=0.2)
    assert meter.words() == ""  # too short to say
    meter = LoadMeter(tmp_path)
    machine.passes(10, own=15, others=1)
    assert meter.words() == ""
    machine.passes(10, own=10, others=10)
    assert meter.words() == "other programs used 28% of its CPUs"
    machine.passes(10, stolen=6, throttled=3)
    assert meter.words() == (
        "other programs used 18% of its CPUs, the hypervisor took 10% of their time, a quota of CPU time stopped it now and then"
    )


@linux
@pytest.mark.parametrize("text", [None, "", "cpu0 1 2 3\ncpu3 1 2 3", "cpu0 1 2 3 4 5 6 7 x", "cpu0 0 0 0 0 0 0 0 0"])
def test_counters_that_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    machine = Machine(tmp_path, monkeypatch)
    stat = tmp_path / "proc/stat"
    stat.unlink() if text is None else stat.write_text(text)
    meter = LoadMeter(tmp_path)
    machine.wall = 10.0
    assert meter.words() == ""


@linux
def test_without_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\n")
    meter = LoadMeter(tmp_path)
    machine.passes(10, others=10)
    assert meter.words() == "other programs used 50% of its CPUs"
