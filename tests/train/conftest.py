"""A web server on the loopback interface that can give ranges, be cut off, and be wrong, as real mirrors are; and a run that is cut off."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.loop import InterruptedTrainingError, LoopConfig, fit


@dataclass
class Mirror:
    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # path → content
    gives_ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes of the body after which each coming answer is cut off
    says_length: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    state = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            if self.path not in state.files:
                self.send_error(404)
                return
            body, start = state.files[self.path], 0
            if wanted and state.gives_ranges:
                found = re.fullmatch(r"bytes=(\d+)-", wanted)
                assert found, wanted
                start = int(found[1])
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.says_length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            sent = body[start:]
            self.wfile.write(sent[: state.cuts.pop(0)] if state.cuts else sent)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("ONNXFERRY_OFFLINE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ends_itself() -> Callable[[str, int, signal.Signals], Sequence[str]]:
    """What Python runs for an ``onnxferry`` command whose training gets a signal as a step of it begins, whatever else the machine does."""

    def program(learner: str, step: int, number: signal.Signals) -> Sequence[str]:
        module, name = learner.split(".")
        return ("-c", ENDS_ITSELF.format(module=module, name=name, step=step, number=int(number)))

    return program


ENDS_ITSELF = """
import os
from onnxferry.runtime.cli.main import main
from onnxferry.train.families.{module} import {name}

step, seen = {name}.step, []

def signalled(self, batch):
    seen.append(batch)
    if len(seen) == {step}:
        os.kill(os.getpid(), {number})
    return step(self, batch)

{name}.step = signalled
raise SystemExit(main())
"""


@pytest.fixture
def cut_off() -> Callable[[Learner, LoopConfig], None]:
    """Trains until a Ctrl-C during the first epoch's validation, which is acted on within the second."""

    def train(learner: Learner, config: LoopConfig) -> None:
        validate = learner.validate

        def interrupted() -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGINT)
            return validate()

        learner.validate = interrupted  # type: ignore[method-assign]
        with pytest.raises(InterruptedTrainingError):
            fit(learner, config)

    return train
