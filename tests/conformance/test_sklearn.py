"""A tenth of scikit-learn's estimators (others by ``ONNXFERRY_CONFORMANCE_SEED``): right, or refused with a reason; never wrong.

The whole: python tests/conformance/sklearn_cases.py table.md
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install 'onnxferry[sklearn]'")

sys.path.insert(0, str(Path(__file__).parent))
from sklearn_cases import checked, names

SEED = int(os.environ.get("ONNXFERRY_CONFORMANCE_SEED", "1"))


def test_a_tenth_of_the_estimators() -> None:
    known = [name for name in names() if "Vectorizer" not in name]  # these have tests of their own, and take seconds
    chosen = random.Random(SEED).sample(known, len(known) // 10)
    rows = [checked(name) for name in chosen]
    assert not [row for row in rows if row.kind == "wrong"], f"seed {SEED}"
    assert all(row.reason for row in rows if row.kind != "right"), f"seed {SEED}"
    assert sum(row.kind == "right" for row in rows) >= len(rows) // 2, f"seed {SEED}: {[row for row in rows if row.kind != 'right']}"
