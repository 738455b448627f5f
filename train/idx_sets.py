"""Image sets kept as four IDX files, MNIST's format: found on this machine, or downloaded; checked either way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError
from onnxferry.runtime.pictures import read_idx

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class IdxSet:
    """A published set: what it is called, where it may lie, where it is fetched, what its bytes are."""

    title: str
    classes: tuple[str, ...]
    sha256: tuple[str, str, str, str]  # of the four files unpacked, in the order of PARTS
    mirrors: tuple[str, ...]  # folders that hold PARTS with .gz behind, tried in order
    places: tuple[Path, ...] = ()  # folders where a system's package puts the files


IDX_SETS = {
    "mnist": IdxSet(
        "MNIST",
        tuple(str(digit) for digit in range(10)),
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    ),
    "fashion-mnist": IdxSet(
        "Fashion-MNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
        (Path("/usr/share/datasets/fashion-mnist"),),
    ),
}


@dataclass(frozen=True, eq=False)
class IdxData:
    classes: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]  # uint8 (n, height, width, 1), int64 (n,)
    test: tuple[np.ndarray, np.ndarray]
    sha256: str
    source: str


def find_parts(folder: Path) -> list[Path] | None:
    """The four files in ``folder`` in the order of PARTS, under any of their usual names; None unless all are there."""
    found = []
    for part in PARTS:
        stems = (part, part.replace("-idx", ".idx"))
        spellings = [folder / (stem + ending) for stem in stems for ending in ("", ".gz")]
        there = next((path for path in spellings if path.is_file()), None)
        if there is None:
            return None
        found.append(there)
    return found


def read_idx_set(name: str, data: Path | None) -> IdxData:
    known = IDX_SETS[name]
    folders = [data, data / name] if data is not None else list(known.places)
    parts = next((parts for parts in map(find_parts, folders) if parts), None)
    if parts is None:
        raise DataError(f"{known.title} was not found: expected {', '.join(PARTS)} (gzipped or not) in {data}")
    arrays = [read_idx(path) for path in parts]
    digest = hashlib.sha256()
    for path, array, expected in zip(parts, arrays, known.sha256, strict=True):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        if hashlib.sha256(header + array.tobytes()).hexdigest() != expected:
            raise DataError(f"{path} is not {known.title}'s file of that name: its SHA-256 differs; fetch it again")
        digest.update(header)
        digest.update(array.data)
    train = arrays[0][..., None], arrays[1].astype(np.int64)
    test = arrays[2][..., None], arrays[3].astype(np.int64)
    return IdxData(known.classes, train, test, digest.hexdigest(), f"{known.title}, the published files")
