"""The environment with TensorFlow, made once a run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with TensorFlow: made once a run, or what ONNXFERRY_TEST_TENSORFLOW names."""
    given = os.environ.get("ONNXFERRY_TEST_TENSORFLOW")
    if given:
        return Path(given)
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent  # of all workers
    folder = base / "tensorflow environment"
    made = folder / "bin" / "python"
    with (base / "tensorflow environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            done = subprocess.run(
                [str(made), "-m", "pip", "install", "-q", "tensorflow-cpu>=2.18,<3", "tf2onnx>=1.17,<2"], capture_output=True, text=True
            )
            if done.returncode:
                assert os.environ.get("CI") != "true", done.stderr
                pytest.skip("no package index can be reached")
            (folder / "ready").touch()
    return made


def made_by(python: Path, program: str, folder: Path) -> Path:
    """The folder, with what a program of this one saved there."""
    done = subprocess.run([str(python), str(Path(__file__).with_name(program)), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder
