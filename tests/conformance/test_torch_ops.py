"""A seeded draw of PyTorch's operator database, exported and compared: no operator may fall below what the table records.

``torch_ops.jsonl`` holds the last run of ``python tests/conformance/torch_ops.py --record``, a row an operator and dtype. Each run of
this test draws with a fresh seed, which a failure names, for as long as ``SECONDS`` allow.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
SECONDS = 40.0
# From best to worst; an operator that is refused is not wrong.
ORDER = ("right", "noted", "refused", "outside", "wrong", "foreign")


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
    seed = time.time_ns() % 1_000_000
    random.Random(seed).shuffle(drawn)
    end = time.monotonic() + SECONDS
    worse = []
    for row in drawn:
        if time.monotonic() > end:
            break
        found = database.classify(by_name[row["operator"]], row["dtype"])
        if ORDER.index(found.status) > ORDER.index(row["status"]):
            worse.append(f"{found.operator} {found.dtype} was {row['status']}, is {found.status}: {found.detail}")
    assert not worse, f"seed {seed}:\n" + "\n".join(worse)
