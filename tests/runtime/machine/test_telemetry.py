"""Nothing is sent and nothing is left behind: ONNX Runtime's telemetry is off wherever onnxferry imports it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxferry.runtime.cli.main import main

LOAD = "from onnxferry.runtime import load; load('digits', device='cpu')"
CHECK = """
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.sandbox.jobs import check_file
check_file(zoo_model("digits").path)
"""


def left_behind(program: str, folder: Path, *before: str, **environment: str) -> list[str]:
    """The files in HOME and TMPDIR after a program has run with both of them new."""
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    unset = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "ONNXFERRY_CACHE", "TF_BUILD", "GITHUB_ACTIONS")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    places = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*before, sys.executable, "-c", program], env=inherited | places | environment, check=True, timeout=300)
    return sorted(str(path.relative_to(folder)) for path in (*home.rglob("*"), *temporary.rglob("*")) if path.is_file())


@pytest.mark.parametrize("program", [LOAD, CHECK, "import onnxferry.export, onnxruntime; " + LOAD], ids=["load", "sandbox", "export"])
def test_nothing_is_left_behind(program: str, tmp_path: Path) -> None:
    assert left_behind(program, tmp_path) == []


def test_the_sandbox_has_it_off_whatever_the_user_set(tmp_path: Path) -> None:
    assert left_behind(CHECK, tmp_path, ORT_DISABLE_TELEMETRY="0") == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ONNX Runtime writes elsewhere on other systems")
def test_onnxruntime_alone_leaves_an_identity_behind(tmp_path: Path) -> None:
    """So that the tests above could fail."""
    import onnxruntime

    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < (1, 29):
        pytest.skip("this ONNX Runtime has no telemetry on Linux")
    from onnxferry.runtime.artifact.zoo import zoo_model

    program = f"import onnxruntime; onnxruntime.InferenceSession({str(zoo_model('digits').path)!r}, providers=['CPUExecutionProvider'])"
    assert any("deviceid" in name for name in left_behind(program, tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_name_is_looked_up(tmp_path: Path) -> None:
    """ONNX Runtime's uploader looks its server up some seconds after the import."""
    log = tmp_path / "trace"
    left_behind(f"{LOAD}; import time; time.sleep(6)", tmp_path, "strace", "-f", "-qq", "-e", "trace=socket,connect,sendto", "-o", str(log))
    assert [line for line in log.read_text().splitlines() if "AF_INET" in line] == []


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    main(["doctor"])
    assert "ORT_DISABLE_TELEMETRY=1" in capsys.readouterr().out
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    main(["doctor"])
    assert "may send usage data" in " ".join(capsys.readouterr().out.split())
