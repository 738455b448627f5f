"""A folder of the user's images, one sub-folder per class, read at one size.

    DIR/cat/a.jpg        DIR/dog/b.png        …    not split yet
    DIR/train/cat/a.jpg  DIR/test/cat/c.jpg   …    already split; ``test`` and ``val`` may be missing

Collections often hold the same file twice, byte for byte, and a model would be tested on what it was trained on. So
copies are left out: one in ``test`` is kept if there is one, else one in ``val``, else the first by name.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from onnxferry.runtime.artifact.contract import NOT_TEXT
from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.images.decode import decode_image, with_channels
from onnxferry.runtime.images.folders import folder_sha256, list_labelled_images, passed_over, passed_over_words
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.train.data.progress import Progress, no_progress
from onnxferry.train.preprocessing import center_square_uint8

# Part → names of its folder. The order decides which of several copies of an image is kept.
PART_FOLDERS = {"test": ("test",), "validation": ("val", "validation", "valid"), "train": ("train",)}


MAX_READERS = 4  # threads: a photo of 12 megapixels takes some 300 MB while it is resampled


MAX_NAMED = 10  # images in one message


MOST_UNREADABLE = 0.05  # share of the images: so many are left out and counted, more are an error


COLOURFUL = 12  # levels by which the channels of an image differ on average, if it is not grey


@dataclass(frozen=True, eq=False)
class ImageFolder:
    classes: tuple[str, ...]  # sorted
    # "train" and, where there are such folders, "validation" and "test" → uint8 (n, size, size, channels), int64 (n,)
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    sha256: str  # of what ``sha256sum`` prints for all files, copies too, by their paths in the folder, sorted
    source: str
    notes: tuple[str, ...] = ()  # what was left out, with counts; colours that are not read


@dataclass(frozen=True)
class _Image:
    path: Path
    part: str
    label: str


def read_image_folder(folder: Path, size: int, channels: int, progress: Progress = no_progress) -> ImageFolder:
    """All images under ``folder``: their centred squares resampled to ``size``, in 1 or 3 ``channels``.

    Files of other types, copies and a few images that cannot be read are left out: ``notes`` says how many. Raises DataError if more
    than a twentieth cannot be read or one is in two classes (it names them), a class is empty or missing in one of the parts, and for fewer
    than two classes.
    """
    images = list(_list(folder))
    notes = [words] if (words := passed_over_words(passed_over(folder, [image.path for image in images]))) else []
    outcomes = _read_all(images, size, channels, progress)
    sha256 = folder_sha256(folder, {image.path: outcome.digest for image, outcome in zip(images, outcomes, strict=True)})
    unreadable = [outcome.error for outcome in outcomes if isinstance(outcome, _Unreadable)]
    if unreadable:
        be = "is" if len(unreadable) == 1 else "are"
        notes.append(f"{_unreadable_words(len(unreadable), len(images))} and {be} left out: {_first_ones(unreadable)}")
    pairs = [(image, outcome) for image, outcome in zip(images, outcomes, strict=True) if isinstance(outcome, _Read)]
    images, read = [image for image, _ in pairs], [outcome for _, outcome in pairs]
    classes = _classes_of(folder, images)
    kept, copies = _without_copies(images, read)
    if copies:
        _refuse_empty_training(folder, classes, [image for image, _ in kept])
        notes.append(f"{copies} {'copies of other images were' if copies > 1 else 'copy of another image was'} left out")
    if channels == 1 and sum(item.colourful for item in read) > len(read) / 2:
        notes.append("the images are in colour and are read as grey: --color keeps the colours, --grayscale says that this is meant")
    index = {label: i for i, label in enumerate(classes)}

    def arrays(part: str) -> tuple[np.ndarray, np.ndarray]:
        taken = [(pixels, index[image.label]) for image, pixels in kept if image.part == part]
        return (
            np.array([pixels for pixels, _ in taken], np.uint8).reshape(-1, size, size, channels),
            np.array([label for _, label in taken], np.int64),
        )

    return ImageFolder(
        classes=classes,
        parts={part: arrays(part) for part in dict.fromkeys(image.part for image in images)},
        sha256=sha256,
        source=f"a folder of {len(kept)} images" + (f" ({copies} copies left out)" if copies else ""),
        notes=tuple(notes),
    )


def _classes_of(folder: Path, images: list[_Image]) -> tuple[str, ...]:
    """The training part's classes, sorted. Raises DataError for fewer than two, or where another part has other classes."""
    classes = sorted({image.label for image in images if image.part == "train"})
    for part in dict.fromkeys(image.part for image in images):
        odd = {image.label for image in images if image.part == part}.symmetric_difference(classes)
        if odd:
            raise DataError(f"{folder}: expected the same classes in train and {part}, found only in one of them: {', '.join(sorted(odd))}")
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none that can be read"
        raise DataError(f"{folder}: expected at least two classes, each a sub-folder of images, found {found}")
    return tuple(classes)


