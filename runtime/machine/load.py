"""How busy other programs keep this machine: what is measured meanwhile may not be true of a quiet one.

meter = LoadMeter()
...                  # measure
meter.words()        # "other programs used 40 % of its CPUs"; "" where little else ran
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

OTHERS, STOLEN, THROTTLED = 0.15, 0.03, 0.03
"""Shares of the CPUs' time from which on a machine counts as busy: used by other programs, taken by the hypervisor, refused by a quota."""


SHORTEST = 0.2  # seconds: the system counts CPU time in hundredths


@dataclass(frozen=True)
class _Reading:
    wall: float  # seconds
    own: float  # CPU seconds of this process
    busy: float  # CPU seconds of all programs, on the CPUs that this process may use
    stolen: float
    throttled: float | None  # seconds that the control group's quota stopped it


class LoadMeter:
    """Compares two readings of the system's counters: when it is made, and when it is asked.

    Linux alone: elsewhere nothing is noticed. ``root`` stands in for ``/`` in tests.
    Source: proc(5), /proc/stat; Linux kernel documentation, admin-guide/cgroup-v2 (cpu.stat).
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._start = self._read()

    def words(self) -> str:
        """What kept the machine busy since, in words; "" where nothing did, nothing is known, or too little time has passed."""
        before, now = self._start, self._read()
        if before is None or now is None or now.wall - before.wall < SHORTEST:
            return ""
        wall = now.wall - before.wall
        capacity = wall * len(self._cpus)
        others = (now.busy - before.busy - (now.own - before.own)) / capacity
        stolen = (now.stolen - before.stolen) / capacity
        found = []
        if others > OTHERS:
            found.append(f"other programs used {min(others, 1):.0%} of its CPUs")
        if stolen > STOLEN:
            found.append(f"the hypervisor took {min(stolen, 1):.0%} of their time")
        if before.throttled is not None and now.throttled is not None and (now.throttled - before.throttled) / wall > THROTTLED:
            found.append("a quota of CPU time stopped it now and then")
        return ", ".join(found)

    def _read(self) -> _Reading | None:
        busy = stolen = 0.0
        seen = set()
        try:
            tick = os.sysconf("SC_CLK_TCK")
            for line in (self._root / "proc/stat").read_text(encoding="ascii").splitlines():
                name, *fields = line.split()
                if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self._cpus:
                    user, nice, system, _, _, irq, softirq, steal = (int(field) / tick for field in fields[:8])
                    busy += user + nice + system + irq + softirq
                    stolen += steal
                    seen.add(int(name[3:]))
        except (OSError, ValueError, AttributeError):  # no such file, fewer fields, or no sysconf
            return None
        if seen != self._cpus or not seen:
            return None
        return _Reading(time.perf_counter(), time.process_time(), busy, stolen, self._throttled())

    def _throttled(self) -> float | None:
        with contextlib.suppress(OSError, ValueError):
            for line in (self._root / "sys/fs/cgroup/cpu.stat").read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "throttled_usec":
                    return int(value) / 1e6
        return None
