"""Images with known labels: IDX files, or a folder with one sub-folder for each label."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError, DataNotFoundError
from onnxferry.runtime.files import downloads_folder
from onnxferry.runtime.images.folders import folder_sha256, list_labelled_images, passed_over
from onnxferry.runtime.images.idx import idx_sha256, read_idx

SPLITS = {"test": "t10k", "train": "train"}
"""Split to the prefix of MNIST's file names."""


_PARTS = ("train", "test", "val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Names, label indices and images, all of one length. Images in files are still to be decoded."""

    names: Sequence[str]
    indices: Sequence[int]
    images: Sequence[Path] | np.ndarray  # the array is uint8 (n, height, width)
    source: str  # for people
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files that lie there and are not among them, by suffix

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[str, int, Path | np.ndarray]]:
        return zip(self.names, self.indices, self.images, strict=True)


def find_labelled_images(folder: str | os.PathLike[str], labels: Sequence[str], split: str = "test") -> LabelledImages:
    """The labelled images in a folder, their labels as indices into ``labels``.

    Looked for in this order: the two IDX files of the split, gzipped or not, as MNIST names them, labels being indices; a
    sub-folder named like the split with a folder for each label; a sub-folder for each label. A label's ``/`` is ``_`` in a folder's
    name. Not every label needs a folder, but every folder needs a label.

    Raises DataError where none of these exists, or the labels are not the model's.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; expected {' or '.join(SPLITS)}")
    if not folder.is_dir():
        hint = ""
        if len(folder.parts) == 1 and not folder.suffix:
            hint = f"; give a folder, not a data set's name: what training fetched lies in {downloads_folder() / 'datasets'}"
        raise DataNotFoundError(f"no such folder: {folder}{hint}", folder)
    folder = _torchvision_folder(folder)
    image_file, classes = (_find_idx(folder, f"{SPLITS[split]}-{part}") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if image_file and classes:
        return _from_idx(image_file, classes, labels)
    if image_file or classes:
        missing = f"{SPLITS[split]}-{'labels-idx1-ubyte' if image_file else 'images-idx3-ubyte'}"
        raise DataError(f"{folder} holds {(image_file or classes or folder).name} and not {missing}, with or without .gz: put it there too")
    part = folder / split
    has_parts = part.is_dir() and any(path.is_dir() and not path.name.startswith(".") for path in part.iterdir())
    if not has_parts:
        return _from_folders(folder, labels)
    found = _from_folders(part, labels)
    beside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name not in _PARTS]
    more = sum((Counter(passed_over(path, ())) for path in beside), Counter(found.passed_over))
    return dataclasses.replace(found, passed_over=dict(sorted(more.items(), key=lambda item: (-item[1], item[0]))))


def trained_on(sha256: str, folder: Path, split: str, labelled: LabelledImages) -> bool:
    """Whether the model was trained on them: ``sha256`` is from the model's provenance, ``labelled`` was found in ``folder``.

    True for the training part of the same four IDX files, and for the same folder of images, a few of which training holds out
    for its tests.
    """
    folder = _torchvision_folder(folder)
    if isinstance(labelled.images, np.ndarray):
        parts = ("images-idx3-ubyte", "labels-idx1-ubyte")
        files = [_find_idx(folder, f"{SPLITS[each]}-{part}") for each in ("train", "test") for part in parts]
        return split == "train" and None not in files and idx_sha256([read_idx(path) for path in files if path]) == sha256
    try:
        return folder_sha256(folder, {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in labelled.images}) == sha256
    except OSError:  # which evaluating reports, image by image
        return False


def _torchvision_folder(folder: Path) -> Path:
    """``folder/MNIST/raw`` where torchvision put the IDX files there (any data set's name), and ``folder`` holds none; else ``folder``."""
    raw = [path for path in sorted(folder.glob("*/raw")) if any(path.glob("*-idx?-ubyte*"))]
    return raw[0] if len(raw) == 1 and not any(folder.glob("*-idx?-ubyte*")) else folder


def _find_idx(folder: Path, stem: str) -> Path | None:
    names = [spelling + ending for spelling in (stem, stem.replace("-idx", ".idx")) for ending in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _from_idx(image_file: Path, classes: Path, labels: Sequence[str]) -> LabelledImages:
    images, indices = read_idx(image_file), read_idx(classes)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(f"{image_file}: expected uint8 images (n, height, width), got {images.dtype} {images.shape}")
    if indices.shape != images.shape[:1] or indices.dtype != np.uint8:
        raise DataError(f"{classes}: expected one uint8 label for each of {len(images)} images, got {indices.dtype} {indices.shape}")
    if not len(images):
        raise DataError(f"{image_file}: holds no images")
    if indices.max() >= len(labels):
        raise DataError(
            f"{classes}: holds the label {indices.max()}, and the model knows {len(labels)} (0 to {len(labels) - 1}); is it another set?"
        )
    names = [f"{image_file.name}[{i}]" for i in range(len(images))]
    return LabelledImages(names, indices.tolist(), images, f"{image_file.name}, {len(images)} images")


def _from_folders(folder: Path, labels: Sequence[str]) -> LabelledImages:
    found = list_labelled_images(folder)
    folders = [label.replace("/", "_") for label in labels]
    same = [unicodedata.normalize("NFC", name) for name in folders]  # macOS may spell é as e and an accent
    index_of = {name: index for index, name in reversed(list(enumerate(same)))}  # the first, should two labels be spelt alike
    unknown = [name for name in found if unicodedata.normalize("NFC", name) not in index_of]
    if unknown:
        raise DataError(f"{folder}: sub-folders must be named by the model's labels, {_few(folders)}; it does not know {_few(unknown)}")
    paths = [path for each in found.values() for path in each]
    indices = [index_of[unicodedata.normalize("NFC", name)] for name, each in found.items() for _ in each]
    source = f"{folder}, {len(paths)} images in {len(found)} sub-folders"
    return LabelledImages(list(map(str, paths)), indices, paths, source, passed_over(folder, paths))


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
