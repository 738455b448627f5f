"""Shared by all tests: ONNX models built by hand, so that no test depends on an exporter."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import onnx

    ModelMaker = Callable[..., onnx.ModelProto]


# Threads of torch that wait for each other spin by default: with several test processes on few cores, each waits for a thread that the
# other's spinning keeps off the core, and small recurrent networks take a hundred times as long. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Made by: python -m pytest -n 2 --durations=0 -vv | python tests/bench/slow_tests.py
SLOW = Path(__file__).with_name("slow.txt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what ``slow.txt`` lists, tests of 2 seconds or more with all their cases: ``-m "not slow"`` is a quick first answer."""
    slow = set(SLOW.read_text(encoding="utf-8").split("\n"))
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """One thread of torch in each of several test processes."""
    if "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def build_onnx() -> ModelMaker:
    """``build_onnx(nodes, inputs, outputs, initializers, …)``: values as ``(name, element type, shape)``; opset 18, IR version 9."""
    from onnx import helper

    def make(
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[tuple],
        outputs: Sequence[tuple],
        initializers: Sequence[onnx.TensorProto] = (),
        *,
        metadata: dict[str, str] | None = None,
        opset: int = 18,
        ir_version: int = 9,
        domains: dict[str, int] | None = None,
        functions: Sequence[onnx.FunctionProto] = (),
    ) -> onnx.ModelProto:
        ends = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
        graph = helper.make_graph(list(nodes), "graph", *ends, list(initializers))
        opsets = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **(domains or {})}.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))
        helper.set_model_props(model, metadata or {})
        return model

    return make


@pytest.fixture(scope="session")
def scale_model(build_onnx: ModelMaker) -> bytes:
    """``y = x * factor`` for float32 x (batch, 3); ``factor``, 2 by default, may be fed too."""
    from onnx import TensorProto, helper

    return build_onnx(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 3]), ("factor", TensorProto.FLOAT, [])],
        [("y", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [2.0])],
    ).SerializeToString()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the system's Chromium lies. Tests that need it skip where there is none, except in CI."""
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on PATH, and in CI the end-to-end tests must run: apt-get install chromium")
        pytest.skip("no chromium on PATH; apt-get install chromium")
    return found


CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers give it 64 MB
)


@pytest.fixture(scope="module")
def browser(chromium: str):
    """One browser; a test opens a context of its own. For one module: while it lives, its event loop runs in this thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS), timeout=120_000)
        yield running
        running.close()
