"""What an untrusted model is, and its outputs, as rows of text. Functions from the child's JSON to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.demo.words.language import marked, say
from onnxferry.demo.your_file.sandbox import Answer
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.onnx_file import values as value_info


def shape_words(shape: Sequence[int | str | None] | None) -> str:
    """``(batch, 3)``; ``of any rank`` for None."""
    if shape is None:
        return say("yours.any rank")
    # A name may be a formula of a page's length.
    short = tuple(f"{size[:24]}…" if isinstance(size, str) and len(size) > 25 else size for size in shape)
    return value_info.shape_words(short)


def columns_of(key: str) -> list[str]:
    """The heads of a table's columns."""
    return say(key).split("|")


def facts_of(summary: Mapping[str, Any], contract: Mapping[str, Any] | None) -> dict[str, str]:
    """The file in a few lines, by name."""
    parameters = ", ".join(f"{count:,} {dtype}" for dtype, count in summary["parameters"].items())
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary["opsets"])
    said = say("yours.fact.plain")
    if contract:
        said = " ".join(filter(None, (contract["kind"], contract["name"], contract["version"])))
    values = {
        "what": said,
        "description": contract["description"] if contract else "",
        "classes": ", ".join(contract["labels"][:40]) if contract else "",
        "license": contract["license"] if contract else "",
        "size": human_bytes(summary["bytes"]),
        "parameters": parameters or say("yours.fact.none"),
        "opsets": say("yours.fact.opsets.words", opsets=opsets, ir=summary["ir_version"]),
        "producer": summary["producer"],
        "goldens": str(contract["goldens"]) if contract else "",
    }
    return {say(f"yours.fact.{name}"): value for name, value in values.items()}


def value_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Inputs and outputs: role, name, dtype, shape."""
    keys = ("inputs", "optional_inputs", "outputs")
    return [(say(f"yours.role.{key}"), spec["name"], spec["dtype"], shape_words(spec["shape"])) for key in keys for spec in summary[key]]


def check_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Golden comparisons: sample, output, largest difference, what is allowed, verdict."""
    rows = []
    for each in comparisons:
        found = "-" if each["max_abs"] is None else f"{each['max_abs']:.3g}"
        none = say("yours.allowed none")
        allowed = f"{each['atol']:g} + {each['rtol']:g} |x|" if each["rtol"] else f"{each['atol']:g}" if each["atol"] else none
        if each["rms_allowed"] is not None:  # of a variant: all elements together
            allowed = f"rms {each['rms_allowed']:.1%}"
        result = say("yours.test.passed") if each["passed"] else say("yours.test.failed", problem=each["problem"])
        rows.append((str(each["sample"]), each["output"], found, allowed, result))
    return rows


def output_rows(answer: Answer) -> list[tuple[str, ...]]:
    """Outputs: name, dtype, shape, smallest, mean, largest, first values. What is not finite stands as it is."""
    rows: list[tuple[str, ...]] = []
    for name, array in answer.outputs.items():
        values = array.astype(np.float64) if array.size else np.zeros(0)
        middle = [f"{value:.4g}" for value in (values.min(), values.mean(), values.max())] if array.size else ["-", "-", "-"]
        first = " ".join(f"{value:.4g}" for value in values.ravel()[:6].tolist())
        rows.append((name, array.dtype.name, str(array.shape), *middle, first + (" …" if array.size > 6 else "")))
    rows += [(name, words, "", "", "", "", "") for name, words in answer.report["others"]]
    return rows


def not_finite(answer: Answer) -> list[tuple[str, int, int]]:
    """Outputs with numbers that are not finite: name, how many, of how many."""
    floats = {name: array for name, array in answer.outputs.items() if array.dtype.kind == "f"}
    found = [(name, int(array.size - np.isfinite(array).sum()), array.size) for name, array in floats.items()]
    return [each for each in found if each[1]]


def parity_words(contract: Mapping[str, Any]) -> str:
    """One line on where the file says it comes from, for where Markdown is read."""
    made_with = str(contract["framework"])
    return marked("yours.framework", name=made_with) if made_with and made_with.isprintable() else ""
