"""What the description and the page show can be sent as it is."""

from __future__ import annotations

import html
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from starlette.testclient import TestClient

from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.http.examples import MOST_NUMBERS, example_feeds
from onnxferry.runtime.server.models import ServedModel
from onnxferry.runtime.server.options import ModelSource
from tests.runtime.server.conftest import options


def bodies(client: TestClient) -> Iterator[tuple[str, str, Any]]:
    """Path, content type and example of every request that the description has an example for."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for kind, content in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
            if "example" in content:
                yield path, kind, content["example"]


def test_every_example_of_the_description_is_answered(client: TestClient) -> None:
    found = list(bodies(client))
    for path, kind, example in found:
        sent = {"json": example} if kind == "application/json" else {"content": example, "headers": {"content-type": kind}}
        answer = client.post(path, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 200, (path, answer.text)
    shown = {path for path, _, _ in found}
    assert {f"/v2/models/{name}/infer" for name in ("echo", "digits", "digits-ae", "digits-gan")} <= shown
    assert {"/run/echo", "/generate/shakespeare", "/v2/models/shakespeare/generate", "/sample/digits-gan"} <= shown


def curl(client: TestClient, line: str, image: bytes) -> Any:
    """What a command of the page asks for."""
    program, *words = shlex.split(line)
    assert program == "curl"
    method, body, headers, url = "GET", None, {}, ""
    while words:
        word = words.pop(0)
        if word in ("-d", "--data-binary"):
            method, body = "POST", words.pop(0)
        elif word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-o":
            words.pop(0)
        elif word != "-N":
            url = word
    content = image if body == "@IMAGE.png" else body
    return client.request(method, url, content=content, headers=headers)


def test_every_command_of_the_page_works(client: TestClient) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(file, "PNG")
    blocks = re.findall(r"<pre>(.*?)</pre>", client.get("/docs").text, re.DOTALL)
    lines = [line for block in blocks for line in html.unescape(block).splitlines()]
    assert len(lines) == 6
    for line in lines:
        answer = curl(client, line, file.getvalue())
        assert answer.status_code == 200, (line, answer.text)
    assert any("/run/echo" in line for line in lines)


@pytest.mark.parametrize(
    ("shape", "known"), [(["n", 3], True), (["n", "t", 3], True), (["n", 3, 64, 64], False), ([1, "size", "size"], True), (None, False)]
)
def test_made_up_examples_are_small_and_run(tmp_path: Path, shape: list[Any] | None, known: bool) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    source = ModelSource("m", str(tmp_path / "m.onnx"))
    served = ServedModel(source, options(source))
    feeds = example_feeds(served)
    served.model.close()
    assert (feeds is not None) == known
    if feeds is not None:
        assert feeds["x"].size <= MOST_NUMBERS


def test_a_model_without_a_small_example_is_described_without(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, ["n", 3, 64, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "photo.onnx")
    with TestClient(Application(options(ModelSource("photo", str(tmp_path / "photo.onnx"))))) as client:
        assert list(bodies(client)) == []
        assert "curl http://testserver/v2/models/photo" in client.get("/docs").text


def test_golden_samples_are_not_shown(tmp_path: Path) -> None:
    """They may be rows of people, which the clients of a server should not see."""
    secret = np.float32([[4711.25, 4711.5]])
    golden = Golden(inputs={"x": secret}, outputs={"y": secret})
    contract = Contract(kind="model", name="m", goldens=(golden,), tolerances={"y": Tolerance()})
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, ["n", 2]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    helper.set_model_props(model, metadata_from_contract(contract))
    onnx.save(model, tmp_path / "m.onnx")
    with TestClient(Application(options(ModelSource("m", str(tmp_path / "m.onnx"))))) as client:
        assert len(list(bodies(client))) == 2
        for path in ("/openapi.json", "/docs"):
            assert "4711" not in client.get(path).text
