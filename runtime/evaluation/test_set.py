"""Pictures whose labels are known: IDX files, or a folder with one sub-folder a label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError
from onnxferry.runtime.files import downloads_folder
from onnxferry.runtime.images.folders import folder_sha256, list_labelled_pictures
from onnxferry.runtime.images.idx import idx_sha256, read_idx

SPLITS = {"test": "t10k", "train": "train"}
"""Split to how MNIST's files of it begin."""


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Names, label indices and pictures, all of one length. Pictures in files are still to be decoded."""

    names: Sequence[str]
    indices: Sequence[int]
    pictures: Sequence[Path] | np.ndarray  # the array is uint8 (n, height, width)
    source: str  # in words

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[str, int, Path | np.ndarray]]:
        return zip(self.names, self.indices, self.pictures, strict=True)


def find_labelled_pictures(folder: str | os.PathLike[str], labels: Sequence[str], split: str = "test") -> LabelledPictures:
    """The labelled pictures in a folder, their labels as indices into ``labels``.

    Looked for in this order: the two IDX files of the split, gzipped or not, as MNIST names them, labels being indices; a
    sub-folder named like the split with one sub-folder a label; one sub-folder a label. A label's ``/`` is ``_`` in a folder's
    name. Not every label needs a folder, but every folder needs a label.

    Raises DataError where none of them is there, or the labels are not the model's.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; expected {' or '.join(SPLITS)}")
    if not folder.is_dir():
        hint = ""
        if len(folder.parts) == 1 and not folder.suffix:
            hint = f"; give a folder, not a data set's name: what training fetched lies in {downloads_folder() / 'datasets'}"
        raise DataError(f"no such folder: {folder}{hint}")
    images, classes = (_find_idx(folder, f"{SPLITS[split]}-{part}") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if images and classes:
        return _from_idx(images, classes, labels)
    if images or classes:
        missing = f"{SPLITS[split]}-{'labels-idx1-ubyte' if images else 'images-idx3-ubyte'}"
        raise DataError(f"{folder} holds {(images or classes or folder).name} and not {missing}, with or without .gz: put it there too")
    part = folder / split
    has_parts = part.is_dir() and any(path.is_dir() for path in part.iterdir())
    return _from_folders(part if has_parts else folder, labels)


def trained_on(sha256: str, folder: Path, split: str, labelled: LabelledPictures) -> bool:
    """Whether training has seen them: ``sha256`` is what a model's provenance says of its data, ``labelled`` was found in ``folder``.

    True for the training part of the same four IDX files, and for the same folder of pictures, of which training keeps a few for
    its tests.
    """
    if isinstance(labelled.pictures, np.ndarray):
        parts = ("images-idx3-ubyte", "labels-idx1-ubyte")
        files = [_find_idx(folder, f"{SPLITS[each]}-{part}") for each in ("train", "test") for part in parts]
        return split == "train" and None not in files and idx_sha256([read_idx(path) for path in files if path]) == sha256
    try:
        return folder_sha256(folder, {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in labelled.pictures}) == sha256
    except OSError:  # which evaluating tells, picture by picture
        return False


def _find_idx(folder: Path, stem: str) -> Path | None:
    names = [spelling + ending for spelling in (stem, stem.replace("-idx", ".idx")) for ending in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _from_idx(images: Path, classes: Path, labels: Sequence[str]) -> LabelledPictures:
    pictures, indices = read_idx(images), read_idx(classes)
    if pictures.ndim != 3 or pictures.dtype != np.uint8:
        raise DataError(f"{images}: expected uint8 pictures (n, height, width), got {pictures.dtype} {pictures.shape}")
    if indices.shape != pictures.shape[:1] or indices.dtype != np.uint8:
        raise DataError(f"{classes}: expected one uint8 label for each of {len(pictures)} pictures, got {indices.dtype} {indices.shape}")
    if not len(pictures):
        raise DataError(f"{images}: holds no pictures")
    if indices.max() >= len(labels):
        raise DataError(
            f"{classes}: holds the label {indices.max()}, and the model knows {len(labels)} (0 to {len(labels) - 1}); is it another set?"
        )
    names = [f"{images.name}[{i}]" for i in range(len(pictures))]
    return LabelledPictures(names, indices.tolist(), pictures, f"{images.name}, {len(pictures)} pictures")


def _from_folders(folder: Path, labels: Sequence[str]) -> LabelledPictures:
    found = list_labelled_pictures(folder)
    folders = [label.replace("/", "_") for label in labels]
    index_of = {name: index for index, name in reversed(list(enumerate(folders)))}  # the first, should two labels be spelt alike
    unknown = [name for name in found if name not in index_of]
    if unknown:
        raise DataError(f"{folder}: sub-folders must be named by the model's labels, {_few(folders)}; it does not know {_few(unknown)}")
    paths = [path for each in found.values() for path in each]
    indices = [index_of[name] for name, each in found.items() for _ in each]
    return LabelledPictures(list(map(str, paths)), indices, paths, f"{folder}, {len(paths)} pictures in {len(found)} sub-folders")


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
