"""Writes a small project that verifies an artifact and runs it, in the conventions of another language.

write_project("digits.onnx", "web", "digits-web")

The project holds the model file itself, code that reads its contract, and an example for its kind: an image to a class, a prompt to
text. It depends on the language's ONNX Runtime and nothing of onnxferry. Names and descriptions are the file's own words, which may be
an untrusted file's: they are escaped for each place that they are written to.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from onnxferry.runtime.artifact.contract import GOLDEN_DTYPES, TEXT, Contract, kind_of
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.artifact.variants import WEB, certified_variants
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.embed.examples import IMAGE, NOISE, WORDS, argument_of, example, use_of
from onnxferry.runtime.embed.web_runtime import SLOW, VERSION, lacking
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.reader import file_sha256

_NEWEST_OPSET = 23
"""Of ONNX's own operators, in the oldest ONNX Runtime that the projects take."""


_NOT_OURS = ".template"
"""After the name of a template in Python, which would be taken for a module of this package."""


@dataclass(frozen=True)
class Language:
    """One language that a project can be written for."""

    name: str  # after --lang
    title: str
    folders: tuple[str, ...]  # of templates, copied in this order
    inputs: str  # the file of arrays that a model of no known kind is run on
    commands: tuple[str, ...]  # that install what the project needs, and run it; "{argument}" is what follows
    image_dependency: str = ""  # what reads and writes images, as a line of the list of dependencies
    image: str = "image.png"  # in an example: a format that it reads
    sources: str = ""  # the folder of its source files, where that is not the project's own
    suffixes: tuple[str, ...] = ()  # of its source files
    lacks: tuple[str, ...] = ()  # dtypes of a contract that its ONNX Runtime has no array for


LANGUAGES: Mapping[str, Language] = {
    each.name: each
    for each in (
        Language(
            "python",
            "Python, without onnxferry",
            ("python",),
            "inputs.npz",
            ("pip install -r requirements.txt", "python main.py{argument}"),
            image_dependency="\npillow>=11",
        ),
        Language(
            "javascript",
            "JavaScript for Node.js",
            ("modules", "javascript"),
            "inputs.json",
            ("npm install --onnxruntime-node-install=skip", "node main.mjs{argument}"),
            image_dependency=',\n    "sharp": "^0.34.0"',
        ),
        Language("web", "a page for the browser", ("modules", "web"), "", ("npm install", "npm start")),
        Language(
            "cpp",
            "C++",
            ("cpp",),
            "inputs.json",
            ("cmake -B build -DONNXRUNTIME_ROOT=/path/to/onnxruntime", "cmake --build build --config Release", "build/main{argument}"),
            image="image.ppm",
            sources="src",
            suffixes=(".cpp", ".hpp"),
        ),
        Language(
            "java",
            "Java",
            ("java",),
            "inputs.json",
            ('mvn -q compile exec:java "-Dexec.args={argument}"',),
            sources="src/main/java/onnxferry",
            suffixes=(".java",),
            lacks=("uint16", "uint32", "uint64"),
        ),
        Language(
            "rust",
            "Rust",
            ("rust",),
            "inputs.json",
            ("export ORT_DYLIB_PATH=/path/to/onnxruntime/lib/libonnxruntime.so", "cargo run --release -q --{argument}"),
            image="image.ppm",
            sources="src",
            suffixes=(".rs",),
            lacks=("float16",),  # as an array it needs one more crate
        ),
        Language(
            "csharp",
            "C#",
            ("csharp",),
            "inputs.json",
            ("dotnet run --{argument}",),
            image="image.ppm",
            lacks=("float16",),  # its type moved from one namespace to another
        ),
    )
}
"""By name."""


@dataclass(frozen=True)
class Project:
    """What was written."""

    folder: Path
    files: tuple[Path, ...]  # relative to the folder
    notes: tuple[str, ...]  # what is slower or other there
    commands: tuple[str, ...]  # to run it, in the folder


