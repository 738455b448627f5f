"""A seeded tenth of scikit-learn's estimators, exported and compared: no row may come out worse than recorded.

``sklearn_cases.jsonl`` holds rows of ``python tests/conformance/sklearn_cases.py --record tests/conformance/sklearn_cases.jsonl``. Every
run draws with a seed of its own, which a failure names; ``ONNXFERRY_CONFORMANCE_SEED`` draws the same again. A draw ends after
``ONNXFERRY_CONFORMANCE_SECONDS`` (60).
"""

from __future__ import annotations

import json
import math
import os
import random
import secrets
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install 'onnxferry[sklearn]'")

sys.path.insert(0, str(Path(__file__).parent))
from sklearn_cases import ORDER, checked, names

HERE = Path(__file__).parent

SECONDS = float(os.environ.get("ONNXFERRY_CONFORMANCE_SECONDS", "60"))
ROWS = [json.loads(line) for line in (HERE / "sklearn_cases.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_draw_of_estimators() -> None:
    recorded = {row["estimator"]: row["status"] for row in ROWS}
    known = [name for name in names() if recorded.get(name, "outside") != "outside"]
    seed = int(os.environ.get("ONNXFERRY_CONFORMANCE_SEED") or secrets.randbelow(10**6))
    drawn = random.Random(seed).sample(known, math.ceil(len(known) / 10))
    end = time.monotonic() + SECONDS
    worse = []
    for name in drawn:
        if time.monotonic() > end:
            break
        row = checked(name)
        if ORDER.index(row.status) > ORDER.index(recorded[name]):
            worse.append(f"{name} was {recorded[name]}, is {row.status}: {row.detail}")
    assert not worse, f"ONNXFERRY_CONFORMANCE_SEED={seed}:\n" + "\n".join(worse)


def test_every_estimator_is_recorded_and_none_as_wrong() -> None:
    assert set(names()) == {row["estimator"] for row in ROWS}
    assert not [row for row in ROWS if row["status"] in ("wrong", "foreign")]
    assert all(row["detail"] for row in ROWS if row["status"] in ("refused", "outside"))
