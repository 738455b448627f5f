"""A folder of the user's images, one sub-folder per class, read at one size.

    DIR/cat/a.jpg        DIR/dog/b.png        …    not split yet
    DIR/train/cat/a.jpg  DIR/test/cat/c.jpg   …    already split; ``test`` and ``val`` may be missing

Collections often hold the same file twice, byte for byte, and a model would be tested on what it was trained on. So
copies are left out: one in ``test`` is kept if there is one, else one in ``val``, else the first by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.images.decode import decode_image, with_channels
from onnxferry.runtime.images.folders import folder_sha256, list_labelled_images
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.train.data.progress import Progress, no_progress
from onnxferry.train.preprocessing import center_square_uint8

# Part → names of its folder. The order decides which of several copies of an image is kept.
PART_FOLDERS = {"test": ("test",), "validation": ("val", "validation", "valid"), "train": ("train",)}


MAX_READERS = 4  # threads: a photo of 12 megapixels takes some 300 MB while it is resampled


MAX_NAMED = 10  # images in one message


@dataclass(frozen=True, eq=False)
class ImageFolder:
    classes: tuple[str, ...]  # sorted
    # "train" and, where there are such folders, "validation" and "test" → uint8 (n, size, size, channels), int64 (n,)
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    sha256: str  # of what ``sha256sum`` prints for all files, copies too, by their paths in the folder, sorted
    source: str


@dataclass(frozen=True)
class _Image:
    path: Path
    part: str
    label: str


def read_image_folder(folder: Path, size: int, channels: int, progress: Progress = no_progress) -> ImageFolder:
    """All images under ``folder``: their centred squares resampled to ``size``, in 1 or 3 ``channels``.

    Raises DataError for images that cannot be read or are in two classes (it names them), a class that is empty or is
    missing in one of the parts, and fewer than two classes.
    """
    images = list(_list(folder))
    classes = _classes_of(folder, images)
    read = _read_all(images, size, channels, progress)
    kept, copies = _without_copies(images, read)
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
        sha256=folder_sha256(folder, {image.path: digest for image, (digest, _) in zip(images, read, strict=True)}),
        source=f"a folder of {len(kept)} images" + (f" ({copies} copies left out)" if copies else ""),
    )


def _classes_of(folder: Path, images: list[_Image]) -> tuple[str, ...]:
    """The training part's classes, sorted. Raises DataError for fewer than two, or where another part has other classes."""
    classes = sorted({image.label for image in images if image.part == "train"})
    for part in dict.fromkeys(image.part for image in images):
        odd = {image.label for image in images if image.part == part}.symmetric_difference(classes)
        if odd:
            raise DataError(f"{folder}: expected the same classes in train and {part}, found only in one of them: {', '.join(sorted(odd))}")
    if len(classes) < 2:
        raise DataError(f"{folder}: expected at least two classes, each a sub-folder of images, found only {classes[0]!r}")
    return tuple(classes)


def _read_all(images: list[_Image], size: int, channels: int, progress: Progress) -> list[tuple[str, np.ndarray]]:
    """The SHA-256 of each file, and its pixels uint8 (size, size, channels). Raises DataError if any cannot be read."""

    def read(image: _Image) -> tuple[str, np.ndarray | InputError]:
        content = image.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        try:
            decoded = with_channels(decode_image(content, str(image.path)), channels)
        except InputError as error:
            return digest, error
        return digest, center_square_uint8(torch.from_numpy(np.ascontiguousarray(decoded)), size).numpy()

    results: list[tuple[str, np.ndarray]] = []
    errors: list[InputError] = []
    try:
        with ThreadPoolExecutor(min(MAX_READERS, available_cpus())) as threads:
            for done, (digest, outcome) in enumerate(threads.map(read, images), start=1):
                if isinstance(outcome, InputError):
                    errors.append(outcome)
                else:
                    results.append((digest, outcome))
                progress("reading images", done, len(images), "images")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if errors:
        many = f"{len(errors)} of {len(images)} images cannot be read, the first of them: " if len(errors) > 1 else ""
        others = "".join(f"\n{error}" for error in errors[1:MAX_NAMED]) + ("\n…" if len(errors) > MAX_NAMED else "")
        raise DataError(f"{many}{errors[0]}; replace or remove it{others}")
    return results


def _without_copies(images: list[_Image], read: list[tuple[str, np.ndarray]]) -> tuple[list[tuple[_Image, np.ndarray]], int]:
    """The images with their pixels, each content once, and how many copies were left out. Raises DataError for one in two classes."""
    originals: dict[str, _Image] = {}  # digest → the copy that is kept
    kept = []
    for image, (digest, pixels) in zip(images, read, strict=True):
        original = originals.setdefault(digest, image)
        if original.label != image.label:
            raise DataError(f"{original.path} and {image.path} are the same image in two classes: remove the wrong one")
        if original is image:
            kept.append((image, pixels))
    return kept, len(images) - len(kept)


def _list(folder: Path) -> Iterator[_Image]:
    """The images, part by part in the order of PART_FOLDERS, then by class and by name."""
    parts = {part: found for part, names in PART_FOLDERS.items() if (found := _part_folder(folder, names))}
    if "train" not in parts:  # a class may have that name: then it holds images, not folders
        parts = {"train": folder}
    for part, part_folder in parts.items():
        for label, paths in list_labelled_images(part_folder).items():
            yield from (_Image(path, part, label) for path in paths)


def _part_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of ``names`` in ``folder`` that is a folder of folders."""
    for name in names:
        if (folder / name).is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in (folder / name).iterdir()):
            return folder / name
    return None
