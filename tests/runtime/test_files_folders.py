"""Where caches and downloads lie: the same convention for both, on each system."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxferry.runtime import files as folders
from onnxferry.runtime.errors import DataError
from onnxferry.runtime.files import cache_folder, downloads_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("ONNXFERRY_HOME", "ONNXFERRY_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("system", "variables", "wanted"),
    [
        ("linux", {}, ".cache/onnxferry"),
        ("linux", {"XDG_CACHE_HOME": "{home}/xdg"}, "xdg/onnxferry"),
        ("linux", {"XDG_CACHE_HOME": "relative/is/ignored"}, ".cache/onnxferry"),
        ("darwin", {"XDG_CACHE_HOME": "{home}/xdg"}, "Library/Caches/onnxferry"),
        ("win32", {}, "AppData/Local/onnxferry"),
        ("win32", {"LOCALAPPDATA": "{home}/local"}, "local/onnxferry"),
    ],
)
def test_both_lie_where_the_system_keeps_caches(
    home: Path, monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], wanted: str
) -> None:
    monkeypatch.setattr(folders.sys, "platform", system)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=home))
    assert cache_folder() == downloads_folder() == home / wanted


def test_each_has_a_variable_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", str(home / "one"))
    monkeypatch.setenv("ONNXFERRY_HOME", str(home / "two"))
    assert (cache_folder(), downloads_folder()) == (home / "one", home / "two")
    monkeypatch.setenv("ONNXFERRY_CACHE", "")
    assert cache_folder() is None


@pytest.mark.parametrize("name", ["ONNXFERRY_CACHE", "ONNXFERRY_HOME"])
def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """A variable set in a file of settings, unlike one that a shell sets, still holds its tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv(name, "~/zz")
    folder = cache_folder() if name == "ONNXFERRY_CACHE" else downloads_folder()
    assert folder == tmp_path / "zz"


def test_a_user_without_a_home_folder_has_no_cache_and_is_told_where_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    assert cache_folder() is None
    with pytest.raises(DataError, match="set ONNXFERRY_HOME"):
        downloads_folder()
