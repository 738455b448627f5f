"""The server beside plain FastAPI and LitServe around the same model, and what a request costs beside the model's own run.

    python tests/bench/bench_serve.py                          # prints JSON; --clients, --seconds, --rounds
    python tests/bench/bench_serve.py --peers PYTHON           # an interpreter that has fastapi, litserve, onnxruntime, uvloop, httptools

``requests``: requests a second of ``clients`` connections that each wait for their answer (keep-alive), the median of rounds in turns, for
an image of 28 x 28 as JSON and as raw bytes; ``p99_ms`` and ``server_cpu_ms``, the server's CPU time for a request, of the same rounds.
CPU time depends less on what else the machine does. ``own_cost``: milliseconds of one client's request in raw bytes beyond ``Engine.run``;
``cpu_ms`` and ``run_cpu_ms``: the CPU time of that request in the server, and of the bare run. ``bare``: CPU time of a request, by form,
where the model is next to nothing, so that parsing and writing is what is left; ``start_s``: seconds from the command to the first answer.
``text``: bytes a second that 32 clients get from ``shakespeare``, with and without merging. ``memory``: resident megabytes (proportional
set size, so that shared pages count once) of 1, 2 and 4 workers, and of each one more. The client runs on the same machine and takes its
share of the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

from onnxferry.runtime import load
from onnxferry.runtime.machine.cpu import cpu_name

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)

FASTAPI = """
import sys, json, numpy as np, uvicorn, onnxruntime as ort
from fastapi import FastAPI, Request
session = ort.InferenceSession(sys.argv[2])
app = FastAPI()

@app.post("/json")
def predict_json(body: dict):
    image = np.array(body["image"], np.uint8).reshape(1, 28, 28, 1)
    p, c = session.run(["probabilities", "class_index"], {"image": image})
    return {"probabilities": p.tolist(), "class_index": c.tolist()}

@app.post("/raw")
async def predict_raw(request: Request):
    image = np.frombuffer(await request.body(), np.uint8).reshape(1, 28, 28, 1)
    p, c = session.run(["probabilities", "class_index"], {"image": image})
    return {"probabilities": p.tolist(), "class_index": c.tolist()}

uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""

LITSERVE = """
import sys, numpy as np, onnxruntime as ort, litserve as ls

class Api(ls.LitAPI):
    def setup(self, device):
        self.session = ort.InferenceSession(sys.argv[2])
    def decode_request(self, request):
        return np.array(request["image"], np.uint8).reshape(28, 28, 1)
    def batch(self, inputs):
        return np.stack(inputs)
    def predict(self, x):
        return self.session.run(["probabilities", "class_index"], {"image": x})
    def unbatch(self, output):
        return list(zip(output[0], output[1]))
    def encode_response(self, output):
        return {"probabilities": output[0].tolist(), "class_index": int(output[1])}

if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.005, api_path="/json")
    ls.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), generate_client_file=False, log_level="error")
"""


def request(path: str, body: bytes, headers: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def requests_of(kind: str, wanted: Sequence[str] = ("probabilities", "class_index")) -> dict[str, bytes]:
    """What is sent, by form."""
    if kind != "onnxferry":
        made = {"json": request("/json", json.dumps({"image": IMAGE.reshape(-1).tolist()}).encode())}
        return made | ({"raw": request("/raw", IMAGE.tobytes())} if kind == "fastapi" else {})
    outputs = [{"name": name} for name in wanted]
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(IMAGE.shape)}
    plain = json.dumps({"inputs": [{**tensor, "data": IMAGE.reshape(-1).tolist()}], "outputs": outputs}).encode()
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": IMAGE.size}}], "outputs": outputs}).encode()
    path = "/v2/models/digits/infer"
    raw = request(path, head + IMAGE.tobytes(), f"inference-header-content-length: {len(head)}\r\n")
    return {"json": request(path, plain), "raw": raw}


async def client(port: int, data: bytes, until: float, waits: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"port {port}: {head[:200]!r}")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        waits.append(time.perf_counter() - begun)
    writer.close()


def drive(port: int, data: bytes, clients: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the median and the 99th percentile of a request's time."""
    waits: list[float] = []

    async def all_clients() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(client(port, data, until, waits) for _ in range(clients)))

    asyncio.run(all_clients())
    return len(waits) / seconds, float(np.median(waits)), float(np.quantile(waits, 0.99))


