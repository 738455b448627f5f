"""The zoo: the models that are shipped in the package, by name.

``zoo/SHA256SUMS`` has the SHA-256 of every shipped file, as ``sha256sum`` writes it: see :func:`check_shipped`.

A folder a name: ``zoo/digits/digits.onnx`` and ``zoo/digits/card.json``. A card is a JSON object; what is read of it:
``description`` (one line), ``data``, ``command`` (that made the model), ``figures`` (name to number or short text), ``license``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxferry.runtime.errors import ArtifactError, ArtifactNotFoundError, InputError

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class ZooModel:
    """A shipped model, not opened."""

    name: str
    path: Path
    size: int  # of its .onnx files, in bytes
    card: Mapping[str, Any]


def zoo_names() -> tuple[str, ...]:
    """Names of the shipped models, sorted."""
    return tuple(sorted(folder.name for folder in _zoo().iterdir() if (folder / f"{folder.name}.onnx").is_file()))


def zoo_model(name: str) -> ZooModel:
    """The shipped model of that name. Raises ArtifactError with the nearest names where there is none."""
    path = _zoo() / name / f"{name}.onnx"
    if Path(name).name != name or not os.path.isfile(path):  # noqa: PTH113 (pathlib raises for names that no file can have)
        import difflib  # only here: few starts end in an error

        names = zoo_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped are: {', '.join(names) or 'none'}"
        raise ArtifactError(f"no model named {name!r} is shipped, {hint}; a file's name ends in .onnx")
    size = sum(file.stat().st_size for file in path.parent.glob("*.onnx"))
    return ZooModel(name, path, size, _card(path.with_name("card.json")))


def shipped_sums() -> dict[str, str]:
    """The SHA-256 of every shipped file in hex, by its place in the zoo, ``digits/digits.onnx``. Raises ArtifactError without a list."""
    path = _zoo() / SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the list of the shipped files' SHA-256, {path}, cannot be read ({error}); install onnxferry again") from error


def check_shipped(path: Path, digest: str | None = None) -> None:
    """Raises ArtifactError for a file that is not one of the shipped ones, byte for byte, and InputError for one from elsewhere.

    ``digest``: the SHA-256 of what is going to run, in hex; None to read the file.
    """
    place = path.absolute()
    if not place.is_relative_to(_zoo()):
        raise InputError(f"{path} is not a shipped file, so its SHA-256 is not known; onnxferry verify-signature verifies who made a file")
    name = place.relative_to(_zoo()).as_posix()
    if digest is None:
        from onnxferry.runtime.onnx_file.reader import file_sha256

        try:
            digest = file_sha256(place)
        except OSError as error:
            raise ArtifactError(f"the shipped file {name} cannot be read ({error.strerror}); install onnxferry again") from error
    wanted = shipped_sums().get(name)
    if digest != wanted:
        expected = f"{wanted[:12]}…" if wanted else "none, it is not shipped"
        raise ArtifactError(
            f"{name} is not the file that was shipped: SHA-256 {digest[:12]}…, expected {expected}; install onnxferry again"
        )


def changed_files() -> list[str]:
    """What is wrong with the shipped files, a line for each that is missing or was changed."""
    wrong = []
    for name in shipped_sums():
        try:
            check_shipped(_zoo() / name)
        except ArtifactError as error:
            wrong.append(str(error))
    return wrong


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The path of a model: an existing file or a name ending in ``.onnx`` is a file, anything else a zoo name.

    Raises ArtifactError if there is no such file and no shipped model of that name.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        from onnxferry.runtime.arguments import kind  # imports numpy

        raise InputError(f"a model is given by its name or path, got {kind(name_or_path)}; a file's bytes are opened with Engine(data)")
    text = os.fsdecode(name_or_path)
    if not text:
        raise InputError("the model's name is empty, expected an .onnx file or the name of a shipped model; is a variable not set?")
    if text[:8].lower().startswith(("http://", "https://", "s3://", "hf://")):
        raise InputError(f"{text[:200]}: is a URL, and nothing is fetched; download the file first")
    path = Path(text)
    if _is_file(path):
        return path
    if isinstance(name_or_path, str) and text in zoo_names():  # also where a folder of that name happens to lie here
        return zoo_model(text).path
    if _is_folder(path):
        inside = sorted(path.glob("*.onnx"))
        raise ArtifactError(f"{path} is a folder, expected an .onnx file{f', such as {inside[0]} in it' if inside else ''}")
    if not isinstance(name_or_path, str) or path.suffix.lower() == ".onnx" or len(path.parts) > 1:
        raise _no_file(path)
    return zoo_model(text).path


def _no_file(path: Path) -> ArtifactError:
    """The error for what is no file, or no regular one."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_symlink():
            return ArtifactNotFoundError(f"{path} is a link to {path.readlink()}, and no file is there", path)
        if path.exists():
            return ArtifactError(f"{path} is not a regular file; expected an .onnx file")
    if path.parts[:1] == ("~",):
        return ArtifactNotFoundError(f"no such file: {path}; ~ is not expanded here: give the whole path", path)
    import difflib

    near = difflib.get_close_matches(path.stem, _neighbours(path), n=1)
    return ArtifactNotFoundError(f"no such file: {path}{f'; did you mean {path.with_name(near[0])}.onnx?' if near else ''}", path)


def _is_file(path: Path) -> bool:
    """False also for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _zoo() -> Path:
    # Not importlib.resources, which imports tempfile, shutil and random: a tenth of the start-up time.
    return Path(__file__).parents[1] / "zoo"


def _neighbours(path: Path) -> list[str]:
    """Names of the models in the same folder, without their suffix."""
    return [other.stem for other in path.parent.glob("*.onnx")] if _is_folder(path.parent) else []


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"the shipped model {path.parent.name!r} has no readable card.json ({error}); install onnxferry again"
        ) from error
    if not isinstance(card, dict):
        raise ArtifactError(f"the card.json of the shipped model {path.parent.name!r} is not a JSON object; install onnxferry again")
    return card
