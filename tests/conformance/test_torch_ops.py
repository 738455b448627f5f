"""A seeded draw of PyTorch's operator database, exported and compared: no operator of the table may come out wrong, or end in an error
that is not ours.

``torch_ops.jsonl`` holds rows of ``python tests/conformance/torch_ops.py --record``, one an operator and dtype. The draw goes on for
``SECONDS``; ``ONNXFERRY_CONFORMANCE_SEED`` draws others.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
SECONDS = 20.0


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
    drawn = [row for row in recorded if row["operator"] in by_name and row["status"] != "outside"]
    seed = int(os.environ.get("ONNXFERRY_CONFORMANCE_SEED", "1"))
    random.Random(seed).shuffle(drawn)
    end = time.monotonic() + SECONDS
    worse = []
    for row in drawn:
        if time.monotonic() > end:
            break
        found = database.classify(by_name[row["operator"]], row["dtype"])
        if found.status in ("wrong", "foreign"):
            worse.append(f"{found.operator} {found.dtype} was {row['status']}, is {found.status}: {found.detail}")
    assert not worse, f"seed {seed}:\n" + "\n".join(worse)
