"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from starlette.testclient import TestClient

from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.options import ModelSource
from onnxferry.runtime.server.rpc import protocol
from onnxferry.runtime.server.rpc.service import CONTENTS
from onnxferry.runtime.server.tensors import DTYPES, to_bytes
from tests.runtime.server.conftest import options
from tests.runtime.server.http.test_rest import echo_inputs

SOURCE = Path(protocol.__file__)


class Channel:
    """A client made of the shipped descriptors."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def __call__(self, name: str, /, timeout: float = 30, metadata: Any = (), **fields: Any) -> Any:
        asked, answer = protocol.methods()[name]
        call = self.channel.unary_unary(
            f"/{protocol.SERVICE}/{name}", request_serializer=asked.SerializeToString, response_deserializer=answer.FromString
        )
        return call(asked(**fields), timeout=timeout, metadata=metadata)


@pytest.fixture
def call(client: TestClient) -> Channel:
    return Channel(client.app.grpc_port)  # type: ignore[attr-defined]


def refused(call: Channel, name: str, /, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(name, **fields)
    return caught.value.code().name, caught.value.details()


def test_health_and_metadata(call: Channel) -> None:
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name="digits").ready
    assert call("ServerMetadata").name == "onnxferry"
    about = call("ModelMetadata", name="digits")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in about.inputs] == [("image", "UINT8", [-1, -1, -1, 1])]
    assert {model.name for model in call("RepositoryIndex").models} == {"echo", "digits", "shakespeare", "digits-ae", "digits-gan"}


def test_every_datatype_raw(call: Channel) -> None:
    inputs = echo_inputs()
    tensors = [{"name": name, "datatype": name, "shape": [2, 3]} for name in inputs]
    answer = call("ModelInfer", model_name="echo", id="7", inputs=tensors, raw_input_contents=[to_bytes(a) for a in inputs.values()])
    assert answer.id == "7"
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        assert raw == to_bytes(inputs[tensor.datatype])
        assert list(tensor.shape) == [2, 3]


def test_every_datatype_as_contents(tmp_path: Path, call: Channel) -> None:
    inputs = echo_inputs()
    tensors: list[dict[str, Any]] = []
    for name, array in inputs.items():
        if name == "FP16":
            continue
        flat = [text.encode() for text in array.reshape(-1)] if name == "BYTES" else array.reshape(-1).tolist()
        tensors.append({"name": name, "datatype": name, "shape": [2, 3], "contents": {CONTENTS[name]: flat}})
    code, words = refused(call, "ModelInfer", model_name="echo", inputs=tensors)
    assert code == "INVALID_ARGUMENT"
    assert "FP16" in words
    only = [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 1], "contents": {"uint_contents": [0, 1, 2, 255]}}]
    answer = call("ModelInfer", model_name="digits", inputs=only)
    assert not answer.raw_output_contents
    probabilities = next(tensor for tensor in answer.outputs if tensor.name == "probabilities")
    assert np.isclose(sum(probabilities.contents.fp32_contents), 1)


@pytest.mark.parametrize(
    ("name", "fields", "code", "words"),
    [
        ("ModelInfer", {"model_name": "x"}, "NOT_FOUND", "there is no model 'x'"),
        ("ModelMetadata", {"name": "digits", "version": "2"}, "NOT_FOUND", "no version '2'"),
        ("ModelInfer", {"model_name": "digits", "inputs": [{"name": "y"}]}, "INVALID_ARGUMENT", "no input 'y'"),
        ("ModelInfer", {"model_name": "digits", "raw_input_contents": [b""]}, "INVALID_ARGUMENT", "1 entries for 0 inputs"),
        (
            "ModelInfer",
            {
                "model_name": "digits",
                "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 1]}],
                "raw_input_contents": [b"1"],
            },
            "INVALID_ARGUMENT",
            "has 1 bytes",
        ),
        (
            "ModelInfer",
            {"model_name": "digits", "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 2, 2, 1]}]},
            "INVALID_ARGUMENT",
            "whole number from 0",
        ),
        ("RepositoryModelLoad", {"model_name": "digits"}, "PERMISSION_DENIED", "is off"),
    ],
)
def test_what_is_wrong_is_one_clear_answer(call: Channel, name: str, fields: dict[str, Any], code: str, words: str) -> None:
    found = refused(call, name, **fields)
    assert found[0] == code
    assert words in found[1]


def test_a_deadline_stops_the_run(call: Channel) -> None:
    image = np.zeros((1024, 28, 28, 1), np.uint8)
    tensors = [{"name": "image", "datatype": "UINT8", "shape": list(image.shape)}]
    assert (
        refused(call, "ModelInfer", model_name="digits", inputs=tensors, raw_input_contents=[image.tobytes()], timeout=0.02)[0]
        == "DEADLINE_EXCEEDED"
    )


def test_random_messages_never_reach_a_bug(call: Channel) -> None:
    """Mutated requests: every answer is one of the protocol's errors, none is INTERNAL."""
    rng = np.random.default_rng(0)
    asked, _answer = protocol.methods()["ModelInfer"]
    tensors = [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 1]}]
    good = asked(model_name="digits", inputs=tensors, raw_input_contents=[b"abcd"]).SerializeToString()
    send = call.channel.unary_unary(f"/{protocol.SERVICE}/ModelInfer")
    codes = set()
    for _ in range(300):
        mutant = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        try:
            send(bytes(mutant), timeout=30)
        except grpc.RpcError as error:
            codes.add(error.code().name)
    assert "INTERNAL" not in codes
    assert "UNKNOWN" not in codes
    assert "INVALID_ARGUMENT" in codes or "NOT_FOUND" in codes


def test_tokens(echo: Path, tmp_path: Path) -> None:
    from onnxferry.runtime.server.access import new_token

    token, entry = new_token("alice")
    (tmp_path / "tokens.toml").write_text(entry + 'models = ["digits"]\n')
    with TestClient(Application(options(ModelSource("echo", str(echo)), tokens=str(tmp_path / "tokens.toml"), grpc_port=0))) as client:
        call = Channel(client.app.grpc_port)  # type: ignore[attr-defined]
        assert call("ServerLive").live
        assert refused(call, "ServerMetadata")[0] == "UNAUTHENTICATED"
        known = [("authorization", f"Bearer {token}")]
        assert call("ServerMetadata", metadata=known).name == "onnxferry"
        assert refused(call, "ModelInfer", model_name="echo", metadata=known)[0] == "PERMISSION_DENIED"


def test_the_descriptors_are_those_of_the_proto_file(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    made = tmp_path / "made.binpb"
    proto = SOURCE.with_name("inference.proto")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(proto.parent), f"--descriptor_set_out={made}", str(proto)]
    subprocess.run(command, check=True, timeout=120)
    assert made.read_bytes() == SOURCE.with_name("inference.binpb").read_bytes()


def test_datatypes_have_contents() -> None:
    assert set(CONTENTS) == {*DTYPES, "BYTES"} - {"FP16"}
