"""The front over replicas that end: each request is answered once, and right. The replicas are applications in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from starlette.testclient import TestClient

from onnxferry.runtime.server.access import Access, Caller
from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.http.gate import Gate
from onnxferry.runtime.server.http.relay import Asked, Part, Relay, ReplicaLostError, answer_in_parts
from onnxferry.runtime.server.observe import Log, Metrics, Observer
from onnxferry.runtime.server.options import ServeOptions, model_source
from tests.runtime.server.conftest import options

TEXT = {"text_input": "To be", "parameters": {"max_tokens": 120, "seed": 3}}

INFER = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [7] * 784}]}


class Replicas:
    """``ends``: after how many parts of an answer the replica ends, a number for each try; none left: it does not."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.ends: list[int] = []
        self.changed = b""  # what another replica would say
        self.asked: list[Asked] = []

    async def ask(self, asked: Asked) -> AsyncGenerator[Part, None]:
        self.asked.append(asked)
        end = self.ends.pop(0) if self.ends else None
        async with aclosing(answer_in_parts(self.app, asked)) as parts:
            count = 0
            async for part in parts:
                if count == end:
                    raise ReplicaLostError(f"replica {len(self.asked)}")
                count += 1
                changed = self.changed and len(self.asked) > 1
                yield part._replace(body=part.body.replace(b"text_output", self.changed)) if changed else part


@pytest.fixture(scope="module")
def app() -> Iterator[Application]:
    made = Application(options(*map(model_source, ("digits", "shakespeare"))))
    with TestClient(made):
        yield made


@pytest.fixture
def replicas(app: Application) -> Replicas:
    return Replicas(app)


def client(replicas: Replicas, access: Access | None = None, **changes: Any) -> TestClient:
    bounds: ServeOptions = options(model_source("digits"), **changes)
    metrics = Metrics()
    return TestClient(Gate(Relay(replicas, metrics), bounds, access or Access(), Observer(metrics, Log(), False)))


def test_a_request_whose_replica_ends_is_answered_by_another(replicas: Replicas) -> None:
    front = client(replicas)
    plain = front.post("/v2/models/digits/infer", json=INFER)
    assert plain.status_code == 200
    replicas.ends = [0, 0]
    again = front.post("/v2/models/digits/infer", json=INFER, headers={"x-request-id": "seven"})
    assert (again.status_code, again.content) == (200, plain.content)
    assert again.headers.get_list("x-request-id") == ["seven"]
    assert len(replicas.asked) == 4
    names = [dict(asked.headers) for asked in replicas.asked[1:]]
    assert {each[b"x-request-id"] for each in names} == {b"seven"}  # one request in every log
    assert float(names[0][b"x-request-timeout"]) > float(names[2][b"x-request-timeout"])  # one deadline for all tries
    metrics = front.get("/metrics").text
    assert "onnxferry_asked_again_total 2.0" in metrics
    assert 'onnxferry_requests_total{model="digits",protocol="http",route="infer",status="200",version=""} 2.0' in metrics


def events(text: str) -> str:
    return "".join(json.loads(line.removeprefix("data: "))["text_output"] for line in text.splitlines() if line)


@pytest.mark.parametrize("ends", [[0], [1], [3], [2, 4], [4, 1]])
def test_a_stream_goes_on_where_it_was(replicas: Replicas, ends: list[int]) -> None:
    front = client(replicas)
    whole = front.post("/v2/models/shakespeare/generate", json=TEXT).json()["text_output"]
    replicas.ends = list(ends)
    with front.stream("POST", "/v2/models/shakespeare/generate_stream", json=TEXT) as answer:
        assert answer.status_code == 200
        assert events(answer.read().decode()) == whole
    assert len(replicas.asked) == 2 + len(ends)


def test_a_stream_is_not_patched_up_from_two_texts(replicas: Replicas) -> None:
    replicas.ends, replicas.changed = [2], b"text_another"
    answer = client(replicas).post("/v2/models/shakespeare/generate_stream", json=TEXT)
    assert b"text_another" not in answer.content  # it ends within, and our own protocol cuts the connection


def test_a_request_that_ends_replicas_is_given_up(replicas: Replicas) -> None:
    replicas.ends = [0] * 10
    answer = client(replicas).post("/v2/models/digits/infer", json=INFER)
    assert (answer.status_code, len(replicas.asked)) == (500, 3)
    assert "3 replicas have ended" in answer.json()["error"]


def test_the_deadline_holds_over_all_tries(app: Application) -> None:
    class Gone:
        async def ask(self, asked: Asked) -> AsyncGenerator[Part, None]:
            raise ReplicaLostError
            yield

    answer = client(Gone(), timeout=0.3).post("/v2/models/digits/infer", json=INFER)  # type: ignore[arg-type]
    assert answer.status_code == 504


def test_what_the_front_answers_itself(replicas: Replicas) -> None:
    import hashlib

    alice = Caller("alice", hashlib.sha256(b"secret").digest(), frozenset({"digits"}))
    front = client(replicas, Access({"alice": alice}), max_body=1000)
    assert front.get("/v2/health/live").json() == {"live": True}
    assert front.post("/v2/models/digits/infer", json=INFER).status_code == 401
    token = {"authorization": "Bearer secret"}
    assert front.post("/v2/models/digits/infer", json=INFER, headers=token).status_code == 413
    assert front.get("/v2/models/shakespeare", headers=token).status_code == 403
    assert not replicas.asked
    assert front.get("/v2/models/digits", headers=token).status_code == 200
    assert front.get("/v2/models/nothing", headers=token).status_code == 403
