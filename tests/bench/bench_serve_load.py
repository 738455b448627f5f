"""An open-loop load test of the server with a rising rate, beside FastAPI and LitServe: p50 and p99 at each rate, the knee, and a picture.

    python tests/bench/bench_serve_load.py                                  # prints JSON; --seconds, --start, --factor, --limit
    python tests/bench/bench_serve_load.py --peers PYTHON --figure docs     # as bench_serve.py's; writes docs/{en,zh}/assets/serve-load.svg

Requests leave at random times of a given rate (a Poisson process), whether earlier ones were answered or not, and each counts from the
moment at which it was due: a server that falls behind is not spared (Tene, "How NOT to measure latency", calls that coordinated omission).
The rate rises by ``--factor`` from step to step. ``knee``: the highest rate at which p99 is below ``--limit`` seconds and every request was
answered, at all steps up to it. ``p99_at_70``: milliseconds at 70 % of a server's own knee; beside a peer's, ``onnxferry_p99_at_its_70``:
this server's at 70 % of that peer's knee.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from bench_serve import peers, requests_of, serve, started
from docs_figures import BLUE, GREY, ORANGE, Drawing

from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.machine.cpu import cpu_name

PORT = 8320
CONNECTIONS = 256
GIVE_UP = 3.0
"""Seconds after a step for the answers that are still missing."""


class Client:
    """Connections that are kept; a request takes a free one, or opens another."""

    def __init__(self, port: int, data: bytes) -> None:
        self.port, self.data = port, data
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.open = 0
        self.room = asyncio.Semaphore(CONNECTIONS)

    async def ask(self, due: float, waits: list[float]) -> None:
        async with self.room:
            reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200"):
                waits.append(time.perf_counter() - due)
            self.free.append((reader, writer))

    def close(self) -> None:
        for _, writer in self.free:
            writer.close()


async def step(client: Client, rate: float, seconds: float, seed: int) -> dict[str, float]:
    """Requests at that rate: how many were answered, and how long that took."""
    rng, waits, tasks = random.Random(seed), [], set()
    due = begun = time.perf_counter()
    sent = 0
    while (due := due + rng.expovariate(rate)) < begun + seconds:
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        task = asyncio.ensure_future(client.ask(due, waits))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        sent += 1
    if tasks:
        await asyncio.wait(tasks, timeout=GIVE_UP)
    for task in list(tasks):
        task.cancel()
    with suppress(Exception):
        await asyncio.gather(*tasks, return_exceptions=True)
    times = np.array([*waits, *([seconds + GIVE_UP] * (sent - len(waits)))])  # what was not answered waits at least that long
    return {
        "rate": rate,
        "answered": len(waits) / max(1, sent),
        "p50_ms": float(np.median(times)) * 1e3,
        "p99_ms": float(np.quantile(times, 0.99)) * 1e3,
    }


async def rising(port: int, data: bytes, start: float, factor: float, seconds: float, limit: float) -> list[dict[str, float]]:
    """Steps until a server is two beyond its knee."""
    steps: list[dict[str, float]] = []
    await step(Client(port, data), start, 1, 0)
    rate, beyond = start, 0
    while beyond < 2 and len(steps) < 24:
        client = Client(port, data)
        steps.append(await step(client, rate, seconds, len(steps)))
        client.close()
        beyond = 0 if holds(steps[-1], limit) else beyond + 1
        rate *= factor
    return steps


def holds(found: dict[str, float], limit: float) -> bool:
    return found["answered"] == 1 and found["p99_ms"] < limit * 1e3


def knee(steps: list[dict[str, float]], limit: float) -> float:
    """0 where even the first step is beyond it."""
    best = 0.0
    for found in steps:
        if not holds(found, limit):
            break
        best = found["rate"]
    return best


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    form = asked.form
    path = str(find_model("digits"))
    found: dict[str, Any] = {}
    for number, name in enumerate(("onnxferry", *peers(asked.peers, path, 0))):
        port = PORT + number  # a port each: one may be held for a while by what its server leaves behind
        command = {"onnxferry": serve(port, "digits"), **peers(asked.peers, path, port)}[name]
        data = requests_of(name).get(form)
        if data is None:
            continue
        with started(command, port):
            steps = asyncio.run(rising(port, data, asked.start, asked.factor, asked.seconds, asked.limit))
            top = knee(steps, asked.limit)
            calm = asyncio.run(step(Client(port, data), 0.7 * top, 2 * asked.seconds, 99)) if top else {"p99_ms": float("nan")}
        found[name] = {"steps": steps, "knee": top, "p99_at_70": calm["p99_ms"]}
    others = {name: row for name, row in found.items() if name != "onnxferry" and row["knee"]}
    if others:
        port = PORT + 9
        with started(serve(port, "digits"), port):
            data = requests_of("onnxferry")[form]
            for row in others.values():
                ours = asyncio.run(step(Client(port, data), 0.7 * row["knee"], 2 * asked.seconds, 99))
                row["onnxferry_p99_at_its_70"] = ours["p99_ms"]
    return found


def draw(found: dict[str, Any], form: str, words: Callable[[str, str], str]) -> Drawing:
    """Time of a request over the rate, both logarithmic: p50 dashed, p99 whole, the knee as a point."""
    picture = Drawing(720, 400, words("Time of a request over the rate of requests", "请求用时与请求速率"))
    steps = [step for row in found.values() for step in row["steps"]]
    rates, times = [s["rate"] for s in steps], [s[key] for s in steps for key in ("p50_ms", "p99_ms")]
    low, high = min(rates) * 0.9, max(rates) * 1.1
    least, most = min(times) * 0.8, min(max(times) * 1.2, 5000.0)

    def at(rate: float, ms: float) -> tuple[float, float]:
        x = 70 + 520 * np.log(rate / low) / np.log(high / low)
        return float(x), float(350 - 300 * np.log(min(ms, most) / least) / np.log(most / least))

    for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        if least <= ms <= most:
            picture.line([at(low, ms), at(high, ms)], "#dfe3e8", 1)
            picture.text(62, at(low, ms)[1] + 4, str(ms), 12, anchor="end")
    for rate in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        if low <= rate <= high:
            picture.text(at(rate, least)[0], 368, str(rate), 12)
    picture.line([(70, 50), (70, 350), (590, 350)])
    picture.text(330, 392, words(f"requests a second ({form})", f"每秒请求数（{form}）"), 13)
    picture.text(70, 36, words("ms; whole: p99, dashed: p50", "毫秒；实线：p99，虚线：p50"), 13, anchor="start")
    for color, row in zip((BLUE, ORANGE, GREY), found.values(), strict=False):
        for key, dash in (("p99_ms", ""), ("p50_ms", "5 4")):
            picture.line([at(step["rate"], step[key]) for step in row["steps"]], color, 2, dash)
        if row["knee"]:
            x, y = at(row["knee"], next(step["p99_ms"] for step in row["steps"] if step["rate"] == row["knee"]))
            picture.add("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5, fill=color)
    for place, (color, name) in enumerate(zip((BLUE, ORANGE, GREY), found, strict=False)):
        label = {"onnxferry": "onnxferry serve", "fastapi": "FastAPI", "litserve": "LitServe"}[name]
        picture.text(604, 80 + 24 * place, label, 14, color, anchor="start")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", metavar="PYTHON")
    parser.add_argument("--form", choices=["json", "raw"], default="json")
    parser.add_argument("--seconds", type=float, default=6, help="of a step")
    parser.add_argument("--start", type=float, default=50, help="requests a second of the first step")
    parser.add_argument("--factor", type=float, default=1.2)
    parser.add_argument("--limit", type=float, default=0.1, help="seconds that p99 may take up to the knee")
    parser.add_argument("--figure", type=Path, metavar="DOCS", help="the folder docs/, for the picture in both languages")
    asked = parser.parse_args()
    found = measure(asked)
    print(json.dumps({"cpu": cpu_name(), "python": platform.python_version(), "form": asked.form, **found}, indent=1))
    if asked.figure:
        for language in ("en", "zh"):
            picture = draw(found, asked.form, (lambda en, zh: en) if language == "en" else (lambda en, zh: zh))
            (asked.figure / language / "assets" / "serve-load.svg").write_text(picture.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
