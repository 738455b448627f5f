"""A seeded tenth of PyTorch's operator database, exported and compared: no row may come out worse than recorded.

``torch_ops.jsonl`` holds rows of ``python tests/conformance/torch_ops.py --record tests/conformance/torch_ops.jsonl``, one an operator
and dtype. Every run draws with a seed of its own, which a failure names; ``ONNXFERRY_CONFORMANCE_SEED`` draws the same again. A draw
ends after ``ONNXFERRY_CONFORMANCE_SECONDS`` (60).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import secrets
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
# Their samples or probes include singular matrices, whose inverses are what a CPU's LAPACK rounds to: right on one CPU, refused on another.
DEPENDS_ON_THE_CPU = {"linalg.inv", "linalg.inv_ex", "linalg.tensorinv", "linalg.tensorsolve"}
SECONDS = float(os.environ.get("ONNXFERRY_CONFORMANCE_SECONDS", "60"))


@pytest.fixture(scope="module")
def database() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_ops", HERE / "torch_ops.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch_ops"] = module
    spec.loader.exec_module(module)
    module.prepare()
    return module


@pytest.mark.slow
def test_a_draw_of_operators(database):
    from torch.testing._internal.common_methods_invocations import op_db

    by_name = {database.full_name(op): op for op in op_db}
    recorded = [json.loads(line) for line in (HERE / "torch_ops.jsonl").read_text().splitlines()]
    rows = [row for row in recorded if row["operator"] in by_name.keys() - DEPENDS_ON_THE_CPU and row["status"] != "outside"]
    seed = int(os.environ.get("ONNXFERRY_CONFORMANCE_SEED") or secrets.randbelow(10**6))
    drawn = random.Random(seed).sample(rows, math.ceil(len(rows) / 10))
    end = time.monotonic() + SECONDS
    worse = []
    for row in drawn:
        if time.monotonic() > end:
            break
        found = database.classify(by_name[row["operator"]], row["dtype"])
        if _worse(database, found.status) > _worse(database, row["status"]):
            worse.append(f"{found.operator} {found.dtype} was {row['status']}, is {found.status}: {found.detail}")
    assert not worse, f"ONNXFERRY_CONFORMANCE_SEED={seed}:\n" + "\n".join(worse)


def _worse(database: ModuleType, status: str) -> int:
    """How bad a status is. What NaN and infinity give depends on the CPU: ONNX Runtime's log_softmax and gelu for AVX-512 answer them
    otherwise than those for AVX2, on which the rows were recorded. Each export compares them by itself, and says so.
    """
    return database.ORDER.index("right" if status == "noted" else status)


def test_no_operator_is_recorded_as_wrong():
    rows = [json.loads(line) for line in (HERE / "torch_ops.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["status"] in ("wrong", "foreign")]
    assert all(row["detail"] for row in rows if row["status"] == "refused")
