"""Archives of ``torch.jit.save``: scripted and traced modules from a file."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import torch

from onnxferry.runtime.errors import ExportError, InputNotFoundError, first_line

MAX_CODE = 64 * 2**20
"""Bytes of TorchScript that are looked through."""


_REACHES_FILES = re.compile(rb"\btorch\.(save|load|from_file)\b|\bops\.(?!(?:aten|prim|prims|quantized|prepacked|torchvision)\b)(\w+)")
"""Calls of TorchScript that read or write files, and operators of libraries that are not known here."""


def scripted_from_file(path: str | os.PathLike[str]) -> torch.jit.ScriptModule:
    """A scripted or traced module from an archive, on the CPU, in the mode in which it was saved.

    Its code is TorchScript, which torch interprets and which is not Python; archives whose code names files or foreign operators are
    refused. It is a program nevertheless: load files of people whom you trust.

    Raises InputNotFoundError where there is no file, ExportError where it is no such archive or refused.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFoundError(f"there is no file {path}", path)
    try:
        _check_code(path)
        module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{path.name} is no TorchScript archive that this torch ({torch.__version__}) reads: {first_line(error)[:200]}"
        ) from error
    return module


def _check_code(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        left = MAX_CODE
        for member in archive.infolist():
            if "/code/" not in f"/{member.filename}" or not member.filename.endswith(".py"):
                continue
            left -= member.file_size
            if left < 0:
                raise ExportError(f"{path.name} has more than {MAX_CODE} bytes of TorchScript: export the nn.Module that it was made from")
            if found := _REACHES_FILES.search(archive.read(member)):
                what = found[0].decode("utf-8", "replace")
                raise ExportError(
                    f"{path.name} calls {what}, which an export does not run: export the nn.Module that it was made from, "
                    "pkg.module:make_model"
                )
