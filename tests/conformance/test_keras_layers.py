"""A seeded tenth of Keras' layers, exported and compared: no row may come out worse than recorded.

``keras_layers.jsonl`` holds rows of ``python tests/conformance/keras_layers.py --record tests/conformance/keras_layers.jsonl``. Every run
draws with a seed of its own, which a failure names; ``ONNXFERRY_CONFORMANCE_SEED`` draws the same again. A draw ends after
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

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports it
pytest.importorskip("keras", reason="keras is not installed: pip install 'onnxferry[keras]'")

sys.path.insert(0, str(Path(__file__).parent))
from keras_layers import ORDER, cases, checked

HERE = Path(__file__).parent

SECONDS = float(os.environ.get("ONNXFERRY_CONFORMANCE_SECONDS", "60"))
ROWS = [json.loads(line) for line in (HERE / "keras_layers.jsonl").read_text().splitlines()]

# Keras 3.15 on numpy 2.3
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning", "ignore::UserWarning")


@pytest.mark.slow
def test_a_draw_of_layers() -> None:
    recorded = {(row["layer"], row["use"]): row["status"] for row in ROWS}
    known = [case for case in cases() if recorded.get((case.layer, case.use), "outside") != "outside"]
    seed = int(os.environ.get("ONNXFERRY_CONFORMANCE_SEED") or secrets.randbelow(10**6))
    drawn = random.Random(seed).sample(known, math.ceil(len(known) / 10))
    end = time.monotonic() + SECONDS
    worse = []
    for case in drawn:
        if time.monotonic() > end:
            break
        row = checked(case)
        before = recorded[case.layer, case.use]
        if _worse(row.status) > _worse(before):
            worse.append(f"{row.layer} {row.use} was {before}, is {row.status}: {row.detail}")
    assert not worse, f"ONNXFERRY_CONFORMANCE_SEED={seed}:\n" + "\n".join(worse)


def _worse(status: str) -> int:
    """How bad a status is. What NaN and infinity give depends on ONNX Runtime's kernels for the CPU; each export says so by itself."""
    return ORDER.index("right" if status == "noted" else status)


def test_every_case_is_recorded_and_none_as_wrong() -> None:
    assert {(case.layer, case.use) for case in cases()} == {(row["layer"], row["use"]) for row in ROWS}
    assert not [row for row in ROWS if row["status"] in ("wrong", "foreign")]
    assert all(row["detail"] for row in ROWS if row["status"] in ("refused", "outside"))
