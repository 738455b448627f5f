"""The tree of errors as other programs catch it: Python's own classes beside ours, and always our words."""

from __future__ import annotations

import errno
import json
import pickle
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onnxferry.runtime import errors, load
from onnxferry.runtime.images.decode import decode_image
from onnxferry.runtime.images.folders import list_images
from onnxferry.runtime.images.idx import read_idx
from onnxferry.runtime.onnx_file.reader import read_model

NOT_FOUND = [errors.InputNotFoundError, errors.DataNotFoundError, errors.CheckpointNotFoundError, errors.ArtifactNotFoundError]


def test_an_input_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="device must be"):
        load("digits", device="gpu")


def test_a_missing_extra_is_an_import_error() -> None:
    error = errors.MissingExtraError("onnx", "export", "export")
    assert isinstance(error, ImportError)
    assert not isinstance(error, ModuleNotFoundError)
    assert str(error).startswith("export needs the package 'onnx', which is not installed: pip install ")
    assert (error.name, error.package, error.extra) == ("onnx", "onnx", "export")


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, "pip install 'onnxferry[export]'"),
        ({"url": "https://example.org/onnxferry.whl", "archive_info": {}}, "pip install 'onnxferry[export]'"),
        ({"url": "{clone}", "dir_info": {"editable": True}}, "pip install -e '{path}[export]'"),
        ({"url": "{clone}", "dir_info": {}}, "pip install '{path}[export]'"),
        ({"url": "file:///moved/away", "dir_info": {}}, "pip install 'onnxferry[export]'"),
    ],
)
def test_the_install_line_is_one_that_works_for_how_this_was_installed(
    direct_url: dict[str, Any] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    text = None if direct_url is None else json.dumps(direct_url).replace("{clone}", clone.as_uri())

    class Installed:
        """As pip left it."""

        @staticmethod
        def read_text(name: str) -> str | None:
            assert name == "direct_url.json"
            return text

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed)
    assert str(errors.MissingExtraError("onnx", "export", "export")).endswith(f"not installed: {command.replace('{path}', str(clone))}")


@pytest.mark.parametrize("kind", NOT_FOUND)
def test_a_missing_file_is_a_file_not_found_error(kind: type[errors.NotFoundError]) -> None:
    error = kind("no such image: a.png", Path("a.png"))
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, errors.NotFoundError)
    assert str(error) == "no such image: a.png"
    assert (error.errno, error.filename) == (errno.ENOENT, "a.png")
    assert kind("only words").filename is None
    assert str(pickle.loads(pickle.dumps(error))) == "no such image: a.png"  # noqa: S301 (made here)


def test_what_is_missing_keeps_its_own_class_too(tmp_path: Path) -> None:
    gone = tmp_path / "gone.onnx"
    for kind, attempt in (
        (errors.ArtifactError, lambda: load(gone)),
        (errors.ArtifactError, lambda: read_model(gone)),
        (errors.InputError, lambda: decode_image(gone)),
        (errors.DataError, lambda: list_images(gone)),
        (errors.DataError, lambda: read_idx(gone)),
    ):
        with pytest.raises(FileNotFoundError, match=r"no such|there is no file") as caught:
            attempt()
        assert isinstance(caught.value, kind)
        assert str(gone) in str(caught.value)


def test_the_first_line() -> None:
    assert errors.first_line(errors.InputError("one\ntwo")) == "one"
    assert errors.first_line(errors.InputError("")) == "InputError"
    assert errors.first_line(errors.InputError(" "), "nothing") == "nothing"


def every_error(module: ModuleType = errors) -> list[type[errors.OnnxFerryError]]:
    return [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, errors.OnnxFerryError)]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_travels_between_processes(kind: type[errors.OnnxFerryError]) -> None:
    arguments = {errors.MissingExtraError: ("onnx", "export", "export", "or not")}.get(kind, ("what was wrong",))
    error = kind(*arguments, *(["a.png"] if issubclass(kind, errors.NotFoundError) else []))
    for copy in (pickle.loads(pickle.dumps(error)), deepcopy(error)):  # noqa: S301 (our own bytes)
        assert type(copy) is kind
        assert str(copy) == str(error)
        for name in ("filename", "errno", "name", "package", "extra", "report"):
            assert getattr(copy, name, None) == getattr(error, name, None)


def test_every_class_has_a_code_of_its_own() -> None:
    """Programs and pages refer to it, so it stays when a class is renamed."""
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.OnnxFerryError)]
    codes = [value.__dict__["code"] for value in classes]
    assert len(set(codes)) == len(classes)
    assert [code for code in codes if not code.startswith("OF-") or code != code.upper()] == []
    assert errors.ParityError("x").code == "OF-PARITY"
    assert errors.help_page("OF-PARITY") == "docs/en/reference/errors.md#of-parity"
