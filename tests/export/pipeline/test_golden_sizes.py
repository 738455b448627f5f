"""Golden samples whose outputs are of very different size share a tolerance only where it does not depend on the size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.export import export_model
from onnxferry.export.parity.tolerances import PROBABILITIES
from onnxferry.runtime.errors import InputError

OPEN = {"input": {0: "batch"}}
SMALL, LARGE = torch.full((1, 3), -18.0), torch.full((2, 3), 2.0)
GOLDEN = [{"input": SMALL}, {"input": LARGE}]
"""1.5e-8 and 0.88 of a sigmoid."""


def test_one_tolerance_for_very_different_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"more than 1,000 times in size"):
        export_model(torch.nn.Sigmoid(), {"input": SMALL}, tmp_path / "x.onnx", golden=GOLDEN, dynamic_shapes=OPEN)
    assert list(tmp_path.iterdir()) == []


def test_a_tolerance_that_does_not_depend_on_the_size_serves_both(tmp_path: Path) -> None:
    given = {"rtol": PROBABILITIES.rtol, "atol": PROBABILITIES.atol}
    report = export_model(torch.nn.Sigmoid(), {"input": SMALL}, tmp_path / "x.onnx", golden=GOLDEN, dynamic_shapes=OPEN, **given)
    assert report.passed
    assert np.isclose(torch.sigmoid(SMALL).max().item(), 1.5e-8, rtol=0.1)
