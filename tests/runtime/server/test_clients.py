"""Other people's clients, unchanged: tritonclient over HTTP and gRPC, and schemathesis on the server's own description.

They need other versions of protobuf than onnx does, so they live in an environment of their own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.server.test_process import server

pytestmark = pytest.mark.slow

TRITON = """
import sys, json, numpy as np
import tritonclient.grpc as g
import tritonclient.http as h

image = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
answers = []
for mod, url in ((h, sys.argv[1]), (g, sys.argv[2])):
    client = mod.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
    client.get_server_metadata(), client.get_model_metadata("digits"), client.get_model_repository_index()
    for binary in (True, False):
        asked = mod.InferInput("image", list(image.shape), "UINT8")
        if mod is h:
            asked.set_data_from_numpy(image, binary_data=binary)
            wanted = [h.InferRequestedOutput("probabilities", binary_data=binary)]
        else:
            asked.set_data_from_numpy(image)
            wanted = [g.InferRequestedOutput("probabilities")]
        answers.append(client.infer("digits", [asked], outputs=wanted, request_id="9").as_numpy("probabilities"))
    try:
        client.infer("nothing", [asked])
        raise SystemExit("no error for an unknown model")
    except mod.InferenceServerException as error:
        assert "there is no model" in str(error)
client = h.InferenceServerClient(sys.argv[1], concurrency=4)
asked = h.InferInput("image", list(image.shape), "UINT8")
asked.set_data_from_numpy(image)
for call in [client.async_infer("digits", [asked]) for _ in range(8)]:
    answers.append(call.get_result().as_numpy("probabilities"))
assert all((answer == answers[0]).all() for answer in answers)
print(json.dumps(answers[0].tolist()))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    command = [folder / "bin" / "pip", "install", "-q", "tritonclient[http,grpc]", "schemathesis>=4.30,<5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0 and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, int]]:
    port = free_port()
    models = ("digits", "shakespeare", "digits-ae", "digits-gan")
    # A text may be asked to be long: it is cut off, which is an answer too. A second was too short for any request on a busy machine.
    with server(*models, "--batch", "off", "--grpc-port", str(port), "--quiet", "--timeout", "3") as (url, _):
        yield url, port


def test_tritonclient_works_unchanged(environment: Path, served: tuple[str, int]) -> None:
    import numpy as np

    from onnxferry.runtime import load

    url, port = served
    command = [environment / "bin" / "python", "-c", TRITON, url.removeprefix("http://"), f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    image = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    with load("digits", threads=1, device="cpu") as model:
        np.testing.assert_allclose(json.loads(done.stdout), model.run({"image": image})["probabilities"], rtol=1e-5, atol=1e-7)


def test_schemathesis_finds_nothing(environment: Path, served: tuple[str, int]) -> None:
    """Bodies by the description, and against it: no answer is a server error, and each is as described."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [environment / "bin" / "schemathesis", "run", f"{served[0]}/openapi.json", "--max-examples", "5", "--checks", checks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=environment)  # it leaves a folder behind
    assert done.returncode == 0, done.stdout[-4000:]
