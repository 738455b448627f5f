"""What a visitor's browser needs to run ``digits`` itself: the file, the damaged one, onnxruntime-web, and the worker that runs them.

onnxruntime-web is taken from the cache where ``onnxferry demo --static`` or ``--ort-web`` put it. Nothing is fetched here: a visit to a
page must not make this machine ask another one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnxferry.demo.shipped.crossing import MODEL
from onnxferry.demo.shipped.examples import BROKEN, example_file
from onnxferry.runtime import embed
from onnxferry.runtime.embed.web_runtime import FILES, LICENSE, web_runtime_here

FOLDER = "in-browser"
"""The folder that the server has them in, beside its pages."""


_ASSETS = Path(__file__).parents[1] / "assets"


_MODULES = Path(embed.__file__).parent / "templates" / "modules"


@dataclass(frozen=True, eq=False)
class BrowserFiles:
    """All of them, by name."""

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> str:
        """Of all files, 16 hexadecimal digits: a part of their address, so that a browser may keep them for good."""
        listed = {name: FILES.get(name) or hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items())}
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    @property
    def address(self) -> str:
        """Where they are, relative to a page's own address."""
        return f"{FOLDER}/{self.digest}/"


_lock = threading.Lock()


_found: dict[str, BrowserFiles] = {}


def browser_files() -> BrowserFiles | None:
    """The files, read once; None while onnxruntime-web is not on this machine.

    browser_files().address    # "in-browser/9f86d081884c7d65/"
    """
    with _lock:
        if MODEL not in _found:
            web = web_runtime_here()
            if web is None:  # looked for again at the next call: it may have come
                return None
            own = {"worker.mjs": _ASSETS / "crossing_worker.mjs", "artifact.mjs": _MODULES / "artifact.mjs"}
            models = {f"{MODEL}.onnx": example_file(MODEL), f"{BROKEN}.onnx": example_file(BROKEN)}
            _found[MODEL] = BrowserFiles(
                {**web, "LICENSE": LICENSE.encode(), **{name: at.read_bytes() for name, at in own.items()}, **models}
            )
        return _found[MODEL]
