"""Writes the static site: its sources, the words, the shipped models with examples, and onnxruntime-web.

Every file is listed in ``manifest.mjs`` with its size and SHA-256, which the pages check, so that a file that was cut off in transfer
or belongs to another build is reported and not run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from onnxferry.demo.words.catalogue import LANGUAGES, NAMES
from onnxferry.runtime import embed
from onnxferry.runtime.artifact.variants import WEB, certified_variant
from onnxferry.runtime.artifact.zoo import check_shipped, zoo_model
from onnxferry.runtime.embed.web_runtime import LICENSE, VERSION, web_runtime
from onnxferry.runtime.errors import ArtifactError, InputError, InputNotFoundError
from onnxferry.runtime.files import read_npz
from onnxferry.runtime.onnx_file.reader import file_sha256

MODELS: Mapping[str, str] = MappingProxyType(
    {
        "digits": "digits/digits.int8.onnx",
        "fashion": "fashion/fashion.int8.onnx",
        "digits-ae": "digits-ae/digits-ae.int8.onnx",
        "digits-ae.decoder": "digits-ae/digits-ae.decoder.int8.onnx",
        "digits-gan": "digits-gan/digits-gan.onnx",
        "fashion-gan": "fashion-gan/fashion-gan.onnx",
        "shakespeare": "shakespeare/shakespeare.onnx",
        "digit-scenes": "digit-scenes/digit-scenes.onnx",
        "dates": "dates/dates.onnx",
        "sentiment-en": "sentiment-en/sentiment-en.onnx",
        "sentiment-zh": "sentiment-zh/sentiment-zh.onnx",
    }
)
"""The shipped file behind each name that the pages use.

