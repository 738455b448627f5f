"""The server on a real Ray cluster of several nodes on this machine, one of which is killed under load."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.on_ray import Front, check, deployment
from onnxferry.runtime.server.options import ServeOptions, model_source

TEXT = {"text_input": "To be", "parameters": {"max_tokens": 600, "seed": 3}}

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)

INFER = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": IMAGE.reshape(-1).tolist()}]}


class Nodes:
    """A cluster: a head, which runs no replica, and two nodes with one each, behind the front."""

    def __init__(self) -> None:
        import ray
        import uvicorn
        from ray import serve
        from ray.cluster_utils import Cluster

        from onnxferry.runtime.server.http.connections import BoundedConfig

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's 15 starves them where the machine does other things)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.workers = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=self.cluster.address, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        sources = tuple(map(model_source, ("digits", "shakespeare")))
        options = ServeOptions(sources, device="cpu", threads=1, log=False, batch="off", timeout=120.0)
        handle = serve.run(deployment(options, replicas=2), name="onnxferry", route_prefix=None)
        config = BoundedConfig(Front(options, handle), bounds=options, log_config=None, log_level="error", ws="none")
        self.front = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.front.run, args=([self.listener],))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def kill_one(self) -> None:
        """A machine that is gone at once, with all its processes."""
        node = self.workers.pop()
        processes = [info.process.pid for infos in node.all_processes.values() for info in infos]
        for pid in [child for each in processes for child in tree(each)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def add_one(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=1))

    def close(self) -> None:
        import ray
        from ray import serve

        self.front.should_exit = True
        self.thread.join()
        self.listener.close()
        serve.shutdown()
        ray.shutdown()
        self.cluster.shutdown()


def tree(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in tree(child))]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra ray)")
    opened = Nodes()
    yield opened
    opened.close()


def streamed(client: Any, url: str) -> str:
    """The text of a stream of events."""
    with client.stream("POST", f"{url}/v2/models/shakespeare/generate_stream", json=TEXT) as answer:
        assert answer.status_code == 200
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    return "".join(event.get("text_output", f"[{event}]") for event in events)


def test_the_protocol(nodes: Nodes) -> None:
    import httpx

    with httpx.Client(base_url=nodes.url, timeout=60) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/nothing").status_code == 404
        assert client.get("/v2/models/digits").json()["name"] == "digits"
        assert client.post("/v2/models/digits/infer", content=b"{").status_code == 400
        answer = client.post("/v2/models/digits/infer", json=INFER, headers={"x-request-id": "seven"})
        assert answer.headers.get_list("x-request-id") == ["seven"]
        late = client.post("/v2/models/shakespeare/generate", json=TEXT, headers={"x-request-timeout": "0.001"})
        assert late.status_code == 504
        whole = client.post("/v2/models/shakespeare/generate", json=TEXT).json()["text_output"]
        assert streamed(client, nodes.url) == whole
        assert 'onnxferry_requests_total{model="digits",protocol="http",route="infer",status="200"' in client.get("/metrics").text


def test_a_node_that_is_killed_under_load_loses_no_request(nodes: Nodes) -> None:
    import httpx

    with httpx.Client(base_url=nodes.url, timeout=60) as client:
        outputs = client.post("/v2/models/digits/infer", json=INFER).json()["outputs"]
        text = client.post("/v2/models/shakespeare/generate", json=TEXT).json()["text_output"]
    answers: Counter[str] = Counter()
    until = time.monotonic() + 15

    def ask(stream: bool) -> None:
        with httpx.Client(base_url=nodes.url, timeout=150) as client:
            while time.monotonic() < until:
                try:
                    if stream:
                        answers["right text" if streamed(client, nodes.url) == text else "wrong text"] += 1
                        continue
                    answer = client.post("/v2/models/digits/infer", json=INFER)
                    right = answer.status_code == 200 and answer.json()["outputs"] == outputs
                    answers["right" if right else f"wrong {answer.status_code} {answer.text[:80]}"] += 1
                except Exception as error:  # noqa: BLE001 (a lost request, whatever it is called)
                    answers[f"lost {error!r}"] += 1

    threads = [threading.Thread(target=ask, args=(number >= 4,)) for number in range(7)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    nodes.kill_one()
    for thread in threads:
        thread.join()
    assert set(answers) == {"right", "right text"}, answers
    assert answers["right"] > 20
    metrics = httpx.get(f"{nodes.url}/metrics").text
    assert float(re.findall(r"^onnxferry_asked_again_total (\S+)$", metrics, re.M)[0]) > 0  # some were on that node
    nodes.add_one()


def test_options_that_are_rays_to_decide() -> None:
    for change in ({"workers": 2}, {"grpc_port": 8001}, {"repository": True}):
        with pytest.raises(InputError, match="--on ray"):
            check(ServeOptions((model_source("digits"),), **change))  # type: ignore[arg-type]
