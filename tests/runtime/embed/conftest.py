"""The npm packages that written projects need, installed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.npm import node_modules


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node_modules(tmp_path_factory, "onnxruntime-node@1.30.0", "sharp@0.34.5")


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node_modules(tmp_path_factory, "onnxruntime-web@1.30.0")
