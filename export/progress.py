"""What a long command is doing: said where it is done, shown by the caller that asked for it.

with shown_by(status.update):
    export_model(…)          # status.update("comparing input 3 of 16"), and so on
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], object] | None] = ContextVar("onnxferry_progress", default=None)


@contextmanager
def shown_by(listener: Callable[[str], object]) -> Iterator[None]:
    """Inside, ``listener`` is called with each line that :func:`say` gets in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def say(line: str) -> None:
    """What is done now, in a few words."""
    listener = _listener.get()
    if listener is not None:
        listener(line)
