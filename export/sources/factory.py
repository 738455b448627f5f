"""A user's own model, named as ``pkg.module:make_model``."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxferry.runtime.errors import ExportError, InputError, first_line

FACTORY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def object_from_factory(factory: str, *, is_model: Callable[[Any], bool]) -> Any:
    """What ``pkg.module:name`` is, if ``is_model`` says that it is a model, else what it returns when called without arguments.

    The module is searched in the current folder first, as Python itself does. Raises InputError for another form of name,
    ExportError if it cannot be imported or called.
    """
    if not FACTORY.fullmatch(factory):
        raise InputError(f"{factory!r} is not of the form pkg.module:make_model")
    module_name, _, attribute = factory.partition(":")
    found = _imported(module_name, attribute)
    if is_model(found):
        return found
    if not callable(found):
        raise ExportError(f"{factory} is a {type(found).__name__}, expected a function or class that makes the model")
    try:
        return found()
    except Exception as error:
        raise ExportError(
            f"{factory}() fails ({type(error).__name__}: {first_line(error)[:300]}); it must make the model without arguments"
        ) from error


def _imported(module_name: str, attribute: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ExportError(
            f"cannot import {module_name!r} ({type(error).__name__}: {first_line(error)[:300]}); "
            f"run this where `python -c 'import {module_name}'` works"
        ) from error
    finally:
        sys.path.remove(here)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = sorted(n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n)))
            near = difflib.get_close_matches(part, [n for n in vars(found) if not n.startswith("_")], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known[:10]) or 'nothing callable'}"
            raise ExportError(f"{module_name!r} has no {attribute!r}; {hint}")
        found = getattr(found, part)
    return found
