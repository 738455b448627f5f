"""Who is waiting for a child process: no more of them run at a time than there are CPUs, and those who wait know their place.

with line.place(shown):
    ...
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from onnxferry.runtime.machine.cpu import available_cpus

_TICK_SECONDS = 0.2


class Line:
    """At most ``places`` bodies of ``with`` run at a time, over all threads; the others wait in order."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def place(self, shown: Callable[[int], None] | None = None) -> Iterator[None]:
        """``shown`` is called while it waits, some five times a second, with how many are before it; what it raises leaves the line."""
        own = object()
        with self._changed:
            self._waiting.append(own)
        try:
            while not self._taken(own):
                if shown is not None:
                    shown(self._before(own))
        except BaseException:
            with self._changed:
                self._waiting.remove(own)
                self._changed.notify_all()
            raise
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def _taken(self, own: object) -> bool:
        """Whether a place was free for the first in line, who is ``own``; waits a little for it."""
        with self._changed:
            if self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] is own, _TICK_SECONDS):
                self._waiting.popleft()
                self._free -= 1
                self._changed.notify_all()
                return True
            return False

    def _before(self, own: object) -> int:
        with self._changed:
            return self._waiting.index(own)


line = Line(available_cpus())
"""Of this server, over all its visitors."""
