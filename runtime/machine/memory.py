"""Memory: what is free for this process, what a process holds and has held at most, and how much of it is its own.

    free_memory()                 # bytes; None where the system does not say
    resident_memory()             # Resident(rss=…, pss=…, uss=…)

Linux says all of it in /proc and in the control groups' files; elsewhere what is not known is None, and nothing is held to it.
"""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from onnxferry.runtime.machine.cpu import own_folders

SPARE = 256 * 2**20
"""Bytes that are left free for what was not counted."""


OPEN_FACTOR = 2.2
"""Memory of an open model, as a multiple of its weights: as they were read, and as the kernels want them, which is what stays. Measured
with files of 100 and 500 MB (tests/bench/bench_big.py): 1.0 at the end and 2.0 in between."""


@dataclass(frozen=True)
class Resident:
    """What a process holds in memory, bytes."""

    rss: int  # resident set size: all of its pages
    pss: int  # proportional set size: of a page that n processes share, an nth
    uss: int  # unique set size: pages that no other process has


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be used without swapping, at least 0: of the machine (MemAvailable), or what is left of the control groups' limits.

    None where the system does not say. ``root`` stands in for ``/`` in tests.
    Source: proc(5), Linux kernel documentation, admin-guide/cgroup-v2 (memory.max, memory.current, memory.stat).
    """
    rooms = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        rooms.append(_kilobytes((root / "proc/meminfo").read_text())["MemAvailable"])
    for folder in own_folders(root, "memory"):
        room = _room_in(folder)
        if room is not None:
            rooms.append(room)
    return max(0, min(rooms)) if rooms else None


def _room_in(folder: Path) -> int | None:
    """What one control group's limit leaves, its page cache counted as free; None where it sets none."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such files at this level, or "max"
            most, now = int((folder / limit).read_text()), int((folder / used).read_text())
            stat = (folder / "memory.stat").read_text() if (folder / "memory.stat").is_file() else ""
            found = re.search(rf"^{cache} (\d+)$", stat, re.MULTILINE)
            return most - now + (int(found[1]) if found else 0)
    return None


def resident_memory(process: int | str = "self") -> Resident | None:
    """Of a process, by its number; None where the system does not say, or the process has ended. Source: proc(5), smaps_rollup."""
    try:
        sizes = _kilobytes(Path(f"/proc/{process}/smaps_rollup").read_text())
        return Resident(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])
    except (OSError, ValueError, KeyError):
        return None


def peak_memory() -> int | None:
    """Bytes that this process has had resident at most since it began; None where the system does not say."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in units of 1,024 bytes


def memory_to_open(weights: int) -> int:
    """Bytes that opening a model whose weights have so many bytes needs, about."""
    return int(OPEN_FACTOR * weights)


def shortage(needed: int, what: str = "it") -> str:
    """Why something that needs so many bytes does not fit into memory now, as a clause; "" where it does or that is not known."""
    free = free_memory()
    if free is None or needed + SPARE <= free:
        return ""
    return f"{what} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"


def _kilobytes(text: str) -> dict[str, int]:
    """Lines such as ``MemAvailable:  123 kB``, in bytes."""
    return {name: int(number) * 1024 for name, number in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
