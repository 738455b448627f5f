"""What a .pt2 file holds, checked before ``torch.export.load`` reads it: that function can run code that the file brings along.

It unpickles what it cannot load as plain weights, loads compiled libraries (``data/aotinductor``), hands shape expressions to
``sympy.sympify``, which is ``eval``, runs guards with ``exec``, and puts names into generated Python code. Archives that would use
any of these ways are refused; the pickles that remain are read with ``weights_only=True``.
Source: torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py, torch/export/_unlift.py, torch/fx/graph.py.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

import sympy
import torch
from torch.utils._sympy import functions as torch_functions

from onnxferry.runtime.errors import ExportError

_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


_LOCK = threading.RLock()


@contextmanager
def weights_only() -> Iterator[None]:
    """Every ``torch.load`` within, in whatever thread, is one with ``weights_only=True``; one thread at a time."""
    with _LOCK:
        before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORBID)}
        os.environ[_FORCE] = "1"
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def check_archive(file: IO[bytes], name: str) -> None:
    """Raises ExportError where loading the .pt2 would run code. The file is left at its start."""
    try:
        for record, content in _records(file):
            if record.startswith("data/aotinductor/"):
                raise _RefusedError("it holds a compiled library")
            if record.endswith("_config.json") and _asks_for_pickle(json.loads(content())):
                raise _RefusedError(f"{record} asks for pickle (use_pickle), which torch needs for tensor subclasses and custom objects")
            if record.startswith("models/") or record == "serialized_exported_program.json":
                _check_program(json.loads(content()))
    except _RefusedError as error:
        raise ExportError(
            f"{name} is refused, because loading it would run code that it brings: {error}; save it again as ONNX, "
            "or load it yourself where you trust it and give the program to export_model"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{name} is not a program of torch.export: its description cannot be read") from error
    finally:
        file.seek(0)


class _RefusedError(Exception):
    pass


def _records(file: IO[bytes]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and content of all that torch may look at: as its own reader sees the archive, and as zipfile does, for files of torch 2.7."""
    try:
        reader = torch._C.PyTorchFileReader(file)
    except RuntimeError:
        pass  # torch.export.load comes to the same end, and goes on with zipfile
    else:
        for name in reader.get_all_records():
            yield name, partial(reader.get_record, name)
    file.seek(0)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                yield name, partial(archive.read, name)


def _asks_for_pickle(config: Any) -> bool:
    if isinstance(config, dict):
        return bool(config.get("use_pickle")) or any(map(_asks_for_pickle, config.values()))
    return isinstance(config, list) and any(map(_asks_for_pickle, config))


# Without brackets, quotes, commas and spaces, no call can be written in Python.
_PLAIN = re.compile(r"[\w.:@#/-]*", re.ASCII)


# Recorded for debugging, and kept as text.
_FREE_TEXT = frozenset({"metadata", "torch_version"})


# Arguments of operators, which generated code holds as repr() writes them.
_ARGUMENTS = frozenset({"as_string", "as_strings"})


_SPECS = frozenset({"in_spec", "out_spec"})


def _check_program(value: Any, key: str = "", in_nodes: bool = False) -> None:
    """All text in a program's JSON is a plain name, an expression of arithmetic, or never becomes code."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check_plain(name)
            if name not in _FREE_TEXT:
                _check_program(each, name, in_nodes or name == "nodes")
    elif in_nodes and key in _ARGUMENTS:
        return
    elif isinstance(value, list):
        for each in value:
            _check_program(each, key, in_nodes)
    elif isinstance(value, str):
        if key == "expr_str":
            _check_expression(value, _is_symbolic)
        elif key == "guards_code":
            _check_expression(value, _is_guard_function)
        elif key in _SPECS:
            _check_spec(value)
        else:
            _check_plain(value)


def _check_plain(text: str) -> None:
    if not _PLAIN.fullmatch(text):
        raise _RefusedError(f"{text[:80]!r} is no plain name")
    if text.endswith(".from_file") or ".from_file." in text:
        raise _RefusedError(f"the operator {text[:80]!r} opens a file")


def _check_spec(text: str) -> None:
    """The structure of inputs or outputs: JSON whose contexts are JSON again."""
    value = json.loads(text) if text[:1] in '[{"' and text else text
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            if "default_factory_module" in each and each["default_factory_module"] != "builtins":
                raise _RefusedError(f"it imports the module {str(each['default_factory_module'])[:80]!r}")
            pending += [*each, *each.values()]
        elif isinstance(each, list):
            pending += each
        elif isinstance(each, str) and each[:1] in ("[", "{", '"'):
            pending.append(json.loads(each))
        elif isinstance(each, str):
            _check_plain(each)


_ARITHMETIC = (
    ast.Expression, ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop,
    ast.Constant, ast.Name, ast.Load, ast.Subscript, ast.Attribute, ast.Call, ast.keyword, ast.Tuple,
)  # fmt: skip


_OF_TENSORS = frozenset({"size", "stride", "storage_offset", "dim", "numel"})


_OF_MATH = frozenset({"isnan", "floor", "ceil", "trunc", "sqrt", "inf", "nan", "pi"})


def _check_expression(text: str, allowed: Callable[[str], bool]) -> None:
    """Numbers, plain names, operators, sizes of tensors, and calls of the functions that are allowed."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, MemoryError) as error:
        raise _RefusedError(f"the expression {text[:80]!r} cannot be read") from error
    for node in ast.walk(tree):
        fine = isinstance(node, _ARITHMETIC)
        if isinstance(node, ast.Attribute):
            fine = node.attr in (_OF_MATH if isinstance(node.value, ast.Name) and node.value.id == "math" else _OF_TENSORS)
        elif isinstance(node, ast.Call):
            fine = isinstance(node.func, ast.Attribute) or (isinstance(node.func, ast.Name) and allowed(node.func.id))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            fine = _PLAIN.fullmatch(node.value) is not None
        elif isinstance(node, ast.Name):
            fine = not node.id.startswith("_")
        if not fine:
            raise _RefusedError(f"the expression {text[:80]!r} is more than arithmetic")


def _is_symbolic(name: str) -> bool:
    """Whether it makes an expression of sympy, torch's own among them, and does nothing else."""
    made = getattr(torch_functions, name, None) or getattr(sympy, name, None)
    return isinstance(made, type) and issubclass(made, sympy.Basic)


def _is_guard_function(name: str) -> bool:
    return name in ("min", "max", "abs", "round", "int", "float", "bool") or (_is_symbolic(name) and not hasattr(builtins, name))