@contextmanager
def started(command: list[str], port: int) -> Iterator[int]:
    with suppress(httpx.TransportError):  # another one's answers would be taken for this one's
        httpx.get(f"http://127.0.0.1:{port}/", timeout=2)
        raise SystemExit(f"something listens on port {port} already, perhaps the server of a run that was cut off: end it first")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=2)
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise SystemExit(f"{command[:4]} ended with {process.returncode}") from None
                time.sleep(0.2)
        time.sleep(1)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def process_tree(pid: int) -> list[int]:
    """A process and all that it started."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in process_tree(child))]


def cpu_seconds(pid: int) -> float:
    """Of a process and all that it started."""
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in process_tree(pid)]
    return sum(int(times[11]) + int(times[12]) for times in fields) / os.sysconf("SC_CLK_TCK")


def serve(port: int, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "onnxferry", "serve", *arguments, "--port", str(port), "--quiet"]


def peers(python: str, model: str, port: int) -> dict[str, list[str]]:
    """Commands of the other servers, by an interpreter that has them; none without one."""
    if not python:
        return {}
    file = Path(os.environ.get("TMPDIR", "/tmp")) / "onnxferry_bench_litserve.py"  # LitServe starts processes, which import it
    file.write_text(LITSERVE)
    return {"fastapi": [python, "-c", FASTAPI, str(port), model], "litserve": [python, str(file), str(port), model]}


def own_cost(seconds: float) -> dict[str, float]:
    """Of one client: the request, the bare run, and their difference, in milliseconds.

    Both in turns and with one thread, as a run with two would be compared with one without; the client is a bare socket.
    """
    port, data, answers, runs = 8300, requests_of("onnxferry")["raw"], [], []
    opened = started(serve(port, "digits", "--batch", "off", "--threads", "1"), port)
    with opened as pid, load("digits", threads=1) as model, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.perf_counter() + 2 * seconds
        before, run_cpu = cpu_seconds(pid), 0.0
        while time.perf_counter() < until:
            for _ in range(50):
                begun = time.perf_counter()
                connection.sendall(data)
                read_answer(connection)
                answers.append(time.perf_counter() - begun)
            run_cpu -= time.thread_time()
            for _ in range(50):
                begun = time.perf_counter()
                model.engine.run({"image": IMAGE}, ["probabilities", "class_index"])
                runs.append(time.perf_counter() - begun)
            run_cpu += time.thread_time()
        cpu = cpu_seconds(pid) - before
    asked, bare = statistics.median(answers), statistics.median(runs)
    times = {"request_ms": asked, "run_ms": bare, "own_ms": asked - bare, "cpu_ms": cpu / len(answers), "run_cpu_ms": run_cpu / len(runs)}
    return {name: seconds * 1e3 for name, seconds in times.items()}


def read_answer(connection: socket.socket) -> None:
    """One response, whole."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{head[:200]!r}")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)


def without_a_model(clients: int, seconds: float) -> dict[str, float]:
    """Milliseconds of CPU time for a request, by form, where the model is one small operator; and how long a server takes to start."""
    import onnx
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 28, 28, 1])
    largest = helper.make_tensor_value_info("largest", TensorProto.UINT8, ["n"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    node = helper.make_node("ReduceMax", ["image", "axes"], ["largest"], keepdims=0)
    graph = helper.make_graph([node], "nothing", [image], [largest], [axes])
    file = Path(os.environ.get("TMPDIR", "/tmp")) / "onnxferry_bench_nothing.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    begun = time.perf_counter()
    with started(serve(8303, f"digits={file}", "--batch", "off", "--threads", "1"), 8303) as pid:
        found = {"start_s": time.perf_counter() - begun - 1}  # started() waits a second after the first answer
        for form, data in requests_of("onnxferry", ["largest"]).items():
            drive(8303, data, clients, 1)
            before = cpu_seconds(pid)
            rate, _, _ = drive(8303, data, clients, seconds)
            found |= {f"{form} cpu_ms": (cpu_seconds(pid) - before) / (rate * seconds) * 1e3}
        return found


def text(clients: int, seconds: float) -> dict[str, float]:
    """Bytes a second of texts of 96 bytes."""
    body = json.dumps({"prompt": "To be", "max_bytes": 96}).encode()
    found = {}
    for name, batch in (("merged", "32"), ("alone", "off")):
        with started(serve(8301, "shakespeare", "--batch", batch), 8301):
            rate, _, _ = drive(8301, request("/generate/shakespeare", body), clients, seconds)
            found[name] = rate * 96
    return {**found, "ratio": found["merged"] / found["alone"]}


def memory() -> dict[str, float]:
    found = {}
    for workers in (1, 2, 4):
        with started(serve(8302, "shakespeare", "--batch", "off", "--workers", str(workers)), 8302) as pid:
            before, now = 0.0, shared_megabytes(pid)
            while abs(now - before) > 0.01 * now:  # until all workers have opened the model
                time.sleep(8)
                before, now = now, shared_megabytes(pid)
            found[str(workers)] = now
    return {**found, "one_more": (found["4"] - found["1"]) / 3}


def shared_megabytes(pid: int) -> float:
    """Of all processes together: the proportional set size, which counts a page that n processes share as a page / n in each."""
    rollups = []
    for each in process_tree(pid):
        with suppress(OSError):  # it has ended
            rollups.append(Path(f"/proc/{each}/smaps_rollup").read_text())
    return sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", metavar="PYTHON")
    asked = parser.parse_args()
    from onnxferry.runtime.artifact.zoo import find_model

    path = str(find_model("digits"))
    servers = {"onnxferry": (8310, serve(8310, "digits"))}
    servers |= {name: (8311, command) for name, command in peers(asked.peers, path, 8311).items()}
    rates: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for _ in range(asked.rounds):
        for name, (port, command) in servers.items():  # one at a time: an idle server's threads would take their share
            with started(command, port) as pid:
                for form, data in requests_of(name).items():
                    drive(port, data, asked.clients, 1)
                    before = cpu_seconds(pid)
                    rate, _, tail = drive(port, data, asked.clients, asked.seconds)
                    costs.setdefault(f"{name} {form}", []).append((cpu_seconds(pid) - before) / (rate * asked.seconds) * 1e3)
                    rates.setdefault(f"{name} {form}", []).append(rate)
                    tails.setdefault(f"{name} {form}", []).append(tail * 1e3)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        f"{form} over {name.split()[0]}": medians[f"onnxferry {form}"] / rate
        for form in ("json", "raw")
        for name, rate in medians.items()
        if name.endswith(form) and not name.startswith("onnxferry")
    }
    result = {
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "clients": asked.clients,
        "requests": medians,
        "p99_ms": {name: statistics.median(values) for name, values in tails.items()},
        "server_cpu_ms": {name: statistics.median(values) for name, values in costs.items()},
        "ratios": ratios,
        "own_cost": own_cost(asked.seconds),
        "bare": without_a_model(asked.clients, asked.seconds),
        "text": text(asked.clients, asked.seconds),
        "memory": memory(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
