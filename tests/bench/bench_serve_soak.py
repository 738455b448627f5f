"""The server under load and faults: every answer is right, none that was accepted is lost, and memory does not grow.

    python tests/bench/bench_serve_soak.py --seconds 600 --knee 1331

Requests for ``digits`` arrive at 70 % of ``--knee`` a second, the rate that bench_serve_load.py finds, or at ``--rate``, JSON and raw
bytes, and each answer is compared with the single-threaded one. Meanwhile, again and again: a worker process is killed (SIGKILL), all
models are loaded anew (SIGHUP), connections are reset in the middle of a request, clients read texts slowly or never, send their head a
byte at a time, and send garbage.

``wrong``: answers that differ. ``lost``: requests whose answer was cut off although no worker had been killed in the second before, or
that were not answered, by the first try or another, in 30 s after the first; a wait for one of this client's own 256 connections counts
in p50 and p99 alone. ``cut_by_a_kill``: those of a killed worker, which its client sees as a reset connection; ``sent_again``: requests
on a kept connection that the server had closed before it read them, which HTTP has clients send again (RFC 9112, 9.3.1). ``growth``: of
resident memory (proportional set size of all processes by the number of workers, which kills and reloads change), the median of the last
quarter over that of the second. ``took`` well above ``seconds``: this client was too slow for the rate.
Wrong and lost must be 0, growth at most 5 %; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from bench_serve import process_tree, request, serve, shared_megabytes, started

from onnxferry.runtime import load

PORT = 8330
KILL_EVERY, RELOAD_EVERY = 15.0, 22.0
IMAGES = 32
CONNECTIONS = 256
PATIENCE = 30.0
GARBAGE = (
    b"\0" * 200,
    b"GET\r\n\r\n",
    b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{not json",
    b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000000\r\n\r\n",
    b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
)


class Soak:
    """The counts, and what the clients share."""

    def __init__(self, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.rng = random.Random(seed)
        self.killed = -100.0  # when a worker was
        self.room = asyncio.Semaphore(CONNECTIONS)
        self.waits: list[float] = []
        images = np.random.default_rng(seed).integers(0, 256, (IMAGES, 1, 28, 28, 1), dtype=np.uint8)
        with load("digits", threads=1, device="cpu") as model:
            self.right = [model.engine.run({"image": image}, ["probabilities", "class_index"]) for image in images]
        self.seen: set[tuple[int, bytes]] = set()  # answers that were found right: most come again, byte by byte
        self.messages = [(number, message(image, raw)) for number, image in enumerate(images) for raw in (False, True)]

    async def ask(self, number: int, data: bytes, free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        begun, sent = time.monotonic(), 0.0
        while not sent or time.monotonic() - sent < PATIENCE:
            kept, head = False, b""
            try:
                async with self.room, asyncio.timeout(PATIENCE):
                    sent = sent or time.monotonic()
                    kept = bool(free)
                    reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", PORT)
                    writer.write(data)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                    body = await reader.readexactly(length)
            except (OSError, EOFError, TimeoutError, RuntimeError) as error:  # the last: a closed connection, in uvloop
                if time.monotonic() - self.killed < 1.5:
                    self.counts["cut_by_a_kill"] += 1
                elif kept and not head and not isinstance(error, TimeoutError):
                    self.counts["sent_again"] += 1
                else:
                    self.counts["lost"] += 1
                    self.counts[f"lost: {type(error).__name__} {'kept' if kept else 'new'} {head[:15]!r}"] += 1
                    return
                await asyncio.sleep(0.05)
                continue
            if b"connection: close" not in head.lower():
                free.append((reader, writer))
            else:
                writer.close()
            if head.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503")):
                self.counts["refused"] += 1
                after = next((float(line[13:]) for line in head.lower().split(b"\r\n") if line.startswith(b"retry-after: ")), 0.2)
                await asyncio.sleep(after * self.rng.uniform(1, 1.5))
                continue
            self.waits.append(time.monotonic() - begun)
            right = head.startswith(b"HTTP/1.1 200") and self.is_right(number, body)
            self.counts["right" if right else "wrong"] += 1
            return
        self.counts["lost"] += 1

    def is_right(self, number: int, body: bytes) -> bool:
        if (number, body) in self.seen:
            return True
        found = {tensor["name"]: np.array(tensor["data"]) for tensor in json.loads(body)["outputs"]}
        wanted = self.right[number]
        right = bool(
            found["class_index"][0] == wanted["class_index"][0]
            and np.allclose(found["probabilities"], wanted["probabilities"][0], rtol=1e-4, atol=1e-6)
        )
        if right:
            self.seen.add((number, body))
        return right


def message(image: np.ndarray, raw: bool) -> bytes:
    outputs = [{"name": "probabilities"}, {"name": "class_index"}]
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(image.shape)}
    if not raw:
        body = {"inputs": [{**tensor, "data": image.reshape(-1).tolist()}], "outputs": outputs}
        return request("/v2/models/digits/infer", json.dumps(body).encode())
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": image.size}}], "outputs": outputs}).encode()
    return request("/v2/models/digits/infer", head + image.tobytes(), f"inference-header-content-length: {len(head)}\r\n")


async def load_it(soak: Soak, rate: float, until: float) -> None:
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while (due := due + soak.rng.expovariate(rate)) < until:
        await asyncio.sleep(max(0, due - time.monotonic()))
        task = asyncio.ensure_future(soak.ask(*soak.rng.choice(soak.messages), free))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        soak.counts["sent"] += 1
    await asyncio.gather(*tasks)


def workers_of(pid: int) -> list[int]:
    return [each for each in process_tree(pid)[1:] if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


async def kills(soak: Soak, pid: int, until: float) -> None:
    while time.monotonic() + KILL_EVERY < until:
        await asyncio.sleep(KILL_EVERY)
        workers = workers_of(pid)
        if len(workers) > 1:  # the last one keeps listening
            soak.killed = time.monotonic()
            os.kill(soak.rng.choice(workers), signal.SIGKILL)
            soak.counts["kills"] += 1


async def reloads(soak: Soak, pid: int, until: float) -> None:
    while time.monotonic() + RELOAD_EVERY < until:
        await asyncio.sleep(RELOAD_EVERY)
        os.kill(pid, signal.SIGHUP)
        soak.counts["reloads"] += 1


async def faults(soak: Soak, until: float) -> None:
    """One bad client after the other."""
    while time.monotonic() < until:
        kind = soak.rng.choice(("reset", "garbage", "slow reader", "slow writer"))
        with suppress(OSError, EOFError, TimeoutError, RuntimeError):
            async with asyncio.timeout(4):
                await fault(kind, soak)
        soak.counts[kind] += 1
        await asyncio.sleep(soak.rng.uniform(0, 0.2))


async def fault(kind: str, soak: Soak) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        if kind == "reset":
            _, data = soak.rng.choice(soak.messages)
            writer.write(data[: soak.rng.randrange(len(data) + 1)])
            await asyncio.sleep(soak.rng.uniform(0, 0.01))
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif kind == "garbage":
            writer.write(soak.rng.choice(GARBAGE))
            await reader.read(2000)
        elif kind == "slow reader":
            writer.write(request("/generate/shakespeare", json.dumps({"prompt": "To", "max_bytes": 400, "stream": True}).encode()))
            for _ in range(20):
                await reader.read(10)
                await asyncio.sleep(0.1)
        else:
            for byte in b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\n"[:30]:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)
    finally:
        writer.close()


async def memory(pid: int, until: float, found: list[tuple[float, float]]) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(1)
        with suppress(OSError, ZeroDivisionError):  # a process that ends as it is looked at
            found.append((time.monotonic(), shared_megabytes(pid) / len(workers_of(pid))))


def growth_of(found: list[tuple[float, float]], begun: float, seconds: float) -> float:
    """Of the medians: a worker that has just been killed is missing from some of the samples."""
    quarter = [[mb for at, mb in found if begun + seconds * q / 4 <= at < begun + seconds * (q + 1) / 4] for q in range(4)]
    return float(np.median(quarter[3]) / np.median(quarter[1]) - 1)


async def run(soak: Soak, pid: int, seconds: float, rate: float) -> float:
    begun = time.monotonic()
    until = begun + seconds
    found: list[tuple[float, float]] = []
    await asyncio.gather(
        load_it(soak, rate, until), kills(soak, pid, until), reloads(soak, pid, until), faults(soak, until), memory(pid, until, found)
    )
    return growth_of(found, begun, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--knee", type=float, help="in place of --rate: the knee, of which 70 %% come")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.rate = round(0.7 * asked.knee, 1) if asked.knee else asked.rate
    soak = Soak(asked.seed)
    with started(serve(PORT, "digits", "shakespeare", "--workers", str(asked.workers), "--batch", "auto"), PORT) as pid:
        time.sleep(5)
        begun = time.monotonic()
        growth = uvloop.run(run(soak, pid, asked.seconds, asked.rate))  # takes a third of the CPU time, on the server's CPUs
        took = round(time.monotonic() - begun, 1)
    waits = {f"p{q}_ms": round(float(np.quantile(soak.waits, q / 100)) * 1e3, 1) for q in (50, 99)}
    asked_for = {"seconds": asked.seconds, "rate": asked.rate, "took": took}
    print(json.dumps({**asked_for, **dict(soak.counts), **waits, "growth": round(growth, 4)}, indent=1))
    sys.exit(bool(soak.counts["wrong"] or soak.counts["lost"] or growth > 0.05))


if __name__ == "__main__":
    main()
