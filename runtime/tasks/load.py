"""Models that know their task: ``load`` opens a file or a shipped model and gives the object that its contract asks for.

from onnxferry.runtime import load

for prediction in load("digits").predict(["three.png", "seven.jpg"]):
    print(prediction.label, prediction.probability)
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.variants import decoder_path, original_path, variants_of
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine.engine import Engine, TensorSpec
from onnxferry.runtime.engine.open import runs_on
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.images.decode import Picture, decode_pictures, with_channels
from onnxferry.runtime.onnx_file.reader import Limits

Key = TypeVar("Key")


Task = TypeVar("Task", bound="Model")


BATCH = 64
"""Inputs that run together where nobody says how many."""


_HELD_BYTES = 16 * 2**20
"""Decoded pictures wait for others of their size to fill a batch; beyond this many bytes, all that wait are run.
It also bounds a batch of large photos, of which the graph makes float32 copies."""


def load(
    name_or_path: str | os.PathLike[str],
    device: str = "auto",
    threads: int | None = None,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    tune: bool = False,
    limits: Limits | None = None,
    variant: str | None = None,
) -> Model:
    """Opens a model: an existing path or a name ending in ``.onnx`` is a file, anything else the name of a shipped model.

    ``device``: ``"auto"``, ``"cpu"`` or ``"cuda"``. ``threads``: None for as many as this process may use.
    ``providers``: ONNX Runtime's execution providers in order, instead of ``device``. ``tune``: run it the fastest way that is
    proved good enough here (see :mod:`onnxferry.runtime.tuning.tune`): finding that takes up to 20 seconds and is then remembered.
    ``variant``: the tag of a certified variant beside the file, such as ``"int8"`` (see :mod:`onnxferry.runtime.artifact.variants`), which
    is opened instead, on the device that it is certified for; None opens the file itself. Of an autoencoder, each of its two files
    that has such a variant.
    ``limits``: how much a file may hold; raise them (``Limits(depth=40)`` of :mod:`onnxferry.runtime.onnx_file.reader`) for one you trust.

    Returns a :class:`Classifier` for a recogniser, a :class:`~onnxferry.runtime.tasks.text_generator.TextGenerator`, an
    :class:`~onnxferry.runtime.tasks.image_generator.ImageGenerator`, an
    :class:`~onnxferry.runtime.tasks.autoencoder.Autoencoder` (its decoder's file is found beside it), or a plain :class:`Model` for a file
    that carries no contract of ours.
    Raises ArtifactError for a file that cannot be opened or a variant that is not there or not for ``device``, DeviceError where the
    device asked for cannot be used here; with ``tune``, what :func:`onnxferry.runtime.tuning.tune.tune` raises.
    """

    path = find_model(name_or_path)
    if variant is not None and tune:
        raise InputError("give either variant=..., to choose one, or tune=True, to have it chosen")
    chosen = {} if variant is None else variants_of(path, variant, limits)
    for each in chosen.values():  # what a certificate says was seen on one device
        if (device != "auto" or providers is not None) and runs_on(device, providers) != each.device:
            raise ArtifactError(
                f"{each.path.name} is certified for {each.device} alone; leave the device out, or say device={each.device!r}"
            )

    def open_engine(original: Path) -> Engine:
        if tune:
            from onnxferry.runtime.tuning.tune import SECONDS
            from onnxferry.runtime.tuning.tuned_engine import open_tuned

            seconds = SECONDS / 2 if decoder_path(path).is_file() else SECONDS  # of an autoencoder, each half
            return open_tuned(original, device=device, threads=threads, providers=providers, limits=limits, seconds=seconds)
        if original in chosen:
            certified = chosen[original]
            where = certified.device if providers is None else device
            return Engine(certified.path, device=where, threads=threads, providers=providers, limits=limits)
        return Engine(original, device=device, threads=threads, providers=providers, limits=limits)

    return _model_from_engine(open_engine(path), open_engine)


def load_as(task: type[Task], name_or_path: str | os.PathLike[str], device: str = "auto", threads: int | None = None) -> Task:
    """As :func:`load`, for what must be of one kind, such as a :class:`Classifier`. Raises ArtifactError for any other file."""
    model = load(name_or_path, device, threads)
    if isinstance(model, task):
        return model
    model.close()
    what = f"its contract says {model.contract.kind}" if model.contract else "it carries no onnxferry contract"
    look = shlex.join(["onnxferry", "inspect", os.fspath(name_or_path)])
    raise ArtifactError(f"{os.fspath(name_or_path)} is not {task.noun}, {what}; see what it takes and gives: {look}")


def _model_from_engine(engine: Engine, open_engine: Callable[[Path], Engine]) -> Model:
    opened = [engine]

    def open_and_note(path: Path) -> Engine:
        opened.append(open_engine(path))
        return opened[-1]

    try:
        return _as_its_kind(engine, open_and_note)
    except BaseException:  # a graph that is not what its contract says: nobody else could close its sessions
        for each in opened:
            each.close()
        raise


def _as_its_kind(engine: Engine, open_engine: Callable[[Path], Engine]) -> Model:
    kind = engine.contract.kind if engine.contract else "model"
    if kind == "recogniser":
        return Classifier(engine)
    if kind == "text-generator":
        from onnxferry.runtime.tasks.text_generator import TextGenerator

        return TextGenerator(engine)
    if kind == "image-generator":
        from onnxferry.runtime.tasks.image_generator import ImageGenerator

        return ImageGenerator(engine)
    if kind == "encoder":
        from onnxferry.runtime.tasks.autoencoder import Autoencoder

        beside = None if engine.path is None else decoder_path(original_path(engine.path, engine.contract))
        return Autoencoder(engine, open_engine(beside) if beside is not None and beside.is_file() else None)
    return Model(engine)


class Model:
    """An open model: any ONNX file, dict of arrays in, dict of arrays out. Task classes add to it."""

    noun: ClassVar[str] = "a model"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def contract(self) -> Contract | None:
        """What the file says of itself; None where it is not one of ours."""
        return self.engine.contract

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order; empty where there are no classes."""
        return self.contract.labels if self.contract else ()

    @property
    def good_batch(self) -> int:
        """As many inputs as are best run together: what tuning found where the model is tuned, else 64."""
        return getattr(self.engine, "best_batch", BATCH)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by input name to arrays by output name, as :meth:`Engine.run`. Raises InputError for feeds that do not fit."""
        return self.engine.run(feeds)

    def close(self) -> None:
        """Frees the session. Running the model afterwards raises InputError."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self.contract.name if self.contract else ""
        classes = f", {len(self.labels)} classes" if self.labels else ""
        return f"{type(self).__name__}({name or str(self.engine.path)!r}, device={self.engine.device!r}{classes})"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Prediction:
    """What a recogniser says of one picture."""

    label: str  # name of the likeliest class
    index: int  # its place in the model's labels
    probability: float  # of that class, 0 to 1
    probabilities: np.ndarray  # float32 (classes,), in the order of the model's labels

    def __repr__(self) -> str:
        return f"Prediction(label={self.label!r}, probability={self.probability:.4f})"


class Classifier(Model):
    """A recogniser: pictures of any size in, a class for each out.

    The graph resizes and normalises; here pictures are only decoded, brought to its number of channels, and batched.
    """

    noun = "a recogniser"

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.channels = _check_recogniser(engine)

    def predict(self, x: Picture | list[Any] | tuple[Any, ...], batch_size: int | None = None) -> list[Prediction]:
        """One :class:`Prediction` for each picture, in the order given, also for one.

        ``x``: a path, an encoded file's bytes, a PIL image, a uint8 array (height, width) or (height, width, 1 | 3), a list of
        such of any sizes, or an array (n, height, width, 1 | 3). Pictures of one size run together, up to ``batch_size`` at a time
        (None: 64, or what tuning found best).
        Raises InputError for what cannot be read as a picture.
        """
        predictions = dict(self.predict_each(enumerate(decode_pictures(x)), batch_size))
        return [predictions[position] for position in range(len(predictions))]

    def predict_each(self, pictures: Iterable[tuple[Key, np.ndarray]], batch_size: int | None = None) -> Iterator[tuple[Key, Prediction]]:
        """A stream of any length: pairs of a key and a uint8 picture (height, width, 1 | 3) in, of the key and its prediction out.

        Comes out in the order in which batches of one size fill up. Holds a bounded number of pictures at a time.
        """
        for batch in picture_batches(pictures, self.channels, self.good_batch if batch_size is None else batch_size):
            yield from self._predict_batch(batch)

    def _predict_batch(self, batch: list[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Prediction]]:
        """``batch``: keys and uint8 pictures (height, width, channels) of one shape."""
        image = np.stack([picture for _, picture in batch])  # (batch, height, width, channels)
        outputs = self.engine.run({"image": image}, ["probabilities", "class_index"])
        probabilities, indices = outputs["probabilities"], outputs["class_index"]  # (batch, classes), (batch,)
        wanted = (len(batch), len(self.labels))
        if probabilities.shape != wanted or indices.shape != wanted[:1] or indices.min() < 0 or indices.max() >= wanted[1]:
            raise ArtifactError(
                f"{self.engine.path} gives probabilities {probabilities.shape} and class_index {indices.shape} for {len(batch)} pictures "
                f"and {len(self.labels)} labels, expected {wanted} and {wanted[:1]}; export the model again"
            )
        if not np.isfinite(probabilities).all():
            raise ArtifactError(f"{self.engine.path} gives probabilities that are not finite; `onnxferry check` may say more")
        for (key, _), index, row in zip(batch, indices.tolist(), probabilities, strict=True):
            yield key, Prediction(self.labels[index], index, float(row[index]), row)


def picture_batches(pictures: Iterable[tuple[Key, np.ndarray]], channels: int, batch_size: int) -> Iterator[list[tuple[Key, np.ndarray]]]:
    """Pictures of one shape, brought to ``channels``, up to ``batch_size`` together, in the order in which such batches fill up.

    Raises InputError for a batch size that is none.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    waiting: dict[tuple[int, ...], list[tuple[Key, np.ndarray]]] = {}  # by shape
    held = 0
    for key, decoded in pictures:
        picture = with_channels(decoded, channels)
        group = waiting.setdefault(picture.shape, [])
        group.append((key, picture))
        held += picture.nbytes
        if held > _HELD_BYTES:
            yield from waiting.values()
            waiting.clear()
            held = 0
        elif len(group) == batch_size:
            yield waiting.pop(picture.shape)
            held -= picture.nbytes * batch_size
    yield from waiting.values()


def _check_recogniser(engine: Engine) -> int:
    """The number of channels that the graph takes, 1 or 3. Raises ArtifactError where it is not the recogniser it says it is."""
    inputs = {spec.name: spec for spec in engine.inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    image = inputs.get("image")
    if list(inputs) != ["image"] or image is None or image.dtype != "uint8" or len(image.shape) != 4 or image.shape[3] not in (1, 3):
        raise not_as_promised(engine, Classifier.noun, "the one input image, uint8 (batch, height, width, 1 | 3)", engine.inputs)
    for name, dtype in (("probabilities", "float32"), ("class_index", "int64")):
        if name not in outputs or outputs[name].dtype != dtype:
            raise not_as_promised(engine, Classifier.noun, f"an output {name}, {dtype}", engine.outputs)
    labels = engine.contract.labels if engine.contract else ()
    if not labels:
        raise not_as_promised(engine, Classifier.noun, "labels, one a class", ())
    return int(image.shape[3] or 0)


def not_as_promised(engine: Engine, noun: str, expected: str, specs: Sequence[TensorSpec] | None = None) -> ArtifactError:
    """For a graph that is not the ``noun`` that its contract says it is. ``specs``: what it has in place of ``expected``; None for all."""
    found = (*engine.inputs, *engine.optional_inputs, *engine.outputs) if specs is None else specs
    got = ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in found) or "none"
    return ArtifactError(f"{engine.path or 'the model'} says that it is {noun}, which has {expected}; it has {got}; export it again")
