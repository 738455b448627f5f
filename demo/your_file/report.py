"""What an untrusted model is, and its outputs, as rows of text. Functions from the child's JSON to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.demo.widgets.html import plain_markdown
from onnxferry.demo.your_file.sandbox import Answer
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.onnx_file import values as value_info


def shape_words(shape: Sequence[int | str | None] | None) -> str:
    """``(batch, 3)``; ``of any rank`` for None."""
    return "of any rank" if shape is None else value_info.shape_words(tuple(shape))


def facts_of(summary: Mapping[str, Any], contract: Mapping[str, Any] | None) -> dict[str, str]:
    """The file in a few lines, by name."""
    parameters = ", ".join(f"{count:,} {dtype}" for dtype, count in summary["parameters"].items())
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary["opsets"])
    said = "an ONNX model without an onnxferry contract"
    if contract:
        said = " ".join(filter(None, (contract["kind"], contract["name"], contract["version"])))
    return {
        "What": said,
        "Description": contract["description"] if contract else "",
        "Classes": ", ".join(contract["labels"][:40]) if contract else "",
        "Licence": contract["license"] if contract else "",
        "Size": human_bytes(summary["bytes"]),
        "Parameters": parameters or "none",
        "Operator sets": f"{opsets} (IR version {summary['ir_version']})",
        "Made by": summary["producer"],
        "Golden samples": str(contract["goldens"]) if contract else "",
    }


def value_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Inputs and outputs: role, name, dtype, shape."""
    roles = (("input", "inputs"), ("optional", "optional_inputs"), ("output", "outputs"))
    return [(role, spec["name"], spec["dtype"], shape_words(spec["shape"])) for role, key in roles for spec in summary[key]]


def check_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Golden comparisons: sample, output, largest difference, what is allowed, verdict."""
    rows = []
    for each in comparisons:
        found = "-" if each["max_abs"] is None else f"{each['max_abs']:.3g}"
        allowed = f"{each['atol']:g} + {each['rtol']:g} |x|" if each["rtol"] else f"{each['atol']:g}" if each["atol"] else "none"
        rows.append((str(each["sample"]), each["output"], found, allowed, "passed" if each["passed"] else f"failed: {each['problem']}"))
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


def parity_words(contract: Mapping[str, Any]) -> str:
    """One line on where the file says it comes from, for where Markdown is read."""
    made_with = str(contract["framework"])
    return f"The file says that it was exported from {plain_markdown(made_with)}." if made_with and made_with.isprintable() else ""