def _refuse_empty_training(folder: Path, classes: tuple[str, ...], kept: list[_Image]) -> None:
    """Raises DataError for a class whose training images are all copies of images in another part."""
    there = {image.label for image in kept if image.part == "train"}
    for label in classes:
        if label not in there:
            others = " and ".join(dict.fromkeys(image.part for image in kept if image.label == label))
            raise DataError(
                f"{folder}: every training image of class {label!r} lies in the {others} part too, and a model must not be tested on "
                "what it was trained on: keep each image in one part, or remove that part and let it be split"
            )


@dataclass(frozen=True, eq=False)
class _Read:
    digest: str  # SHA-256 of the file, hex
    pixels: np.ndarray  # uint8 (size, size, channels)
    colourful: bool  # the file is in colour, whatever is kept of it


@dataclass(frozen=True)
class _Unreadable:
    digest: str
    error: InputError


def squared(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """The centred square of a decoded image, uint8 (height, width, 1 | 3) → uint8 (size, size, channels)."""
    return center_square_uint8(torch.from_numpy(np.ascontiguousarray(with_channels(image, channels))), size).numpy()


def _read_all(images: list[_Image], size: int, channels: int, progress: Progress) -> list[_Read | _Unreadable]:
    """What each file holds, or why it cannot be read. Raises DataError if more than a twentieth cannot."""

    def read(image: _Image) -> _Read | _Unreadable:
        content = image.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        try:
            whole = decode_image(content, str(image.path))
        except InputError as error:
            return _Unreadable(digest, error)
        return _Read(digest, squared(whole, size, channels), _is_colourful(whole))

    outcomes: list[_Read | _Unreadable] = []
    try:
        with ThreadPoolExecutor(min(MAX_READERS, available_cpus())) as threads:
            for done, outcome in enumerate(threads.map(read, images), start=1):
                outcomes.append(outcome)
                progress("reading images", done, len(images), "images")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, _Unreadable)]
    if len(errors) > MOST_UNREADABLE * len(images):
        many = f"{_unreadable_words(len(errors), len(images))}, the first of them: " if len(errors) > 1 else ""
        others = "".join(f"\n{error}" for error in errors[1:MAX_NAMED]) + ("\n…" if len(errors) > MAX_NAMED else "")
        raise DataError(f"{many}{errors[0]}; replace or remove it{others}")
    return outcomes


def _is_colourful(image: np.ndarray) -> bool:
    """Whether uint8 (height, width, channels) is in colour, by some 10,000 of its pixels."""
    if image.shape[-1] < 3:
        return False
    step = max(1, min(image.shape[:2]) // 100)
    some = image[::step, ::step, :3].astype(np.int16)
    return float(np.ptp(some, axis=-1).mean()) > COLOURFUL


def _unreadable_words(count: int, of: int) -> str:
    return f"{count} of {of} images cannot be read"


def _first_ones(errors: list[InputError]) -> str:
    return "; ".join(str(error) for error in errors[:3]) + ("; …" if len(errors) > 3 else "")


def _without_copies(images: list[_Image], read: list[_Read]) -> tuple[list[tuple[_Image, np.ndarray]], int]:
    """The images with their pixels, each content once, and how many copies were left out. Raises DataError for one in two classes."""
    originals: dict[str, _Image] = {}  # digest → the copy that is kept
    kept = []
    for image, item in zip(images, read, strict=True):
        original = originals.setdefault(item.digest, image)
        if original.label != image.label:
            raise DataError(f"{original.path} and {image.path} are the same image in two classes: remove the wrong one")
        if original is image:
            kept.append((image, item.pixels))
    return kept, len(images) - len(kept)


def _list(folder: Path) -> Iterator[_Image]:
    """The images, part by part in the order of PART_FOLDERS, then by class and by name."""
    parts = {part: found for part, names in PART_FOLDERS.items() if (found := _part_folder(folder, names))}
    if "train" not in parts:  # a class may have that name: then it holds images, not folders
        parts = {"train": folder}
    for part, part_folder in parts.items():
        for label, paths in _by_label(part_folder).items():
            yield from (_Image(path, part, label) for path in paths)


def _by_label(folder: Path) -> dict[str, list[Path]]:
    """Label to images. Folders whose names differ only in how accents are stored, as macOS and Windows do, are one class.

    Raises DataError for a name that cannot be a label: the model could be trained, and then not be exported.
    """
    found: dict[str, list[Path]] = {}
    for name, paths in list_labelled_images(folder).items():
        if NOT_TEXT.search(name):
            raise DataError(f"{folder}: the folder {name!r} cannot name a class: expected one line of text in UTF-8; rename it")
        found.setdefault(unicodedata.normalize("NFC", name), []).extend(paths)
    return found


def _part_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of ``names`` in ``folder`` that is a folder of folders."""
    for name in names:
        if (folder / name).is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in (folder / name).iterdir()):
            return folder / name
    return None