The 8-bit variants take a third of the bytes and less time in WebAssembly. Not those of the generators: the golden samples of 8-bit images
allow so much that damage of 2,000 bytes goes unseen. Nor that of ``shakespeare``: MatMulNBits is several times slower in WebAssembly.
"""


EXAMPLES = ("digits", "fashion", "digits-ae", "digit-scenes")


_SITE = Path(__file__).with_name("site")


_ASSETS = Path(__file__).parents[1] / "assets"


_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "canvas": ("pace.js", "canvas.js"),
        "latents": ("pace.js", "latents.js"),
        "player": ("video.js", "player.js"),
        "gallery": ("gallery.js",),
    }
)
"""Components that the pages share with those that Python serves."""


_WORDS = (
    "menu.",
    "model",
    "input",
    "pad.",
    "recognise.",
    "find.",
    "write.",
    "review.",
    "translate.",
    "imagine.",
    "compress.",
    "yours.test.failed",
    "static.",
)


@dataclass(frozen=True)
class Site:
    """What was written."""

    folder: Path
    files: Mapping[str, int]  # bytes, by path in the folder

    @cached_property
    def transferred(self) -> Mapping[str, int]:
        """Bytes with gzip, as web servers send them, by path in the folder."""
        return {name: len(gzip.compress((self.folder / name).read_bytes(), 6)) for name in self.files}

    @property
    def summary(self) -> dict[str, object]:
        """As ``onnxferry demo --static DIR --json`` prints it."""
        return {
            "folder": str(self.folder),
            "files": len(self.files),
            "bytes": sum(self.files.values()),
            "gzip_bytes": sum(self.transferred.values()),
            "onnxruntime_web": VERSION,
        }


def build_site(folder: Path, ort_web: Path | None = None, variants: Path | None = None) -> Site:
    """Writes the site to ``folder``, which is made; one that holds such a site already is replaced as a whole.

    ``ort_web``: an unpacked npm package onnxruntime-web, see :func:`~onnxferry.runtime.embed.web_runtime.web_runtime`.
    ``variants``: a folder with variants of the included models for the browser, as ``onnxferry optimize --target web`` makes them; each
    is taken in place of the included file.
    Raises InputError for a folder with anything else in it and for a file that is no such variant, ArtifactError where a shipped model
    is missing or was changed.

        build_site(Path("site"))
    """
    _check_folder(folder)
    files = _files(web_runtime(ort_web), _models(variants))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as temporary:
            made = Path(temporary) / "site"
            for name, data in files.items():
                place = made / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            if folder.is_dir():
                shutil.rmtree(folder)
            made.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): give another folder") from error
    return Site(folder, {name: len(data) for name, data in files.items()})


def _check_folder(folder: Path) -> None:
    if not folder.absolute().parent.is_dir():
        parent = folder.absolute().parent
        raise InputNotFoundError(f"{folder} cannot be written: the folder {parent} does not exist: make it, or give another place", parent)
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / "manifest.mjs").is_file():
            raise InputError(f"{folder} has other files in it; give an empty or new folder, or one that such a site was written to")
    elif os.path.lexists(folder):
        raise InputError(f"{folder} cannot be written: it is not a folder; give a folder's name")


def _models(variants: Path | None) -> dict[str, Path]:
    """The file of each model, by the name that the pages use."""
    found = {}
    for name, shipped in MODELS.items():
        folder, _, file = shipped.partition("/")
        found[name] = path = zoo_model(folder).path.with_name(file)
        check_shipped(path, file_sha256(path))
    if variants is None:
        return found
    made = {name: variants / f"{name}.{WEB}.onnx" for name in MODELS}
    made = {name: path for name, path in made.items() if path.is_file()}
    if not made:
        expected = ", ".join(f"{name}.{WEB}.onnx" for name in MODELS)
        raise InputNotFoundError(
            f"--variants {variants}: none of {expected} is there; `onnxferry optimize --target web` makes them", variants
        )
    for name, path in made.items():
        try:
            certified_variant(path, found[name].with_name(f"{name}.onnx"), WEB)
        except ArtifactError as error:
            raise InputError(f"--variants {variants}: {path.name} is no variant of the included model: {error}") from error
    return found | made


def _files(web: Mapping[str, bytes], paths: Mapping[str, Path]) -> dict[str, bytes]:
    """All files of the site by their path in it."""
    sources = {path.relative_to(_SITE).as_posix(): path.read_bytes() for path in sorted(_SITE.rglob("*")) if path.is_file()}
    # These carry the version, which is made of all the others, and so are not listed.
    templates = {name: sources.pop(name).decode("utf-8") for name in ("index.html", "sw.js")}
    files = dict(sources)
    modules = Path(embed.__file__).parent / "templates" / "modules"
    files |= {f"modules/{path.name}": path.read_bytes() for path in sorted(modules.glob("*.mjs"))}
    for name, scripts in _PARTS.items():
        files[f"parts/{name}.mjs"] = "\n".join((_ASSETS / each).read_text(encoding="utf-8") for each in scripts).encode()
    files["style.css"] = (_ASSETS / "style.css").read_bytes()
    files |= {f"ort/{name}": data for name, data in web.items()} | {"ort/LICENSE": LICENSE.encode()}
    files |= {f"models/{path.name}": path.read_bytes() for path in paths.values()}
    for name in EXAMPLES:
        files[f"examples/{name}.json"] = _json(_examples(zoo_model(name).path.with_name("examples.npz")))
    files["catalogue.mjs"] = b"export default " + _json(_catalogue(paths))
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sorted(files.items())}
    version = hashlib.sha256(_json([listed, templates])).hexdigest()[:16]
    files["manifest.mjs"] = b"export default " + _json({"version": version, "files": listed})
    preloaded = "\n".join(f'<link rel="modulepreload" href="{name}">' for name in _modules(files))
    for name, template in templates.items():
        files[name] = template.replace("{{VERSION}}", version).replace("{{MODULES}}", preloaded).encode()
    return files


def _modules(files: Mapping[str, bytes]) -> list[str]:
    """The page's modules, by their imports from ``main.mjs`` on: a browser that knows them from the start asks for all at once."""
    found = ["main.mjs"]
    for name in found:
        imports = re.findall(r"""^import .*?"(\..*?)";$""", files[name].decode("utf-8"), re.MULTILINE)
        found += [
            each for each in (posixpath.normpath(f"{posixpath.dirname(name)}/{path}".lstrip("/")) for path in imports) if each not in found
        ]
    return found


def _catalogue(paths: Mapping[str, Path]) -> dict[str, object]:
    """The words in all languages, the styles of the components, and the models' files."""
    words = {
        language: {key: text for key, text in catalogue.items() if key.startswith(_WORDS)} for language, catalogue in LANGUAGES.items()
    }
    styles = {name: (_ASSETS / f"{name}.css").read_text(encoding="utf-8") for name in _PARTS}
    models = {name: f"models/{path.name}" for name, path in paths.items()}
    return {"names": dict(NAMES), "words": words, "styles": styles, "models": models, "ort": VERSION}


def _examples(path: Path) -> dict[str, object]:
    """The arrays of a model's examples: numbers as lists, images, uint8 (n, height, width, channels), in base64."""
    arrays: dict[str, object] = {}
    for name, array in read_npz(path).items():
        if array.dtype == np.uint8 and array.ndim >= 3:
            images = array if array.ndim == 4 else array[..., None]
            arrays[name] = {"shape": list(images.shape), "data": base64.b64encode(images.tobytes()).decode("ascii")}
        else:
            arrays[name] = array.tolist()
    return arrays


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
