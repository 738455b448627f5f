"""People who draw on the demo's page Recognise without a browser: they speak Streamlit's protocol, so that the server's time is measured.

    python tests/bench/drawing_people.py ws://localhost:8501/_stcore/stream --people 19 --drawings 4

Each is a session of its own over a WebSocket and sends what a browser sends (streamlit.proto.BackMsg), paced as assets/pace.js paces it: a
seven by a hand that takes 600 ms, up to its end; 300 ms later that the pen rests; a pause; an empty sheet; a pause. Messages that come back
are parsed and nothing is drawn. JSON: milliseconds from lifting the pen until the answer to the whole drawing has come, and until that to
the pen at rest has, with the pixels that mattered; answers and bytes in all, and the seconds of CPU that this process took itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from onnxferry.demo.images.strokes import SIDE, Stroke, write_strokes

PACE = (Path(__file__).parents[2] / "demo" / "assets" / "pace.js").read_text(encoding="utf-8")
EVERY = int(found[1]) / 1000 if (found := re.search(r"EVERY = (\d+)", PACE)) else 0.0
"""Seconds between two messages at least, while the pen moves."""
RESTS = 0.3  # seconds, as in canvas.js
CORNERS = ((0.28, 0.25), (0.72, 0.25), (0.45, 0.82))
STEPS, STEP_SECONDS = 40, 0.015
PEN = 24
PATIENCE = 60.0  # seconds that an answer may take


@dataclass
class Person:
    """One session."""

    url: str
    random: random.Random
    fragment: str = ""
    page: str = ""
    pad: str = ""  # the pad's id
    state: BackMsg = field(default_factory=BackMsg)  # the widgets as they stand
    number: int = 0  # of the newest message
    seen: int = 0  # the number that the server had seen when it sent the newest pad
    answered: dict[int, float] = field(default_factory=dict)  # when the answer to each came
    done: dict[int, float] = field(default_factory=dict)  # when all that belongs to it had come
    strokes: str = ""
    rests: bool = True
    dirty: bool = False
    urgent: bool = False
    waiting: int = 0  # for the answer to this number
    sent_at: float = 0.0
    bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    to_end: list[float] = field(default_factory=list)
    to_rest: list[float] = field(default_factory=list)

    async def draw(self, drawings: int) -> None:
        parts = urlsplit(self.url)
        async with connect(
            self.url, subprotocols=["streamlit"], origin=f"http://{parts.netloc}", max_size=None, compression=None
        ) as socket:
            reader = asyncio.create_task(self._read(socket))
            sender = asyncio.create_task(self._send(socket))
            try:
                message = BackMsg()
                message.rerun_script.page_name = "recognise"
                message.rerun_script.context_info.locale = "en-US"
                message.rerun_script.context_info.url = f"http://{parts.netloc}/recognise"
                self.state = message
                await socket.send(message.SerializeToString())
                await self._until(lambda: bool(self.pad and self.fragment))
                await asyncio.sleep(1 + self.random.random())
                for _ in range(drawings):
                    await self._drawing()
            finally:
                sender.cancel()
                reader.cancel()

    async def _drawing(self) -> None:
        await asyncio.sleep(0.8 * self.random.random())
        points = [CORNERS[0]]
        for step in range(1, STEPS + 1):
            (x, y), (to_x, to_y) = (CORNERS[0], CORNERS[1]) if step <= STEPS // 2 else (CORNERS[1], CORNERS[2])
            share = ((step - 1) % (STEPS // 2) + 1) / (STEPS // 2)
            points.append((x + (to_x - x) * share, y + (to_y - y) * share))
            self._changed(points, rests=False)
            await asyncio.sleep(STEP_SECONDS)
        lifted = time.perf_counter()
        last = self._changed(points, rests=False, now=True)
        await self._until(lambda: any(number >= last for number in self.answered))
        self.to_end.append(1000 * (min(when for number, when in self.answered.items() if number >= last) - lifted))
        await asyncio.sleep(max(0.0, lifted + RESTS - time.perf_counter()))
        last = self._changed(points, rests=True, now=True)
        await self._until(lambda: any(number >= last for number in self.done))
        self.to_rest.append(1000 * (min(when for number, when in self.done.items() if number >= last) - lifted))
        await asyncio.sleep(1.5)
        self._changed([], rests=True, now=True)
        await asyncio.sleep(1.5)

    def _changed(self, points: list[tuple[float, float]], *, rests: bool, now: bool = False) -> int:
        """Something else is on the pad. The number of the message that will carry it, or a later one."""
        self.strokes = write_strokes([Stroke(PEN, SIDE * np.array(points))]) if points else ""
        self.rests, self.dirty, self.urgent = rests, True, now
        self.changed.set()
        return self.number + 1

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            if not self.dirty or self.waiting or not self.fragment:
                continue
            if not self.urgent and (early := self.sent_at + EVERY - time.perf_counter()) > 0:
                await asyncio.sleep(min(early, 0.005))
                self.changed.set()
                continue
            self.number += 1
            self.dirty, self.waiting, self.sent_at = False, self.number, time.perf_counter()
            value = {"drawing": {"number": self.number, "strokes": self.strokes, "rests": self.rests, "sheet": 0}}
            rerun = self.state.rerun_script
            rerun.page_script_hash, rerun.fragment_id = self.page, self.fragment
            widget = next((each for each in rerun.widget_states.widgets if each.id == self.pad), None) or rerun.widget_states.widgets.add()
            widget.id, widget.json_value = self.pad, json.dumps(value, separators=(",", ":"))
            await socket.send(self.state.SerializeToString())

    async def _read(self, socket: ClientConnection) -> None:
        async for data in socket:
            if not isinstance(data, bytes):
                continue
            self.bytes += len(data)
            message = ForwardMsg.FromString(data)
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self.page = message.new_session.page_script_hash
            elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                self._element(message.delta)
            elif kind == "script_finished" and self.seen:
                self.done.setdefault(self.seen, time.perf_counter())
            if self.waiting and self.waiting in self.answered:
                self.waiting = 0
                self.changed.set()

    def _element(self, delta: Any) -> None:
        element = delta.new_element
        kind = element.WhichOneof("type")
        if kind == "bidi_component":
            component = element.bidi_component
            if component.component_name.endswith("onnxferry_canvas"):
                self.pad, self.fragment = component.id, delta.fragment_id
                self.seen = int(json.loads(component.json)["answered"])
                return
        if self.seen and b"of-answer" in element.SerializeToString():
            self.answered.setdefault(self.seen, time.perf_counter())
        held = getattr(element, kind or "", None)
        name = getattr(held, "id", "")
        if name and kind in ("button_group", "checkbox"):
            widgets = self.state.rerun_script.widget_states.widgets
            if not any(each.id == name for each in widgets):
                widget = widgets.add(id=name)
                if kind == "checkbox":
                    widget.bool_value = held.default
                else:
                    widget.string_array_value.data.extend(held.options[index].content for index in held.default)

    async def _until(self, holds: Any) -> None:
        deadline = time.perf_counter() + PATIENCE
        while not holds():
            if time.perf_counter() > deadline:
                raise SystemExit("an answer did not come within a minute")
            await asyncio.sleep(0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--people", type=int, default=19)
    parser.add_argument("--drawings", type=int, default=4)
    arguments = parser.parse_args()
    crowd = [Person(arguments.url, random.Random(seed)) for seed in range(arguments.people)]

    async def all_draw() -> None:
        await asyncio.gather(*(person.draw(arguments.drawings) for person in crowd))

    asyncio.run(all_draw())
    figures = {
        "to_end": [each for person in crowd for each in person.to_end],
        "to_rest": [each for person in crowd for each in person.to_rest],
        "answers": sum(len(person.answered) for person in crowd),
        "bytes": sum(person.bytes for person in crowd),
        "cpu_seconds": time.process_time(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
