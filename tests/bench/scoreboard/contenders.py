"""Contenders of the scoreboard: those of ``onnxferry bench``, PyTorch on the rebuilt network, and a text generator's single step."""

from __future__ import annotations

from collections.abc import Mapping

from onnxferry.export.bench.contenders.base import CONTENDERS, PEERS, ContenderSpec

ONE_STEP = "one-step"
"""Not a peer: the least that a byte costs."""


TABLE: Mapping[str, ContenderSpec] = {
    **CONTENDERS,
    "torch": ContenderSpec("scoreboard.pytorch:eager", "torch", "PyTorch, the rebuilt network"),
    "torch-compile": ContenderSpec("scoreboard.pytorch:compiled", "torch", "PyTorch, the rebuilt network, torch.compile"),
    ONE_STEP: ContenderSpec("scoreboard.one_step:OneStep", "onnxruntime", "a text generator's layers and head alone, a step a run"),
}


ALL = ("onnxferry", *PEERS, ONE_STEP)
