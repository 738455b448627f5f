"""Tokens: who may use what, and how often."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.access import new_token, read_access
from onnxferry.runtime.server.app import Application
from onnxferry.runtime.server.options import ModelSource, ServeOptions, model_source
from tests.runtime.server.conftest import options


@pytest.fixture(scope="module")
def guarded(echo: Path, tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    tokens, entries = zip(*(new_token(name) for name in ("all", "one", "slow")), strict=True)
    file.write_text(f'{entries[0]}{entries[1]}models = ["digits"]\n{entries[2]}rate = 2\n')
    with TestClient(Application(options(ModelSource("echo", str(echo)), model_source("digits"), tokens=str(file)))) as client:
        yield client, dict(zip(("all", "one", "slow"), tokens, strict=True))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_only_health_needs_no_token(guarded) -> None:
    client, tokens = guarded
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    for path in ("/v2", "/docs", "/metrics", "/openapi.json", "/v2/models/digits", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "token" in answer.json()["error"]
    for wrong in ("Bearer x", "Basic YTpi", "Bearer", f"Bearer {tokens['all']}x"):
        assert client.get("/v2", headers={"authorization": wrong}).status_code == 401
    assert client.get("/v2", headers=bearer(tokens["all"])).status_code == 200


def test_models_of_a_token(guarded) -> None:
    client, tokens = guarded
    headers = bearer(tokens["one"])
    assert client.get("/v2/models/digits", headers=headers).status_code == 200
    assert client.get("/v2/models/echo", headers=headers).status_code == 403
    assert client.post("/run/echo", json={}, headers=headers).status_code == 403
    assert [row["name"] for row in client.post("/v2/repository/index", headers=headers).json()] == ["digits"]
    assert "echo" not in client.get("/openapi.json", headers=headers).text
    assert "echo" not in client.get("/docs", headers=headers).text


def test_the_rate_of_a_token(guarded) -> None:
    client, tokens = guarded
    answers = [client.get("/v2", headers=bearer(tokens["slow"])) for _ in range(4)]
    assert [answer.status_code for answer in answers][:2] == [200, 200]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert client.get("/v2", headers=bearer(tokens["all"])).status_code == 200


def test_only_hashes_are_kept() -> None:
    token, entry = new_token("alice")
    assert token not in entry
    assert hashlib.sha256(token.encode()).hexdigest() in entry
    assert token != new_token("alice")[0]
    with pytest.raises(InputError, match="name of a token"):
        new_token("a b")


@pytest.mark.parametrize(
    "text",
    ["", "x = 1", "[a]", '[a]\nsha256 = "12"', f'[a]\nsha256 = "{"0" * 64}"\nrate = 0', f'[a]\nsha256 = "{"0" * 64}"\nmodel = 1', "[a"],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"tokens\.toml"):
        read_access(str(file))
    with pytest.raises(InputError, match="cannot be read"):
        read_access(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com"])
def test_other_machines_need_a_token(host: str) -> None:
    source = (model_source("digits"),)
    with pytest.raises(InputError, match="--tokens FILE"):
        ServeOptions(source, host=host).check()
    ServeOptions(source, host=host, insecure=True).check()
    ServeOptions(source, host=host, environment_token="x").check()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_needs_none(host: str) -> None:
    ServeOptions((model_source("digits"),), host=host).check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", ("digits", "digits", "1")),
        ("a/b/My.model.onnx", ("My.model", "a/b/My.model.onnx", "1")),
        ("m=a/b=c.onnx", ("m", "a/b=c.onnx", "1")),
        ("m:12=x.onnx", ("m", "x.onnx", "12")),
        ("./a=b.onnx", ("a=b", None, None)),
    ],
)
def test_models_on_the_command_line(text: str, expected: tuple[str, str, str]) -> None:
    if expected[1] is None:
        with pytest.raises(InputError, match="cannot be part of a URL"):
            model_source(text)
        return
    found = model_source(text)
    assert (found.name, found.source, found.version) == expected


@pytest.mark.parametrize("text", ["m:0=x.onnx", "m:a=x.onnx", "bild 1.onnx", "=x.onnx", ".onnx"])
def test_names_that_cannot_be_served(text: str) -> None:
    with pytest.raises(InputError):
        model_source(text)
