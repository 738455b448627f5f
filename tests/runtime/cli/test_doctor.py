from __future__ import annotations

import json

import pytest

from onnxferry.runtime.cli import doctor as doctor_command
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.diagnosis import Diagnosis, Finding

SOUND = Finding("system", "Python", "3.11")
BROKEN = Finding("ONNX Runtime", "wheel", "two are installed [sic]", "problem", "pip uninstall both")


def test_this_machine_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cpu_works"] is True
    assert {"area": "providers", "name": "cpu", "value": "works: ran a one-node model", "status": "ok", "fix": ""} in document["findings"]
    assert document["problems"] == sum(finding["status"] == "problem" for finding in document["findings"])


@pytest.mark.parametrize(
    ("findings", "cpu_works", "code", "says"),
    [
        ((SOUND,), True, 0, "Models run here."),
        ((SOUND, BROKEN), True, 0, "Models run on the CPU. 1 problem to fix"),
        ((SOUND, BROKEN, BROKEN), True, 0, "2 problems to fix"),
        ((SOUND, BROKEN), False, 1, "No model can run here yet"),
    ],
)
def test_what_it_says_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    findings: tuple[Finding, ...],
    cpu_works: bool,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr(doctor_command, "diagnose", lambda: Diagnosis(findings, cpu_works))
    assert main(["doctor"]) == code
    out = capsys.readouterr().out
    assert says in out
    assert "Python" in out
    assert ("two are installed [sic]" in out) is (BROKEN in findings)
    assert ("to do: pip uninstall both" in out) is (BROKEN in findings)
    assert main(["doctor", "--json"]) == code
