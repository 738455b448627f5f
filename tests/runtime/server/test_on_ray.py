"""The server on a real Ray cluster of several nodes on this machine: the protocol, and a replica that is killed under load."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.on_ray import check, deployment
from onnxferry.runtime.server.options import ServeOptions, model_source


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def url():
    """Two replicas, each on a node of its own."""
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra ray)")
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = ServeOptions((model_source("digits"),), device="cpu", threads=1, log=False, batch="off")
    serve.run(deployment(options, replicas=2), name="onnxferry", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()
    made.shutdown()


def test_the_protocol_and_a_replica_that_is_killed(url: str) -> None:
    import httpx
    import ray

    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": image.reshape(-1).tolist()}
    first = httpx.post(f"{url}/v2/models/digits/infer", json={"inputs": [tensor]}, timeout=60).json()
    assert httpx.get(f"{url}/v2/health/ready", timeout=60).json() == {"ready": True}
    assert httpx.get(f"{url}/v2/models/nothing", timeout=60).status_code == 404
    answers: Counter[str] = Counter()
    until = time.monotonic() + 8

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while time.monotonic() < until:
                answer = client.post(f"{url}/v2/models/digits/infer", json={"inputs": [tensor]})
                kind = str(answer.status_code)
                if answer.status_code == 200:
                    kind = "right" if answer.json()["outputs"] == first["outputs"] else "wrong"
                answers[kind] += 1

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    (name, *_) = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True) if "REPLICA" in each["name"]]
    ray.kill(ray.get_actor(name, namespace="serve"))
    for thread in threads:
        thread.join()
    assert answers["wrong"] == 0
    assert answers["right"] > 20
    # What the killed replica was working on is answered with 500, at most one a client; nothing else is.
    assert set(answers) <= {"right", "500"}, answers
    assert answers["500"] <= 2, answers


def test_options_that_are_rays_to_decide() -> None:
    for change in ({"workers": 2}, {"grpc_port": 8001}, {"repository": True}):
        with pytest.raises(InputError, match="--on ray"):
            check(ServeOptions((model_source("digits"),), **change))  # type: ignore[arg-type]
