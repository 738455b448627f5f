"""Packages of npm for tests, each set installed once a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def node_modules(tmp_path_factory: pytest.TempPathFactory, *packages: str) -> Path:
    """A folder ``node_modules`` with these packages. Skips the test where there is no Node.js or no package index, Node.js except in CI."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("no node and npm on PATH, and in CI the tests in JavaScript must run: apt-get install nodejs npm")
        pytest.skip("no node and npm on PATH; apt-get install nodejs npm")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "-".join(["npm", *packages]).replace("/", "-")
    with (shared / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "package.json").write_text('{"private": true}')
            command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *packages]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["npm failed"])[-1]
                pytest.skip(f"{' '.join(packages)} cannot be installed by npm: {reason}")
            (folder / "installed").touch()
    return folder / "node_modules"
