"""Models in a forked child: what works there works, what cannot says so at once, and nothing hangs, the child's end neither."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system does not fork")

PARENT = """
import asyncio, os, signal, sys, threading
import numpy as np
from onnxferry.runtime import Batcher, load
from onnxferry.runtime.errors import InputError

image = np.zeros((1, 28, 28, 1), np.uint8)
model = load("digits", device="cpu", threads={threads})
feeds = {{"image": image}}
expected = model.run(feeds)["probabilities"]
batcher = Batcher(model)
batcher.run(image[0])
asyncio.run(model.engine.arun(feeds))

def refused(action):
    try:
        action()
    except InputError as error:
        assert "was forked" in str(error), error
    else:
        raise AssertionError("not refused")

sys.stdout.flush()
child = os.fork()
if child == 0:
    signal.alarm(60)
    {action}
    print("the child is through", flush=True)
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert batcher.run(image[0]).probabilities.tobytes() == expected[0].tobytes()
batcher.close()
model.close()
print("the parent is through", flush=True)
"""

ACTIONS = {
    "run": "assert model.run(feeds)['probabilities'].tobytes() == expected.tobytes()",
    "arun": "refused(lambda: asyncio.run(model.engine.arun(feeds)))",
    "batcher": "refused(lambda: batcher.run(image[0]))",
    "close": "batcher.close(); model.close(); model.close()",
    "exit": "pass",
    "own": "own = load('digits', device='cpu', threads=2); own.run(feeds); Batcher(own).run(image[0]); own.close()",
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("action", ["run", "arun", "batcher", "close", "exit", "own"])
def test_in_a_forked_child(action: str, threads: int) -> None:
    program = PARENT.format(action=ACTIONS[action], threads=threads)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["the child is through", "the parent is through"], done.stderr


def test_a_lock_that_a_thread_holds_while_another_forks() -> None:
    """Closing in the child does not wait for a thread that is in the parent only."""
    program = PARENT.format(action="batcher.close(); model.close()", threads=2).replace(
        "child = os.fork()",
        "hold = threading.Thread(target=lambda: (batcher._queue.lock.acquire(), held.set(), go.wait(), batcher._queue.lock.release()))\n"
        "held, go = threading.Event(), threading.Event(); hold.start(); held.wait(); child = os.fork(); go.set()",
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["the child is through", "the parent is through"], done.stderr
