"""The command: what it needs, the port, and that it serves."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from onnxferry.demo.cli import free_port, serve_command
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import install_command

ROOT = Path(__file__).parents[2]


def test_a_taken_port_is_an_error_and_another_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--no-browser"]) == 1
        assert free_port(None) != port


@pytest.mark.parametrize(("package", "extra"), [("streamlit", "demo"), ("onnxruntime", "cpu")])
def test_what_is_not_installed_is_told_with_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    assert main(["demo"]) == 1
    assert install_command(extra) in capsys.readouterr().err


def test_promises_stand_in_the_file_and_on_the_command_line() -> None:
    settings = tomllib.loads((ROOT / "demo" / ".streamlit" / "config.toml").read_text())
    assert settings["browser"]["gatherUsageStats"] is False
    assert settings["server"]["address"] == "localhost"
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["client"]["showErrorLinks"] is False  # to Google and ChatGPT
    assert settings["logger"]["hideWelcomeMessage"] is True
    words = " ".join(serve_command(8600))
    for promise in (
        "--browser.gatherUsageStats false",
        "--logger.hideWelcomeMessage true",
        "--server.address localhost",
        "--server.headless true",
    ):
        assert promise in words
    assert "--server.headless false" in " ".join(serve_command(8600, open_browser=True))


def test_streamlit_offers_to_install_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a coding assistant's folder in HOME and a browser to open, Streamlit shows a card over every page, unless it is told not to."""
    from streamlit import config
    from streamlit.web import skills

    monkeypatch.setattr(skills, "agent_harness_present", lambda *_, **__: True)
    monkeypatch.setattr(skills, "detect_installed_skills", lambda *_, **__: [])
    monkeypatch.setattr(skills, "_nudge_dismissed_marker_path", lambda: tmp_path / "none")
    settings = tomllib.loads((ROOT / "demo" / ".streamlit" / "config.toml").read_text())
    answers = {"server.headless": False, "logger.hideWelcomeMessage": settings["logger"]["hideWelcomeMessage"]}
    monkeypatch.setattr(config, "get_option", answers.__getitem__)
    assert skills.nudge_suppression_reason(str(tmp_path)) == "welcome_hidden"


@pytest.mark.slow
def test_it_serves_from_another_folder_and_keeps_stdout_for_json(tmp_path: Path) -> None:
    port = free_port(None)
    command = [sys.executable, "-m", "onnxferry.runtime", "demo", "--no-browser", "--port", str(port), "--json"]
    said = tmp_path / "stderr"
    with (
        said.open("w") as stderr,
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            document = "".join(process.stdout.readline() for _ in range(4))
            assert json.loads(document) == {"url": f"http://localhost:{port}", "port": port}
            deadline = time.monotonic() + 180
            while True:
                assert process.poll() is None
                assert time.monotonic() < deadline
                try:
                    with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=5) as answer:
                        assert answer.status == 200
                        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
                    break
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    pass
                time.sleep(0.2)
            process.terminate()
            assert process.stdout.read() == ""
        finally:
            process.terminate()
            process.wait(30)
