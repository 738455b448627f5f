"""A parity report as a file."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from onnxferry.export import ParityReport
from onnxferry.export.parity.report import Failure
from onnxferry.runtime.errors import InputError


def test_saved_by_suffix(tmp_path: Path) -> None:
    report = ParityReport(failures=[Failure("difference", "output 'y' differs <here>")], strategy="torch.export")
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == report.to_json()
    report.save(str(tmp_path / "r.HTML"), title="a & b")
    page = (tmp_path / "r.HTML").read_text()
    assert "Parity of a &amp; b" in page
    assert "differs &lt;here&gt;" in page


@pytest.mark.parametrize("name", ["r.txt", "r", "json"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"must end in \.html or \.json"):
        ParityReport().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_older_report_stays_if_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tmp_path / "r.json"
    older.write_text("older")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        ParityReport().save(older)
    assert older.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
