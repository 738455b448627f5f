"""onnxruntime-web: the three files that a page needs, from its npm package, pinned by version and by SHA-256; what it lacks and is slow at.

They are fetched once with npm and kept in the user's cache folder. onnxruntime-web is Microsoft's, under the MIT License.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from onnxferry.runtime.errors import DataError, InputError, InputNotFoundError
from onnxferry.runtime.files import cache_folder, written_whole
from onnxferry.runtime.onnx_file.summary import OPERATOR_DOMAINS

PACKAGE = "onnxruntime-web"


VERSION = "1.30.0"


FILES: Mapping[str, str] = MappingProxyType(
    {
        "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
        "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    }
)
"""SHA-256, in hex, of the files in the package's folder ``dist``."""


LICENSE = """\
onnxruntime-web 1.30.0, https://www.npmjs.com/package/onnxruntime-web

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
"""The npm package has no licence file of its own: this is the repository's."""


SLOW: Mapping[str, str] = MappingProxyType(
    {"com.microsoft::MatMulNBits": "MatMulNBits (8-bit weights of text generators) is several times slower in a browser than float32"}
)
"""Operators that have no fast kernel for WebAssembly, with the words for it. Source: tests/bench/table_runtimes.py."""


_DOMAINS = ("ai.onnx", "ai.onnx.ml", "com.microsoft")


_NEWER = frozenset(
    {
        *("BranchwiseRMSNorm", "DynamicSparseAttention", "HyperConnectionPostMix", "HyperConnectionPreMix", "PackedSparseAttentionIndexer"),
        *("ScaledSiLU", "SparseAttentionIndexer", "SparsePagedAttention", "VarlenNGramHashMapping"),
    }
)
"""Operators of com.microsoft that ONNX Runtime 1.31 knows and onnxruntime-web 1.30 does not: one graph of each was opened in both. Of
ai.onnx and ai.onnx.ml it runs what ONNX Runtime's CPU provider runs; of ONNX Runtime's other domains nothing."""


def lacking(operators: Iterable[str]) -> list[str]:
    """Those of ``operators``, "domain::operator", that onnxruntime-web has no kernel for.

    lacking(["ai.onnx::Conv", "com.microsoft.nchwc::Conv"])    # ["com.microsoft.nchwc::Conv"]
    """
    return [name for name in operators if _lacks(*name.split("::", 1))]


def _lacks(domain: str, operator: str) -> bool:
    if domain in _DOMAINS:
        return domain == "com.microsoft" and operator in _NEWER
    return domain.startswith(OPERATOR_DOMAINS)  # the other domains are of the file's own functions


_NPM_SECONDS = 600  # for 33 MB


def web_runtime(folder: Path | None = None) -> dict[str, bytes]:
    """The files by name, their SHA-256 checked.

    ``folder``: an unpacked npm package, as ``node_modules/onnxruntime-web``; None for the cache, filled with npm where it is empty.
    Raises InputError for a folder that is not that package, DataError where npm is missing or fails.
    """
    if folder is not None:
        return _from_package(folder)
    files = web_runtime_here()
    if files is None:
        files = _fetched()
        place = _place()
        if place is not None:
            _keep(place, files)
    return files


def web_runtime_here() -> dict[str, bytes] | None:
    """As :func:`web_runtime` from the cache; None where it is not there: nothing is fetched."""
    place = _place()
    return _from_cache(place) if place is not None else None


def keep_web_runtime(folder: Path) -> None:
    """Puts the files of an unpacked npm package into the cache. Raises InputError for another folder, and where there is no cache."""
    files = _from_package(folder)
    place = _place()
    if place is None:
        raise InputError(f"--ort-web {folder}: there is no folder to keep it in: set ONNXFERRY_CACHE to a folder")
    try:
        _keep(place, files)
    except OSError as error:
        raise InputError(
            f"--ort-web {folder}: {place} cannot be written ({error.strerror}): set ONNXFERRY_CACHE to another folder"
        ) from error


def _place() -> Path | None:
    kept = cache_folder()
    return kept / f"{PACKAGE}-{VERSION}" if kept is not None else None


def _keep(place: Path, files: Mapping[str, bytes]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with written_whole(place / name) as part:
            part.write_bytes(data)


def _from_package(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise InputNotFoundError(f"--ort-web {folder}: no such folder; expected an unpacked npm package {PACKAGE}@{VERSION}", folder)
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    files = {}
    for name in FILES:
        try:
            files[name] = (dist / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"--ort-web {folder}: {name} cannot be read ({error.strerror}); expected an unpacked npm package {PACKAGE}@{VERSION}"
            ) from error
    _check(files, f"--ort-web {folder}", InputError, _other_version(folder))
    return files


def _other_version(folder: Path) -> str:
    try:
        return str(json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _from_cache(place: Path) -> dict[str, bytes] | None:
    """None where a file is missing or changed: it is fetched again."""
    try:
        files = {name: (place / name).read_bytes() for name in FILES}
    except OSError:
        return None
    return files if all(hashlib.sha256(files[name]).hexdigest() == digest for name, digest in FILES.items()) else None


def _fetched() -> dict[str, bytes]:
    """With ``npm pack``, which runs no script of the package. Nothing of it but the three files is unpacked."""
    otherwise = f"or give an unpacked package: --ort-web node_modules/{PACKAGE}"
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"the npm package {PACKAGE}@{VERSION} is needed, and npm is not installed: install Node.js, {otherwise}")
    with tempfile.TemporaryDirectory(prefix="onnxferry-") as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"npm could not fetch {PACKAGE}@{VERSION} ({error}): check the connection, {otherwise}") from error
        packed = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            said = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
            raise DataError(f"npm could not fetch {PACKAGE}@{VERSION} ({said}): check the connection, {otherwise}")
        files = {}
        try:
            with tarfile.open(packed[0]) as archive:
                for name in FILES:
                    member = archive.extractfile(f"package/dist/{name}")
                    files[name] = member.read() if member is not None else b""
        except (OSError, KeyError, tarfile.TarError, EOFError) as error:
            raise DataError(f"the npm package {PACKAGE}@{VERSION} cannot be read ({error}): try again, {otherwise}") from error
    _check(files, f"the npm package {PACKAGE}@{VERSION}", DataError)
    return files


def _check(files: Mapping[str, bytes], where: str, kind: type[InputError | DataError], version: str = "") -> None:
    for name, digest in FILES.items():
        found = hashlib.sha256(files[name]).hexdigest()
        if found != digest:
            hint = f"it is version {version}, expected {VERSION}" if version not in ("", VERSION) else f"expected that of version {VERSION}"
            raise kind(f"{where}: {name} is not the file that was pinned, SHA-256 {found[:12]}…; {hint}, {digest[:12]}…")
