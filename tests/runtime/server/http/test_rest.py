"""The Open Inference Protocol over HTTP, and the plain routes beside it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from onnxferry.runtime import load
from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.options import ModelSource
from onnxferry.runtime.server.tensors import DTYPES, to_bytes
from tests.runtime.server.conftest import options, write_echo

HEADER = "inference-header-content-length"


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def echo_inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {name: rng.integers(0, 2, (2, 3)).astype(dtype) for name, dtype in DTYPES.items()}
    return {**made, "BYTES": np.array([["a", "", "深"], ["b", "c", "d"]], object)}


def test_health_and_metadata(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data", "model_repository", "generate"]
    about = client.get("/v2/models/digits/versions/1").json()
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 1]}]
    assert json.loads(about["properties"]["labels"]) == list("0123456789")
    assert client.get("/v2/models/digits/ready").status_code == 200


def test_every_datatype_in_json(client: TestClient) -> None:
    inputs = echo_inputs()
    body = {
        "id": "seven",
        "inputs": [{"name": n, "datatype": n, "shape": [2, 3], "data": a.tolist()} for n, a in inputs.items()],
    }
    answer = client.post("/v2/models/echo/infer", json=body).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("echo", "1", "seven")
    assert {t["name"]: t["datatype"] for t in answer["outputs"]} == {f"{name}_out": name for name in inputs}
    for tensor in answer["outputs"]:
        assert tensor["shape"] == [2, 3]
        assert tensor["data"] == inputs[tensor["datatype"]].reshape(-1).tolist()


def test_every_datatype_in_bytes_and_a_mixture(client: TestClient) -> None:
    inputs = echo_inputs()
    raw = {name: to_bytes(array) for name, array in inputs.items() if name != "INT32"}
    tensors = [
        {
            "name": n,
            "datatype": n,
            "shape": [2, 3],
            **({"parameters": {"binary_data_size": len(raw[n])}} if n in raw else {"data": a.tolist()}),
        }
        for n, a in inputs.items()
    ]
    wanted = [{"name": f"{n}_out", "parameters": {"binary_data": n != "FP64"}} for n in inputs]
    head = json.dumps({"inputs": tensors, "outputs": wanted}).encode()
    answer = client.post("/v2/models/echo/infer", content=head + b"".join(raw.values()), headers={HEADER: str(len(head))})
    length = int(answer.headers[HEADER])
    document, rest = json.loads(answer.content[:length]), answer.content[length:]
    for tensor in document["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            assert tensor["datatype"] == "FP64"
            assert tensor["data"] == inputs["FP64"].reshape(-1).tolist()
            continue
        assert rest[:size] == to_bytes(inputs[tensor["datatype"]])
        rest = rest[size:]
    assert not rest


def test_all_outputs_in_bytes_when_the_request_says_so(client: TestClient) -> None:
    body = json.dumps({
        "inputs": [{"name": n, "datatype": n, "shape": [2, 3], "data": a.tolist()} for n, a in echo_inputs().items()],
        "parameters": {"binary_data_output": True},
    })  # fmt: skip
    answer = client.post("/v2/models/echo/infer", content=body)
    assert len(answer.content) > int(answer.headers[HEADER])


def test_an_optional_input_and_one_output(client: TestClient) -> None:
    inputs = [{"name": n, "datatype": n, "shape": [2, 3], "data": a.tolist()} for n, a in echo_inputs().items()]
    inputs.append({"name": "scale", "datatype": "FP32", "shape": [], "data": [3]})
    body = {"inputs": inputs, "outputs": [{"name": "FP32_out"}]}
    (output,) = client.post("/v2/models/echo/infer", json=body).json()["outputs"]
    assert output["data"] == (3 * echo_inputs()["FP32"]).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b"{}", 400, "inputs must be a list"),
        (b'{"inputs": [1]}', 400, "object with a name"),
        (b'{"inputs": [{"name": "y"}]}', 400, "no input 'y'; it takes image"),
        (b'{"inputs": []}', 400, "image"),
        (b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1]}]}', 400, "must have the datatype UINT8"),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2]}]}', 400, "must have 4 axes"),
        (b'{"inputs": [], "outputs": [{"name": "z"}]}', 400, "no output 'z'"),
        (b'{"inputs": [], "parameters": {"timeout": -1}}', 400, "microseconds"),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 4}}]}', 400, "bytes left"),
    ],
)
def test_bad_bodies_are_one_clear_answer(client: TestClient, body: bytes, status: int, words: str) -> None:
    answer = client.post("/v2/models/digits/infer", content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "/" not in answer.json()["error"].replace("float32", "")


def test_unknown_names(client: TestClient) -> None:
    for path, words in {
        "/v2/models/nothing": "there is no model 'nothing'",
        "/v2/models/digits/versions/7": "has no version '7'",
        "/v2/elsewhere": "there is nothing at",
        "/v2/models/..%2f..%2fetc/ready": "there is n",
    }.items():
        answer = client.get(path)
        assert answer.status_code == 404
        assert words in answer.json()["error"]
    assert client.get("/v2/models/digits/infer").status_code == 405


def test_a_wrong_header_length(client: TestClient) -> None:
    for length in ("x", "99", "-1"):
        answer = client.post("/v2/models/digits/infer", content=b'{"inputs": []}', headers={HEADER: length})
        assert answer.status_code == 400
        assert "Inference-Header-Content-Length" in answer.json()["error"]


def test_bodies_beyond_the_limit(echo: Path) -> None:
    with TestClient(Application(options(ModelSource("echo", str(echo)), max_body=1000))) as small:
        assert small.post("/v2/models/echo/infer", content=b"x" * 1001).status_code == 413
        assert small.post("/v2/models/echo/infer", content=iter([b"x" * 600] * 3)).status_code == 413


def test_deadlines(client: TestClient) -> None:
    body = {"text_input": "To be", "parameters": {"max_tokens": 20_000}}
    answer = client.post("/v2/models/shakespeare/generate", json=body, headers={"x-request-timeout": "0.3"})
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"]
    assert client.get("/v2", headers={"x-request-timeout": "soon"}).status_code == 400
    image = np.zeros((512, 28, 28, 1), np.uint8)
    head = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [512, 28, 28, 1], "parameters": {"binary_data_size": image.size}}]}
    text = json.dumps({**head, "parameters": {"timeout": 1000}}).encode()
    answer = client.post("/v2/models/digits/infer", content=text + image.tobytes(), headers={HEADER: str(len(text))})
    assert answer.status_code == 504


def test_text(client: TestClient) -> None:
    wanted = load("shakespeare", threads=1, device="cpu").generate("ROMEO:", max_bytes=60, seed=3)
    body = {"text_input": "ROMEO:", "parameters": {"max_tokens": 60, "seed": 3}}
    answer = client.post("/v2/models/shakespeare/generate", json=body).json()
    assert (answer["text_output"], answer["details"]) == (wanted, {"finish_reason": "length"})
    lines = client.post("/v2/models/shakespeare/generate_stream", json=body).text.split("\n\n")
    pieces = [json.loads(line.removeprefix("data: "))["text_output"] for line in lines if line]
    assert "".join(pieces) == wanted
    assert len(pieces) > 1
    stopped = client.post("/v2/models/shakespeare/generate", json={**body, "parameters": {"seed": 3, "stop": [" "]}}).json()
    assert stopped["text_output"] == wanted.split(" ")[0]
    assert stopped["details"] == {"finish_reason": "stop_sequence"}
    plain = client.post("/generate/shakespeare", json={"prompt": "ROMEO:", "max_bytes": 60, "seed": 3}).json()
    assert plain == {"model": "shakespeare", "text": wanted}
    streamed = client.post("/generate/shakespeare", json={"prompt": "ROMEO:", "max_bytes": 60, "seed": 3, "stream": True}).text
    assert "".join(json.loads(line[6:])["text"] for line in streamed.split("\n\n") if line) == wanted
    assert client.post("/generate/shakespeare", content="深".encode()).status_code == 200


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"max_bytes": 0}, {"max_bytes": 10**9}, {"top_p": 2}, {"seed": "x"}, {"stop": ""}, {"color": 1}]
)
def test_bad_options_of_a_text(client: TestClient, options: dict[str, object]) -> None:
    for path in ("/generate/shakespeare", "/v2/models/shakespeare/generate", "/v2/models/shakespeare/generate_stream"):
        body = {"prompt": "", **options} if "v2" not in path else {"text_input": "", "parameters": options}
        answer = client.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_images(client: TestClient) -> None:
    wanted = load("digits", threads=1, device="cpu").predict_one(png())
    found = client.post("/predict/digits", content=png()).json()
    assert found == {"model": "digits", **wanted.to_dict()}
    assert len(client.post("/predict/digits?top=3", files={"file": png()}).json()["top"]) == 3
    score = client.post("/predict/digits-ae", content=png()).json()
    assert set(score) == {"model", "anomaly_score", "threshold", "unusual"}
    assert score["unusual"] is True
    made = client.post("/sample/digits-gan", json={"n": 4, "label": "7"})
    assert made.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(made.content)).size == (59, 59)
    assert client.post("/predict/digits", content=b"no image").status_code == 400
    assert client.post("/predict/digits", content=b"").status_code == 400
    assert client.post("/predict/digits?top=0", content=png()).status_code == 400
    assert client.post("/predict/shakespeare", content=png()).status_code == 400
    assert client.post("/sample/digits-gan", json={"n": 10**9}).status_code == 400
    assert client.post("/sample/digits-gan", json={"label": "x"}).status_code == 400


def test_any_model_by_lists(client: TestClient) -> None:
    inputs = {name: array.tolist() for name, array in echo_inputs().items()}
    outputs = client.post("/run/echo", json=inputs).json()["outputs"]
    assert outputs == {f"{name}_out": value for name, value in inputs.items()}


def test_the_page_and_the_description(client: TestClient) -> None:
    page = client.get("/docs")
    assert "curl --data-binary @IMAGE.png http://testserver/predict/digits" in page.text
    assert "script" not in page.text
    assert page.text.count("http://") == page.text.count("http://testserver")
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict/digits", "/generate/shakespeare", "/v2/models/echo/infer", "/run/echo", "/sample/digits-gan"} <= set(paths)


def test_metrics_and_ids(client: TestClient) -> None:
    answer = client.get("/v2/models/digits", headers={"x-request-id": "abc", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    assert answer.headers["x-request-id"] == "abc"
    assert answer.headers["traceparent"].startswith(f"00-{'1' * 32}-")
    assert client.get("/v2", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
    text = client.get("/metrics").text
    assert 'onnxferry_requests_total{model="digits",protocol="http",route="model_metadata",status="200",version="1"}' in text
    assert 'onnxferry_waiting{model="digits",version="1"} 0.0' in text


def test_the_repository_is_closed_unless_asked_for(client: TestClient) -> None:
    assert len(client.post("/v2/repository/index").json()) == 5
    assert client.post("/v2/repository/models/digits/unload").status_code == 403


def test_models_are_replaced_and_unloaded(tmp_path: Path) -> None:
    path = write_echo(tmp_path / "echo.onnx")
    with TestClient(Application(options(ModelSource("echo", str(path)), repository=True))) as client:
        write_echo(path, ("rows", 3))
        assert client.post("/v2/repository/models/echo/load").status_code == 200
        assert client.get("/v2/models/echo").json()["inputs"][0]["shape"] == [-1, 3]
        path.write_bytes(b"no model")
        answer = client.post("/v2/repository/models/echo/load")
        assert answer.status_code == 400
        assert str(tmp_path) not in answer.text
        assert client.get("/v2/models/echo/ready").status_code == 200  # the older one goes on
        assert client.post("/v2/repository/models/echo/unload").status_code == 200
        assert client.get("/v2/models/echo/ready").status_code == 503
        assert client.post("/v2/repository/index").json() == [
            {"name": "echo", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        ]
        assert client.post("/v2/repository/index", json={"ready": True}).json() == []


def test_the_newest_version_unless_asked_otherwise(tmp_path: Path) -> None:
    old, new = write_echo(tmp_path / "a.onnx"), write_echo(tmp_path / "b.onnx", ("rows", 3))
    sources = ModelSource("echo", str(old), "9"), ModelSource("echo", str(new), "10")
    with TestClient(Application(options(*sources))) as client:
        assert client.get("/v2/models/echo").json()["inputs"][0]["shape"] == [-1, 3]
        about = client.get("/v2/models/echo/versions/9").json()
        assert about["inputs"][0]["shape"] == [-1, -1]
        assert about["versions"] == ["9", "10"]


def test_a_name_that_occurs_twice_is_refused(client: TestClient) -> None:
    answer = client.post("/run/echo", content=b'{"INT64": [[1]], "INT64": [[2]]}')
    assert (answer.status_code, answer.json()["error"]) == (400, "the body is refused: 'INT64' occurs twice in one object")


def test_a_compressed_body_is_refused_and_not_read_as_an_image(client: TestClient) -> None:
    answer = client.post("/predict/digits", content=png(), headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert "content-encoding 'gzip' is not taken" in answer.json()["error"]
    assert client.post("/predict/digits", content=png(), headers={"content-encoding": "identity"}).status_code == 200


def test_parameters_of_a_text_beside_it_count_too(client: TestClient) -> None:
    url = "/v2/models/shakespeare/generate"
    asked = {"text_input": "To be", "parameters": {"max_tokens": 5, "seed": 3}}
    expected = client.post(url, json=asked).json()["text_output"]
    assert len(expected.encode()) <= 5
    assert client.post(url, json={"text_input": "To be", "max_tokens": 5, "seed": 3}).json()["text_output"] == expected
    assert client.post(url, json={"text_input": "To be", "seed": 3, "parameters": {"max_tokens": 5}}).json()["text_output"] == expected
    assert "give it once" in client.post(url, json={**asked, "seed": 4}).json()["error"]
    assert "unknown parameter 'max_new_tokens'" in client.post(url, json={"text_input": "a", "max_new_tokens": 5}).json()["error"]


def test_a_request_is_a_span_of_the_callers_trace(client: TestClient) -> None:
    pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is not installed")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    client.get("/v2/models/digits", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("GET /v2/models/digits", trace.SpanKind.SERVER)
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == ("1" * 32, "2" * 16)
