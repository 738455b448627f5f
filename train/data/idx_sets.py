"""Image sets as four IDX files, MNIST's format: found on this machine or downloaded, and verified in both cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError, DataNotFoundError
from onnxferry.runtime.files import downloads_folder
from onnxferry.runtime.images.idx import idx_sha256, read_idx
from onnxferry.train.data.download import fetch
from onnxferry.train.data.progress import Progress, no_progress

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class IdxSet:
    """A published set: its name, the hashes of its files, and where they can be found."""

    title: str
    classes: tuple[str, ...]
    sha256: tuple[str, ...]  # of the four files unpacked, in the order of PARTS
    mirrors: tuple[str, ...]  # addresses of folders that hold PARTS, gzipped; tried in order
    sizes: tuple[int, ...] = (47_040_016, 60_008, 7_840_016, 10_008)  # of the four files unpacked, bytes
    subfolders: tuple[str, ...] = ()  # of the folder that the user names: the files may be there too
    installed: tuple[Path, ...] = ()  # where a package of the operating system puts them


IDX_SETS = {
    "mnist": IdxSet(
        title="MNIST",
        classes=tuple(str(digit) for digit in range(10)),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        # yann.lecun.com, the origin, no longer serves them.
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
        subfolders=("mnist", "MNIST", "MNIST/raw"),  # the last is torchvision's
    ),
    "fashion-mnist": IdxSet(
        title="Fashion-MNIST",
        classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        subfolders=("fashion-mnist", "FashionMNIST", "FashionMNIST/raw"),
        installed=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian: dataset-fashion-mnist
    ),
}


@dataclass(frozen=True, eq=False)
class IdxData:
    name: str
    classes: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]  # uint8 (n, height, width, 1), int64 (n,)
    test: tuple[np.ndarray, np.ndarray]
    sha256: str  # of the four files, unpacked, one after the other in the order of PARTS
    source: str


def has_idx_files(folder: Path) -> bool:
    """True if ``folder`` holds any of the four files, under any of their usual names."""
    return any(find_part(folder, part) for part in PARTS)


def find_part(folder: Path, part: str) -> Path | None:
    """``part``, one of PARTS, in ``folder``: gzipped or not, with a dash or a dot before ``idx``."""
    spellings = [folder / (stem + ending) for stem in (part, part.replace("-idx", ".idx")) for ending in ("", ".gz")]
    return next((path for path in spellings if path.is_file()), None)


def read_idx_set(name: str | None, data: Path | None, progress: Progress = no_progress) -> IdxData:
    """The set ``name`` of IDX_SETS, or with None the four files in the folder ``data``, whatever set they are.

    With ``data`` the files must be there; otherwise they are taken from the system's package, the cache, or the mirrors.
    Raises DataError for files that are missing, broken, or not the published ones.
    """
    paths = _find(name, data, progress)
    arrays = [read_idx(path) for path in paths]
    digests, whole = [idx_sha256([array]) for array in arrays], idx_sha256(arrays)
    if name is None:
        name = next((known for known, idx_set in IDX_SETS.items() if idx_set.sha256 == tuple(digests)), None)
        if name is None:
            return _unpublished(paths, arrays, whole)
    known = IDX_SETS[name]
    for path, digest, expected in zip(paths, digests, known.sha256, strict=True):
        if digest != expected:
            raise DataError(
                f"{path} is not {known.title}'s file of that name: its content has the SHA-256 {digest[:12]}…, "
                f"expected {expected[:12]}…; replace it, or delete it to have it downloaded"
            )
    source = f"{known.title}, the published files"
    return IdxData(name, known.classes, _pair(arrays[0], arrays[1]), _pair(arrays[2], arrays[3]), whole, source)


def _find(name: str | None, data: Path | None, progress: Progress) -> list[Path]:
    """The four files, in the order of PARTS."""
    known = IDX_SETS[name] if name is not None else None
    if data is not None:
        if not data.is_dir():
            raise DataNotFoundError(f"no such folder: {data}", data)
        folders = [data, *(data / sub for sub in (known.subfolders if known else ()))]
        folder = next((folder for folder in folders if has_idx_files(folder)), data)
        found = {part: find_part(folder, part) for part in PARTS}
        missing = [part for part, path in found.items() if path is None]
        if missing:
            title = known.title if known else "a set of IDX files"
            raise DataError(f"{title} is not whole in {folder}: expected {', '.join(missing)} (gzipped or not)")
        return [path for path in found.values() if path is not None]
    if name is None or known is None:
        raise ValueError("expected a name or a folder")
    for folder in known.installed:
        parts = [path for part in PARTS if (path := find_part(folder, part))]
        if len(parts) == len(PARTS):
            return parts
    cache = downloads_folder() / "datasets" / name
    expected = zip(PARTS, known.sha256, known.sizes, strict=True)
    return [find_part(cache, part) or _fetch_part(name, known, part, sha256, size, cache, progress) for part, sha256, size in expected]


def _fetch_part(name: str, known: IdxSet, part: str, sha256: str, size: int, cache: Path, progress: Progress) -> Path:
    file = f"{part}.gz"
    try:
        return fetch(f"{known.title}'s {file}", [f"{mirror}/{file}" for mirror in known.mirrors], sha256, size, cache / file, progress)
    except DataError as error:
        raise DataError(
            f"{error}\nAll that is needed: {', '.join(f'{part}.gz' for part in PARTS)} (or unpacked), in {cache}, "
            f"or in a folder that you name: --dataset {name} --data FOLDER"
        ) from error


def _unpublished(paths: list[Path], arrays: list[np.ndarray], sha256: str) -> IdxData:
    """Any other set in this format (KMNIST, the user's own): the classes are the numbers that occur."""
    for images_at, labels_at in ((0, 1), (2, 3)):
        images, labels = arrays[images_at], arrays[labels_at]
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != arrays[0].shape[1:] or 0 in images.shape:
            raise DataError(
                f"{paths[images_at]}: expected grey images, uint8 (n, height, width), all of the training images' size "
                f"{arrays[0].shape[1:]}, got {images.dtype} {images.shape}"
            )
        if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
            raise DataError(f"{paths[labels_at]}: expected {len(images)} labels, uint8 ({len(images)},), got {labels.dtype} {labels.shape}")
    classes, places = np.unique(np.concatenate([arrays[1], arrays[3]]), return_inverse=True)
    train, test = np.split(places, [len(arrays[1])])
    return IdxData(
        name=paths[0].parent.resolve().name,
        classes=tuple(str(number) for number in classes),
        train=_pair(arrays[0], train),
        test=_pair(arrays[2], test),
        sha256=sha256,
        source="IDX files of one's own",
    )


def _pair(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images[..., np.newaxis], labels.astype(np.int64)
