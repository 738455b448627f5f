"""The errors of torch's exporters, explained: what was wrong, where in the user's code, and what to do."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import PackedSequence

from onnxferry.export.source import FinalExportError, LikelyExportError
from onnxferry.runtime.errors import ExportError, first_line

_BRANCH = r"data-dependent|Dynamic control flow|GuardOnDataDependent|DYNAMIC_CONTROL_FLOW|generic_jump"


_LOOP = r"\bfor\b.*\bin\b.*\brange\(|\bwhile\b"


_NUMBER = r"Could not extract specialized (?:integer|float)"


_FROZEN = r"Constraints violated|specialized|marked .* as dynamic but|conflicts between user-specified ranges"


_FROZEN_AT = (r"specialized it to be a constant \((\d+)\)", r"inferred a static shape of (\d+)", r"constant \((\d+)\)")


_MISSING = (
    r"No ONNX function found for <OpOverload\(op='([^']+)'",
    r"'(aten::[\w.]+)' to ONNX .* is not supported",
    r"UnsupportedOperatorException: ([\w.]+)",
)


_WRAPPERS = ("TorchExportError", "ConversionError", "OnnxExporterError", "GraphConstructionError")


def explained(
    error: BaseException,
    axes: Sequence[dict[int, str]],
    names: Sequence[str],
    program: torch.export.ExportedProgram | None = None,
) -> ExportError:
    """The error as an OnnxFerryError. ``axes`` and ``names``: the dynamic axes by label, and the names, of every input.

    ``program``: what was to be converted, where the capture was done: it knows the line of every operator.
    """
    chain = list(causes(error))
    text = "\n".join(f"{type(e).__name__}: {e}" for e in chain)
    where = users_line(text) or _raised_at(chain) or (program is not None and _converted_at(text, program)) or ""
    at = f" at {where}" if where else ""
    if _packed(chain):
        return LikelyExportError(
            f"a packed sequence{at} can be exported only if it is padded again to the input's length: give pad_packed_sequence "
            "total_length=x.shape[1], and take last states from its output, at lengths - 1; or run the layer on the padded batch, with "
            "the lengths or a mask as an input: in one direction that changes nothing before the padding"
        )
    if re.search(_BRANCH, text, re.IGNORECASE):
        return FinalExportError(_value_in_python(text, where, at))
    if re.search(_FROZEN, text):
        fixed = next((found.group(1) for found in (re.search(p, text) for p in _FROZEN_AT) if found), None)
        return ExportError(
            f"{_axis_words(text, axes, names)} cannot vary: the model's code fixes it{f' at {fixed}' if fixed else ''}{at}; "
            "leave it out of dynamic_shapes, or take sizes from x.shape instead of numbers"
        )
    missing = next((found for found in (re.search(p, text) for p in _MISSING) if found), None)
    if missing:
        return ExportError(f"the operator {missing.group(1)} has no translation to ONNX{at}: rewrite that line with other operators")
    root = next((e for e in chain if type(e).__name__ not in _WRAPPERS), chain[-1])
    line = first_line(root)
    return ExportError(f"torch cannot export the model{at} ({type(root).__name__}: {line[:300]})")


def _value_in_python(text: str, where: str, at: str) -> str:
    """Of a tensor's value that Python asks for: the three things that it can be for."""
    if re.search(_LOOP, where.partition(": ")[2]):
        return (
            f"the model loops in Python as often as a tensor's value says{at}, and a graph cannot follow that: "
            "loop a fixed number of times and keep what counts with torch.where(i < n, new, old), or use torch.while_loop"
        )
    if re.search(_NUMBER, text):
        return (
            f"the model takes a tensor's value as a Python number{at}, and a graph cannot follow that: "
            "compute with the tensor itself, or make the number an argument of the model's constructor"
        )
    return (
        f"the model branches on a tensor's value in Python{at}, and a graph cannot follow that: "
        "use torch.where, or torch.cond with both sides"
    )


def _packed(chain: Sequence[BaseException]) -> bool:
    """Whether what failed had to do with a packed sequence."""
    frames = [frame for error in chain for frame, _ in traceback.walk_tb(error.__traceback__)]
    # The locals of a module's code may be anything: only their types are looked at.
    held = any(issubclass(type(value), PackedSequence) for frame in frames for value in frame.f_locals.values())
    return held or any("pack" in frame.f_code.co_name and frame.f_code.co_filename.endswith("rnn.py") for frame in frames)


def _raised_at(chain: Sequence[BaseException]) -> str | None:
    """As :func:`users_line`, from the frames in which the error was raised."""
    return next((line for line in (users_line("".join(traceback.format_tb(e.__traceback__))) for e in chain) if line), None)


def _converted_at(text: str, program: torch.export.ExportedProgram) -> str | None:
    """The line behind the node that could not be converted. The converter decomposes first; so does this, to know its nodes."""
    failed = re.search(r"Error when translating node %(\w+)", text)
    with contextlib.suppress(Exception):  # the line is a help, and no more
        nodes = [*program.graph.nodes, *program.run_decompositions().graph.nodes] if failed else []
        # aten's special_bessel_j0 is the converter's bessel_j0.
        for fits in (lambda name, wanted: name == wanted, lambda name, wanted: wanted in name):
            for node in nodes:
                if failed and fits(node.name, failed.group(1)):
                    return users_line(str(node.meta.get("stack_trace") or ""))
    return None


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
    ours = str(Path(__file__).parents[1])
    frames = re.findall(r'File "([^"]+)", line (\d+), in [\w<>.]+(?:\n[ \t]+(\S[^\n]*))?', text)
    own = [(Path(name).name, line, code) for name, line, code in frames if not name.startswith((home, ours, "<"))]
    if not own:
        return None
    name, line, code = own[-1]
    shows = code and not code.startswith(("File ", "^", "~"))
    return f"{name}, line {line}" + (f": {code.strip()[:120]}" if shows else "")


def check_layers(module: torch.nn.Module) -> None:
    """Raises FinalExportError for layers that no exporter has a way for, with what to do in their place."""
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.LSTM) and part.proj_size:
            raise FinalExportError(
                f"the LSTM{f' {name!r}' if name else ''} has proj_size={part.proj_size}, and ONNX's LSTM has no projection of its state: "
                "train it with proj_size=0, or write the steps with Linear layers over a fixed length"
            )
        if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise FinalExportError(
                f"{repr(name) if name else 'the model'} is a quantized {type(part).__name__} of PyTorch, which runs in PyTorch alone: "
                "export the model as it was before quantize_dynamic() or convert(); `onnxferry optimize` makes 8-bit variants of the file"
            )