def write_project(model: str | os.PathLike[str], language: str, folder: str | os.PathLike[str]) -> Project:
    """Writes a project for ``language``, a name of :data:`LANGUAGES`, into ``folder``, which is made and must be empty.

    ``model``: an artifact's file or the name of a shipped one; for ``web``, its variant for the browser where one lies
    beside it. Raises InputError for a file without a contract, for one that the
    language's ONNX Runtime cannot run, and for a folder that holds something; nothing is left behind then.
    """
    chosen = LANGUAGES.get(language)
    if chosen is None:
        raise InputError(f"unknown language {str(language)[:40]!r}; expected one of {', '.join(LANGUAGES)}")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder; give another one")
    path = find_model(model)
    described = describe(path)
    contract = described.contract
    if contract is None:
        raise InputError(f"{path.name} has no contract, so a project could not verify it; `onnxferry export {path.name}` gives it one")
    notes: tuple[str, ...] = ()
    if chosen.name == "web" and (variants := certified_variants(described, device=WEB)):
        described = variants[0].file
        notes = (f"{variants[0].path.name} is taken, which `onnxferry optimize --target web` made of {path.name}",)
        path, contract = variants[0].path, described.contract or contract
    notes += _checked(described, contract, chosen)
    values = _values(path, described, contract, chosen)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        made = Path(temporary) / "project"
        made.mkdir()
        for name in chosen.folders:
            for template in sorted(files(__package__).joinpath("templates", name).iterdir(), key=lambda each: each.name):
                text = template.read_text(encoding="utf-8")
                file = made / template.name.removesuffix(_NOT_OURS)
                if file.suffix in chosen.suffixes:
                    file = made / chosen.sources / file.name
                    file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(_filled(text, values, file.suffix), encoding="utf-8")
        shutil.copyfile(path, made / values["FILE"])
        for weights in described.weights:  # found by their own names, from where the model is
            beside = made / weights.relative_to(path.parent)
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights, beside)
        if target.is_dir():
            target.rmdir()
        made.rename(target)
    written = tuple(sorted(file.relative_to(target) for file in target.rglob("*") if file.is_file()))
    return Project(target, written, notes, tuple(each.format(argument=values["ARGUMENT"]) for each in chosen.commands))


def _checked(model: Description, contract: Contract, language: Language) -> tuple[str, ...]:
    """Notes on the file there. Raises InputError where it cannot run."""
    summary, where = model.summary, f"{language.title} cannot run {Path(model.name).name}"
    if model.per_row:
        raise InputError(f"{where}: its rows must run one by one, which the project's code does not do; embed its original instead")
    if language.name == "python":
        return ()
    for spec in (*summary.inputs, *summary.optional_inputs, *summary.outputs):
        if spec.dtype not in (*GOLDEN_DTYPES, TEXT) or spec.dtype in language.lacks:
            raise InputError(f"{where}: {spec.name!r} is {spec.dtype}, which its ONNX Runtime has no array for")
    if summary.opsets.get("ai.onnx", 0) > _NEWEST_OPSET:
        raise InputError(f"{where}: it has opset {summary.opsets['ai.onnx']}, and up to {_NEWEST_OPSET} runs there; export it with --opset")
    if language.name == "web" and model.weights:
        raise InputError(f"{where}: its weights lie in files of their own ({next(iter(model.weights)).name}), and a page loads one file")
    if language.name != "web":
        return ()
    if missing := lacking(summary.operators):
        raise InputError(f"{where}: onnxruntime-web {VERSION} has no kernel for {', '.join(missing[:5])}; export the model without it")
    return tuple(words for name, words in SLOW.items() if name in summary.operators)


def _values(path: Path, model: Description, contract: Contract, language: Language) -> dict[str, str]:
    """What the templates' placeholders stand for, not yet escaped."""
    name = _plain(contract.name or path.stem)
    file = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', path.stem).strip('.') or 'model'}.onnx"
    kind = kind_of(contract)
    use = use_of(kind, model)
    argument = {
        IMAGE: f" {language.image}",
        WORDS: ' "To be"' if kind.returns == "text" else ' "a text"',
        NOISE: f" {_plain(contract.labels[0])} 0" if contract.labels else " 0 0",
    }.get(argument_of(use, language.name), f" {language.inputs}")
    if language.name == "java":  # Maven takes all arguments in one option, which is in double quotes
        argument = argument.strip().replace('"', "'")
    return {
        "NAME": name,
        "PACKAGE": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model",
        "DESCRIPTION": " ".join(contract.description.split())[:500] or f"The model {name}.",
        "FILE": file,
        "ARGUMENT": argument,
        "BYTES": str(model.summary.file_bytes),
        "SHA256": file_sha256(path),
        "IMAGE_DEPENDENCY": language.image_dependency if kind.takes in ("image", "noise") else "",
        "USE": example(use, language.name, file),
    }


def _plain(text: str) -> str:
    """As it may stand in a comment, a docstring and a shell command of any language: letters, digits and a few signs."""
    return re.sub(r"[^\w .+-]", "_", text).strip()[:80] or "model"


def _filled(text: str, values: Mapping[str, str], suffix: str) -> str:
    """The template with its placeholders replaced. Code and JSON in a placeholder are ours; names and descriptions are escaped."""

    def shown(match: re.Match[str]) -> str:
        value = values[match[1]]
        if match[1] not in ("NAME", "DESCRIPTION"):
            return value
        return html.escape(value) if suffix in (".html", ".md", ".xml", ".csproj") else json.dumps(value, ensure_ascii=False)[1:-1]

    return re.sub(r"\{\{([A-Z0-9_]+)\}\}", shown, text)
