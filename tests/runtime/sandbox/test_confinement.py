"""What a child that reads an untrusted file can reach: the model, its weight files and its libraries, on kernels that enforce it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.sandbox.child import call
from onnxferry.runtime.sandbox.confinement import Confinement, can_confine, confine, landlock_version
from onnxferry.runtime.sandbox.jobs import check_file, run_file

held = pytest.mark.skipif(can_confine() != Confinement(files=True, network=True), reason="this kernel has no Landlock or no seccomp")


def attempts(secret: str, folder: str, port: int, parent: int) -> dict[str, str]:
    """In the child: what each attempt came to, "done" or the error's name."""

    def connect() -> None:
        socket.create_connection(("127.0.0.1", port), 5).close()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.sendto(b"x", ("127.0.0.1", port))

    file = Path(secret)
    tried: dict[str, Callable[[], object]] = {
        "read a file": file.read_text,
        "list a folder": lambda: list(Path(folder).iterdir()),
        "write a file": lambda: Path(folder, "new").write_text("x"),
        "overwrite a file": lambda: file.write_text("x"),
        "truncate a file": lambda: os.truncate(file, 0),
        "make a folder": Path(folder, "sub").mkdir,
        "make a link": lambda: Path(folder, "link").symlink_to(file),
        "change permissions": lambda: file.chmod(0o777),
        "rename a file": lambda: file.rename(Path(folder, "renamed")),
        "remove a file": Path(folder, "other").unlink,
        "connect": connect,
        "send a datagram": send,
        "open a Unix socket": lambda: socket.socket(socket.AF_UNIX),
        "start a program": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        "signal the parent": lambda: os.kill(parent, 0),
        "read the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
    }
    found = {}
    for name, attempt in tried.items():
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = type(error).__name__
    return found


@pytest.fixture
def server() -> object:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@held
def test_nothing_but_the_model_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: int) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(attempts, "__module__", Path(__file__).stem)

    def outcome(name: str, *, confined: bool) -> dict[str, str]:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("secret.txt", "other"):
            (folder / file).write_text("secret")
        arguments = {"secret": str(folder / "secret.txt"), "folder": str(folder), "port": server, "parent": os.getpid()}
        return dict(call(attempts, arguments, confined=confined))

    assert set(outcome("free", confined=False).values()) == {"done"}, "each attempt succeeds where nothing forbids it"
    assert set(outcome("confined", confined=True).values()) == {"PermissionError"}
    assert {path.name: path.read_text() for path in (tmp_path / "confined").iterdir()} == {"secret.txt": "secret", "other": "secret"}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model whose weights lie in a second file."""
    weight = numpy_helper.from_array(np.arange(1024, dtype=np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "outside.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="outside.data", size_threshold=0)
    return path


def test_weight_files_are_readable(outside: Path) -> None:
    outputs = run_file(outside, {"x": np.zeros(1024, np.float32)})
    assert np.array_equal(outputs["y"], np.arange(1024, dtype=np.float32))
    assert check_file(outside).kind is None


def test_other_systems_say_that_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert landlock_version() == 0
    assert can_confine() == confine([]) == Confinement(files=False, network=False)


def test_a_kernel_without_landlock_is_said_on_the_command_line(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnxferry.runtime.cli import check
    from onnxferry.runtime.cli.main import main

    monkeypatch.setattr(check, "can_confine", lambda: Confinement(files=False, network=True))
    assert main(["check", str(recogniser), "--untrusted"]) == 0
    assert "this system has no Landlock" in capsys.readouterr().err
