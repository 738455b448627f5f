"""A process that is forked inherits models without their threads: sessions stay as they are there, and callers get an error.

ONNX Runtime's thread pool waits, as a session is destroyed, for threads that exist in the parent only; so does a caller that waits for an
answer from one of this package's threads. In a child, inherited sessions are therefore never destroyed, and calls that need a thread
raise InputError.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

from onnxferry.runtime.errors import InputError

_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def outlives_a_fork(session: Any) -> Any:
    """The session, which a child that inherits it will never destroy."""
    _sessions.add(session)
    return session


def inherited(process: int) -> bool:
    """Whether what was made in ``process`` (an ``os.getpid()``) came here by a fork."""
    return os.getpid() != process


def refuse_inherited(process: int, what: str, make: str) -> None:
    """Raises InputError where what needs a thread was made in another process."""
    if inherited(process):
        raise InputError(
            f"{what} was made in process {process}, and its threads do not exist in this one, which was forked ({os.getpid()}); "
            f"make one here, with {make}, or start processes with the method 'spawn'"
        )


def reset_lock(lock: Any) -> None:
    """A forked child finds the lock open, even where a thread of the parent held it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)


def _keep_sessions() -> None:
    for session in list(_sessions):
        # One reference more than there are owners: not even the interpreter's end destroys it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(getattr(session, "_sess", session)))


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_keep_sessions)
