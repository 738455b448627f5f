"""What torch's exporters raise, in a person's words: what was wrong, where in their code, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from onnxferry.export.sources import FinalExportError
from onnxferry.runtime.errors import ExportError

_BRANCH = r"data-dependent|Dynamic control flow|GuardOnDataDependent|DYNAMIC_CONTROL_FLOW|generic_jump"
_FROZEN = r"Constraints violated|specialized|marked .* as dynamic but|conflicts between user-specified ranges"
_FROZEN_AT = (r"specialized it to be a constant \((\d+)\)", r"inferred a static shape of (\d+)", r"constant \((\d+)\)")
_WRAPPERS = ("TorchExportError", "ConversionError", "OnnxExporterError", "GraphConstructionError")


def explained(error: BaseException, axes: Sequence[dict[int, str]], names: Sequence[str]) -> ExportError:
    """The error as one of ours. ``axes`` and ``names``: the dynamic axes by label, and the names, of every input."""
    chain = list(causes(error))
    text = "\n".join(f"{type(e).__name__}: {e}" for e in chain)
    where = users_line(text)
    at = f" at {where}" if where else ""
    if re.search(_BRANCH, text, re.IGNORECASE):
        return FinalExportError(
            f"the model branches on a tensor's value in Python{at}, and a graph cannot follow that: "
            "use torch.where, or torch.cond with both sides"
        )
    if re.search(_FROZEN, text):
        fixed = next((found.group(1) for found in (re.search(p, text) for p in _FROZEN_AT) if found), None)
        return ExportError(
            f"{_axis_words(text, axes, names)} cannot vary: the model's code fixes it{f' at {fixed}' if fixed else ''}{at}; "
            "leave it out of dynamic_shapes, or take sizes from x.shape instead of numbers"
        )
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    missing = missing or re.search(r"'(aten::[\w.]+)' to ONNX .* is not supported", text)
    if missing:
        return ExportError(f"the operator {missing.group(1)} has no translation to ONNX{at}: rewrite that line with other operators")
    root = next((e for e in chain if type(e).__name__ not in _WRAPPERS), chain[-1])
    line = (str(root).strip() or type(root).__name__).splitlines()[0]
    return ExportError(f"torch cannot export the model{at} ({type(root).__name__}: {line[:300]})")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from, down to the first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _axis_words(text: str, axes: Sequence[dict[int, str]], names: Sequence[str]) -> str:
    """The axis that torch complains of, by the user's name for it."""
    place = re.search(r"\['tensors'\]\[(\d+)\]\.(?:size\(\)|shape)\[(\d+)\]", text)
    if place:
        number, axis = int(place.group(1)), int(place.group(2))
        if number < len(axes) and axis in axes[number]:
            return f"the axis {axes[number][axis]!r} (axis {axis} of input {names[number]!r})"
    return "an axis that was named dynamic"


def users_line(text: str) -> str | None:
    """``model.py, line 12: x = self.norm(x)`` of the last frame of the user's own code in a stack trace, without its folder."""
    home = str(Path(torch.__file__).parent)
    ours = str(Path(__file__).parent)
    frames = re.findall(r'File "([^"]+)", line (\d+), in [\w<>.]+(?:\n[ \t]+(\S[^\n]*))?', text)
    own = [(Path(name).name, line, code) for name, line, code in frames if not name.startswith((home, ours, "<"))]
    if not own:
        return None
    name, line, code = own[-1]
    shows = code and not code.startswith(("File ", "^", "~"))
    return f"{name}, line {line}" + (f": {code.strip()[:120]}" if shows else "")
