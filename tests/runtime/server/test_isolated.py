"""``serve --isolated``: untrusted files in confined processes, which are started again where one has ended."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.sandbox.isolated import IsolatedEngine
from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.options import ModelSource
from tests.runtime.counting import counting_model
from tests.runtime.server.conftest import options


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many rounds as are asked for."""

    path = tmp_path_factory.mktemp("isolated") / "counting.onnx"
    path.write_bytes(counting_model().SerializeToString())
    return path


def asked(client: TestClient, rounds: int) -> tuple[int, dict[str, object]]:
    inputs = [
        {"name": "rounds", "datatype": "INT64", "shape": [], "data": [rounds]},
        {"name": "x", "datatype": "FP32", "shape": [1], "data": [2.5]},
    ]
    answer = client.post("/v2/models/counting/infer", json={"inputs": inputs})
    return answer.status_code, answer.json()


def test_a_process_that_has_ended_is_started_again(counting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxferry.runtime.server.opening._LEAST_SECONDS", 3.0)
    application = Application(options(ModelSource("counting", str(counting)), device="auto", isolated=True, timeout=3.0))
    with TestClient(application) as client:
        engine = application.repository.find("counting").engine
        assert isinstance(engine, IsolatedEngine)
        status, answer = asked(client, 3)
        assert status == 200
        assert answer["outputs"][0]["data"] == [2.5]
        assert asked(client, 2**60)[0] in (500, 504)  # the child's limit, or the request's own, which comes at the same time
        for _ in range(100):
            status, answer = asked(client, 3)
            if status == 200:
                break
            assert status in (503, 504), answer
            time.sleep(0.1)
        assert status == 200
        assert application.repository.find("counting").engine is not engine


def test_what_does_not_go_with_it() -> None:
    for changes in ({"tune": True}, {"device": "cuda"}):
        with pytest.raises(InputError, match="--isolated runs each file as it is on the CPU: leave --tune and --device out"):
            options(ModelSource("digits", "digits"), isolated=True, **changes).check()


def test_the_limits_of_a_model_can_be_given() -> None:
    from onnxferry.runtime import load

    with load("digits", isolated=SandboxLimits(seconds=20, memory_bytes=2**31)) as model:
        assert model.run({"image": np.zeros((1, 28, 28, 1), np.uint8)})
        assert model.engine._limits.seconds == 20
