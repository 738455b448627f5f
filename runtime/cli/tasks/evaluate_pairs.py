"""``evaluate`` for translators: how many translations are exactly those of a file of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxferry.runtime.cli.console import facts_table, plain, print_next, progress_bar, stdout
from onnxferry.runtime.evaluation.pairs import read_pairs
from onnxferry.runtime.evaluation.scores import wilson_interval
from onnxferry.runtime.tasks.translator import Translator

AT_ONCE = 512
"""Pairs between two updates of the progress bar."""


SHOWN = 5
"""Wrong translations that are printed."""


def scored_pairs(model: Translator, data: Path) -> dict[str, Any]:
    """Pairs, how many are translated exactly, and the others. Raises DataError as ``read_pairs``."""
    pairs = read_pairs(data)
    wrong: list[dict[str, str]] = []
    with progress_bar("evaluating", len(pairs)) as advance:
        for start in range(0, len(pairs), AT_ONCE):
            part = pairs[start : start + AT_ONCE]
            for made, (source, target) in zip(model.translate([source for source, _ in part]), part, strict=True):
                if made != target.decode():
                    wrong.append({"text": source.decode(), "expected": target.decode(), "translation": made})
            advance(len(part))
    right = len(pairs) - len(wrong)
    return {
        "data": data.name,
        "pairs": len(pairs),
        "exact": right,
        "exact_match": right / len(pairs),
        "interval95": wilson_interval(right, len(pairs)),
        "wrong": wrong,
    }


def print_pair_score(model: str, device: str, found: dict[str, Any], *commands: str) -> None:
    low, high = found["interval95"]
    facts = {
        "model": f"{model} on {device}",
        "data": f"{found['data']}, {found['pairs']} pairs",
        "exact match": f"{found['exact_match']:.2%}  ({found['exact']} of {found['pairs']})",
        "95% interval": f"{low:.2%} to {high:.2%}  (Wilson)",
    }
    console = stdout()
    console.print(facts_table({name: plain(value) for name, value in facts.items()}))
    for each in found["wrong"][:SHOWN]:
        console.print(f"wrong: {plain(each['text'])} -> {plain(each['translation'])}, expected {plain(each['expected'])}", soft_wrap=True)
    print_next(*commands)
