"""What this process may really use: CPUs after affinity and container quota, and NVIDIA devices that a driver can open.

``os.cpu_count()`` says what the machine has. In a container or under ``taskset`` that is often many times more than what
the process gets, and a thread pool of that size spends its time being throttled.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from pathlib import Path, PurePosixPath


@functools.cache
def machine_name() -> str:
    """The CPU, in words for people and with a hash of its features."""
    import hashlib  # loads OpenSSL, which no plain load needs

    return f"{cpu_name()}, features {hashlib.sha256(cpu_features().encode()).hexdigest()[:12]}"


@functools.cache
def cpu_features() -> str:
    """What the CPU can do, as the system says: instruction sets decide layouts and operators of a rewritten graph."""
    import platform

    words = [platform.system(), platform.machine()]
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii") as file:
            block = file.read(16_384).split("\n\n", 1)[0]  # the first of many equal ones
    except (OSError, UnicodeDecodeError):
        return " | ".join([*words, platform.processor(), platform.version()])
    for line in block.splitlines():
        name, _, value = line.partition(":")
        # x86 says "flags", ARM "Features".
        if name.strip() in ("flags", "Features", "model name", "CPU part", "CPU implementer", "isa"):
            words.append(value.strip())
    return " | ".join(words)


def available_cpus() -> int:
    """CPUs this process may use: the scheduler's affinity mask, capped by the cgroup quota (v1 or v2); at least 1.

    A quota of 1.5 CPUs counts as 1: a thread more than the quota pays for is stopped in mid-run, and the others wait for it.
    """
    # macOS and Windows have no affinity to ask for.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, cpus if quota is None else min(cpus, math.floor(quota)))


def cpu_name() -> str:
    """The processor's name for people, such as ``AMD EPYC``; the architecture's where the system says no more."""
    import platform  # costs a start more than it is worth: few ask

    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def default_threads() -> int:
    """Threads a model gets by default: ``OMP_NUM_THREADS`` where it holds a whole number >= 1, else :func:`available_cpus`.

    No more than :func:`startable_threads` and the calling one.
    """
    # "4,2" is legal OpenMP: one number a nesting level, of which the outermost is ours.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    chosen = int(first) if first.isascii() and first.isdigit() and len(first) <= 4 else 0
    threads = chosen or available_cpus()
    left = startable_threads()
    return threads if left is None else min(threads, 1 + left)


def startable_threads(root: Path = Path("/")) -> int | None:
    """Threads that this process can still start, at least 0; None where nothing limits them.

    The least of what the control groups leave (pids.max less pids.current, of every ancestor) and, for users other than root, of
    RLIMIT_NPROC. The latter counts all of a user's threads; those of other processes are counted here where the limit is at most
    ``_COUNTED``, since that reads all of /proc.
    Where a pool cannot start its threads, ONNX Runtime may wait for them for ever.
    """
    rooms = []
    for folder in own_folders(root, "pids"):
        with contextlib.suppress(OSError, ValueError):  # no such files at this level, or "max"
            rooms.append(int((folder / "pids.max").read_text()) - int((folder / "pids.current").read_text()))
    limit = _process_limit()
    if limit is not None:
        with contextlib.suppress(OSError):
            rooms.append(limit - (_threads_of_user(root / "proc") if limit <= _COUNTED else _threads_in(root / "proc/self")))
    return max(0, min(rooms)) if rooms else None


_COUNTED = 4096  # processes that a user may have; where it is more, those that there are hardly matter


def _threads_in(process: Path) -> int:
    return sum(1 for _ in (process / "task").iterdir())


def _threads_of_user(processes: Path) -> int:
    """At least this process's own."""
    user, count = os.getuid(), 0
    for folder in processes.iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                count += _threads_in(folder) if folder.stat().st_uid == user else 0
    return count + _threads_in(processes / "self")


def _process_limit() -> int | None:
    """RLIMIT_NPROC's soft limit; None where there is none, or for root, whom it does not bind."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    if os.geteuid() == 0:
        return None
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the process's control groups allow, or None where they set no limit (or there are none: macOS, Windows).

    Every ancestor's limit holds too, so the smallest on the way up counts. ``root`` stands in for ``/`` in tests.
    Source: Linux kernel documentation, admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us).
    """
    quotas = (_quota_in(folder) for folder in own_folders(root, "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def own_folders(root: Path, controller: str) -> list[Path]:
    """Folders of the process's control groups and their ancestors, in the v2 tree and in v1's tree of the controller."""
    try:
        groups = _own_groups((root / "proc/self/cgroup").read_text(), controller)
        mounts = _cgroup_mounts((root / "proc/self/mountinfo").read_text(), controller)
    except (OSError, UnicodeDecodeError):
        return []
    return [
        root / str(folder).lstrip("/")
        for version, (mount_root, mount_point) in mounts.items()
        if version in groups
        for folder in _ancestors(mount_root, mount_point, groups[version])
    ]


def _own_groups(text: str, controller: str) -> dict[str, PurePosixPath]:
    """Lines of /proc/self/cgroup, ``id:controllers:path``: the process's group in the v2 tree and in v1's tree of the controller."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = PurePosixPath(path)
        elif controller in controllers.split(","):
            groups["cgroup"] = PurePosixPath(path)
    return groups


def _cgroup_mounts(text: str, controller: str) -> dict[str, tuple[PurePosixPath, PurePosixPath]]:
    """Lines of /proc/self/mountinfo: for each version, which group is mounted and where."""
    mounts = {}
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if not separator or len(before) < 5 or len(after) < 3:
            continue
        kind, options = after[0], after[2].split(",")
        if kind == "cgroup2" or (kind == "cgroup" and controller in options):
            mounts[kind] = (PurePosixPath(before[3]), PurePosixPath(before[4]))
    return mounts


def _ancestors(mount_root: PurePosixPath, mount_point: PurePosixPath, group: PurePosixPath) -> list[PurePosixPath]:
    """The group's folder and its parents, up to the mount point. In a container only a part of the tree may be mounted."""
    try:
        relative = group.relative_to(mount_root)
    except ValueError:
        # The group is named from outside the container, and the mount shows it as its own top.
        return [mount_point]
    if ".." in relative.parts:
        return [mount_point]
    folder = mount_point / relative
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount_point))]


def _quota_in(folder: Path) -> float | None:
    """CPUs allowed by one group's own files; None where it sets no limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
        microseconds, of = int(quota), int(period)
    except (OSError, ValueError):  # no such files at this level, or "max"
        return None
    return microseconds / of if microseconds > 0 and of > 0 else None
