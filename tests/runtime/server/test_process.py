"""The server as a process: signals, workers, bounds of connections, and clients that misbehave."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from onnxferry.runtime.machine.memory import Resident, resident_memory
from tests.runtime.conftest import LARGE, WIDTH
from tests.runtime.server.conftest import write_echo

TEXT = {"text_input": "To be", "parameters": {"max_tokens": 400}}


@contextmanager
def server(*arguments: str, expect: int | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port, ready; its URL and process."""
    command = [sys.executable, "-m", "onnxferry", "serve", *arguments, "--port", "0", "--threads", "1", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        url = json.loads(line)["url"]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/v2/health/ready", timeout=5, verify=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    with server("shakespeare", "digits", "--batch", "off", "--max-connections", "20", "--timeout", "3") as (url, _):
        yield url


def raw(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def answer_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except (ConnectionResetError, TimeoutError):
        pass
    return received


def test_a_stop_finishes_what_was_accepted() -> None:
    answers: list[int] = []
    with server("shakespeare", "--batch", "off") as (url, process):

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v2/models/shakespeare/generate", json=TEXT, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        while 'onnxferry_waiting{model="shakespeare",version="1"} 3.0' not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(60) == 0
    assert answers == [200, 200, 200]


def test_a_hangup_replaces_the_models_and_loses_no_request(tmp_path: Path) -> None:
    path = write_echo(tmp_path / "echo.onnx")
    with server(f"echo={path}", "--batch", "off") as (url, process):
        write_echo(path, ("rows", 3))
        statuses = set()
        with httpx.Client() as client:
            process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                answer = client.get(f"{url}/v2/models/echo")
                statuses.add(answer.status_code)
                if answer.json()["inputs"][0]["shape"] == [-1, 3]:
                    break
            else:
                pytest.fail("the model was not replaced")
        assert statuses == {200}


def test_workers_share_a_port_and_a_killed_one_comes_back() -> None:
    with server("digits", "--workers", "2", "--batch", "off") as (url, process):
        children = _children(process.pid)
        assert len(children) >= 2
        assert any("copy-0/model.onnx.data" in Path(f"/proc/{child}/maps").read_text() for child in children)  # one copy of the weights
        os.kill(children[-1], signal.SIGKILL)
        good = 0
        deadline = time.monotonic() + 30
        while good < 20 and time.monotonic() < deadline:
            try:
                good += httpx.get(f"{url}/v2/models/digits", timeout=5).status_code == 200
            except httpx.TransportError:
                time.sleep(0.05)
        assert good == 20
        assert httpx.post(f"{url}/v2/repository/models/digits/load").status_code == 403
        text = httpx.get(f"{url}/metrics").text
        assert 'route="model_metadata"' in text


def test_a_worker_that_hangs_and_one_that_is_killed_keep_nobody_waiting() -> None:
    with server("digits", "--workers", "2", "--batch", "off", "--drain", "1") as (_, process):
        hanging, killed = _children(process.pid)[-2:]
        os.kill(hanging, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)  # the others are asked now, and the one that hangs has 30 s to answer
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert not any(Path(f"/proc/{pid}").exists() for pid in (hanging, killed))


def test_workers_end_when_the_main_process_is_killed() -> None:
    with server("digits", "--workers", "2", "--batch", "off") as (url, process):
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 60
        answered = True
        while answered and time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                httpx.get(f"{url}/v2/health/ready", timeout=5)
            except httpx.TransportError:
                answered = False
        assert not answered


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what processes share")
def test_workers_hold_the_weights_once(large: Path) -> None:
    with server(f"large={large}", "--workers", "2", "--batch", "off", "--device", "cpu") as (url, process):
        x = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.5] * WIDTH}
        deadline = time.monotonic() + 60
        held: list[Resident] = []
        while len(held) < 2 and time.monotonic() < deadline:  # until both have run: a page is read when it is first needed
            assert httpx.post(f"{url}/v2/models/large/infer", json={"inputs": [x]}, timeout=60).status_code == 200
            found = [resident_memory(child) for child in _children(process.pid)]
            held = [each for each in found if each is not None and each.rss - each.uss > LARGE]
        assert len(held) == 2
        for each in held:  # of a page that both have, each counts a half
            assert each.pss < each.rss - 0.4 * LARGE


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_port_in_use_is_one_line(running: str) -> None:
    port = running.rsplit(":", 1)[1]
    result = subprocess.run(
        [sys.executable, "-m", "onnxferry", "serve", "digits", "--port", port], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "cannot listen on 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no model named 'nothing'"),
        (["digits", "digits"], "two models have the name"),
        (["digits", "--host", "0.0.0.0"], "--tokens FILE"),
        (["digits", "--tls-cert", "a.pem"], "both --tls-cert and --tls-key"),
        (["digits", "--tls-cert", "a.pem", "--tls-key", "b.pem"], "cannot be used together"),
        (["digits", "--batch", "some"], "--batch must be"),
        (["digits-gan", "--batch", "0"], "--batch must be"),
        ([], "name at least one model"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    from onnxferry.runtime.cli.main import main

    assert main(["serve", *arguments, "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_certificate_and_its_key(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    certificate, key = _certificate(tmp_path)
    with server("digits", "--batch", "off", "--tls-cert", str(certificate), "--tls-key", str(key)) as (url, _):
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False
        assert httpx.get(f"{url}/v2", verify=context).status_code == 200
        plain = raw(url.replace("https", "http"))
        plain.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" not in answer_of(plain)


def _certificate(folder: Path) -> tuple[Path, Path]:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    (folder / "k.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return folder / "c.pem", folder / "k.pem"


def test_a_head_that_is_too_large(running: str) -> None:
    for head in (b"GET /v2 HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(100)), b"GET /" + b"a" * 1_000_000):
        connection = raw(running)
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head)
        received = answer_of(connection)
        assert b" 431 " in received or received == b"" or b" 400 " in received
        assert b"200" not in received
    assert httpx.get(f"{running}/v2").status_code == 200


def test_a_body_that_never_comes_is_answered_by_the_deadline(running: str) -> None:
    connection = raw(running)
    connection.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert b" 504 " in answer_of(connection)


def test_one_connection_too_many(running: str) -> None:
    held = [raw(running) for _ in range(25)]
    time.sleep(0.3)
    refused = 0
    for connection in held:
        connection.settimeout(0.3)
        refused += b" 503 " in answer_of(connection)
        connection.close()
    assert refused >= 5
    time.sleep(0.3)
    assert httpx.get(f"{running}/v2").status_code == 200


def test_a_client_that_goes_stops_its_work(running: str) -> None:
    """Texts of 20,000 bytes would take minutes: clients leave, and the next one is answered at once."""
    body = json.dumps({"text_input": "", "parameters": {"max_tokens": 20_000}}).encode()
    for path in ("generate", "generate_stream"):
        connection = raw(running)
        head = f"POST /v2/models/shakespeare/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.3)
        connection.close()
    time.sleep(0.5)
    assert 'onnxferry_waiting{model="shakespeare",version="1"} 0.0' in httpx.get(f"{running}/metrics").text


def test_garbage_is_refused(running: str) -> None:
    for junk in (b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"POST / HTTP/9.9\r\n\r\n"):
        connection = raw(running)
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in answer_of(connection)
    assert httpx.get(f"{running}/v2").status_code == 200


def test_a_full_queue_is_429(tmp_path: Path) -> None:
    statuses: list[Any] = []
    with server("shakespeare", "--batch", "off", "--max-queue", "2") as (url, _):

        def ask() -> None:
            answer = httpx.post(f"{url}/v2/models/shakespeare/generate", json=TEXT, timeout=60)
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) == {(200, None), (429, "1")}


def test_the_log_is_json_and_has_no_path() -> None:
    with server("digits", "--batch", "off") as (url, process):
        httpx.get(f"{url}/v2/models/digits", headers={"x-request-id": "seven"})
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        events = [json.loads(line) for line in process.stderr.read().splitlines()]
    request = next(event for event in events if event.get("request_id") == "seven")
    assert (request["status"], request["model"], request["path"]) == (200, "digits", "/v2/models/digits")
