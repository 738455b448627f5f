"""Exports patch what all threads of a process share, so they run one at a time."""

from __future__ import annotations

import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from onnxferry.export import export_model, verify_file


def test_two_threads_export_at_once(tmp_path: Path) -> None:
    """Unpatched values are what they were before, and both files are right."""
    stderr, show, second = sys.stderr, warnings.showwarning, os.fstat(2).st_ino
    kernels = {name: dict(getattr(torch.ops.aten, name).input.py_kernels) for name in ("lstm", "gru")}
    models = [nn.Sequential(nn.Linear(3, size), nn.Tanh()).eval() for size in (2, 5)]
    recurrent = nn.GRU(3, 4, batch_first=True).eval()

    def exported(number: int) -> bool:
        path = tmp_path / f"{number}.onnx"
        model, x = (recurrent, torch.randn(2, 6, 3)) if number == 2 else (models[number], torch.randn(2, 3))
        report = export_model(model, x, path, dynamic_shapes={"input": {0: "batch"}})
        return report.passed and verify_file(path, model).passed

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(exported, range(3))) == [True] * 3
    assert (sys.stderr, warnings.showwarning, os.fstat(2).st_ino) == (stderr, show, second)
    assert {name: dict(getattr(torch.ops.aten, name).input.py_kernels) for name in kernels} == kernels
