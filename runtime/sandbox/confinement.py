"""What a process can still reach after it has given the rest up: Linux' Landlock and seccomp, through the standard library alone.

    held = confine(readable=["/tmp/model.onnx", *library_paths()])
    held.files, held.network  # True where the kernel enforces it

After :func:`confine` this process, and every thread and child that it starts later, can read the given paths only, can write no file,
can start no program and can open no socket. Nothing takes that back. It needs no privileges. Where the kernel has no Landlock (before
5.13, or switched off) or no seccomp, that part is not enforced, and the answer says so.

Sources: https://docs.kernel.org/userspace-api/landlock.html, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Landlock has the same numbers on every architecture; so does prctl's list of options.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2

_EXECUTE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
# Rights over files that each version of Landlock knows: the first has 13 (up to MAKE_SYM), then REFER, TRUNCATE, IOCTL_DEV.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP_RIGHTS = 0b11  # bind and connect, since version 4
_SCOPES = 0b11  # abstract Unix sockets and signals to processes outside, since version 6

_EPERM, _ALLOW, _ERRNO, _KILL = 1, 0x7FFF0000, 0x00050000, 0x80000000
# System calls by architecture. A program started, a socket opened, another process' memory, and what only an exploit asks a kernel for.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DENIED = {
    "x86_64": {
        "socket": 41, "connect": 42, "bind": 49, "execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "bpf": 321, "userfaultfd": 323,
        "perf_event_open": 298, "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "open_by_handle_at": 304, "chmod": 90, "chown": 92,
        "utimes": 235, "utimensat": 280, "fchmodat": 268, "setxattr": 188,
    },
    "aarch64": {
        "socket": 198, "connect": 203, "bind": 200, "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "mount": 40, "umount2": 39, "unshare": 97, "setns": 268, "bpf": 280, "userfaultfd": 282,
        "perf_event_open": 241, "keyctl": 219, "add_key": 217, "io_uring_setup": 425, "open_by_handle_at": 265, "fchmodat": 53,
        "fchownat": 54, "utimensat": 88, "setxattr": 5,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Confinement:
    """What the kernel enforces for this process from now on."""

    files: bool  # only the given paths can be read, and none written
    network: bool  # no socket can be opened and no program started


def confine(readable: Iterable[str | os.PathLike[str]]) -> Confinement:
    """Give up everything but reading the paths (files, or folders with what is in them). Paths that do not exist are left out.

    Does nothing, and says so, on other systems than Linux. Call it before other threads are started: Landlock holds the calling thread
    and those that it starts.
    """
    if not sys.platform.startswith("linux"):
        return Confinement(files=False, network=False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return Confinement(files=False, network=False)
    return Confinement(files=_restrict_files(libc, readable), network=_restrict_calls(libc))


def can_confine() -> Confinement:
    """What :func:`confine` would achieve on this system, without giving anything up."""
    return Confinement(files=landlock_version() > 0, network=sys.platform.startswith("linux") and platform.machine() in _DENIED)


def landlock_version() -> int:
    """The kernel's Landlock version (ABI); 0 where it has none or this is not Linux."""
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_RULESET_VERSION))))


def library_paths() -> Sequence[str]:
    """What Python and ONNX Runtime read while they start: the interpreter, its packages, shared libraries, facts about the CPU."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(p for p in sys.path if p)}
    # An editable install lies elsewhere.
    ours = {str(Path(__file__).parents[1])}
    system = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
    machine = (
        *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self", "/proc/sys/vm", "/proc/filesystems"),
        *("/sys/devices/system", "/sys/bus/pci/devices", "/sys/fs/cgroup", "/dev/null", "/dev/zero", "/dev/urandom"),
        *("/usr/share/zoneinfo", "/etc/localtime"),
    )
    return sorted({*python, *ours, *system, *machine, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)} - {""})


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[str | os.PathLike[str]]) -> bool:
    version = landlock_version()
    if version < 1:
        return False
    handled = _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]
    wanted = _Ruleset(handled, _TCP_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    # Kernels refuse a structure that is longer than the one they know, unless the rest is zero: then it may be.
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(libc, ruleset, path, handled)
        return bool(libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str | os.PathLike[str], handled: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there cannot be read
        return
    try:
        # A shared library is mapped as a program, which Landlock does not ask about; nothing may be executed.
        rights = _READ_FILE | (_READ_DIRECTORY if Path(path).is_dir() else 0)
        rule = _PathBeneath(rights & handled, opened)
        libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(opened)


def _restrict_calls(libc: ctypes.CDLL) -> bool:
    """A seccomp filter: system calls of the list fail with EPERM, and those of another architecture end the process."""
    machine = platform.machine()
    if machine not in _DENIED:
        return False
    program = _filter(_ARCHITECTURES[machine], sorted(_DENIED[machine].values()), wide=machine == "x86_64")
    instructions = (ctypes.c_char * len(program)).from_buffer_copy(program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    whole = Program(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    return bool(libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.addressof(whole), 0, 0) == 0)


def _filter(architecture: int, denied: Sequence[int], *, wide: bool) -> bytes:
    """Classic BPF over ``struct seccomp_data``: the call's number at 0, the architecture at 4."""
    load, equal, at_least, result = 0x20, 0x15, 0x35, 0x06

    def instruction(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, jump_true, jump_false, k)

    out = [
        instruction(load, 4),
        instruction(equal, architecture, 1, 0),
        instruction(result, _KILL),
        instruction(load, 0),
    ]
    if wide:  # x32 calls have numbers of their own from 2^30 on
        out += [instruction(at_least, 1 << 30, 0, 1), instruction(result, _ERRNO | _EPERM)]
    for number in denied:
        out += [instruction(equal, number, 0, 1), instruction(result, _ERRNO | _EPERM)]
    return b"".join([*out, instruction(result, _ALLOW)])
