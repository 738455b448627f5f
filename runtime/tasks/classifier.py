"""Recognisers: images in, a class with its probability out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.images.batches import Key, image_batches
from onnxferry.runtime.images.decode import ImageInput
from onnxferry.runtime.images.inputs import ImagesInput, OnError, decode_each, decode_images
from onnxferry.runtime.kinds import RECOGNISER
from onnxferry.runtime.tasks.model import Model, not_as_promised

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


UNKNOWN = "unknown"
"""The output of some recognisers, float32 (batch,): the probability that an image is of none of the classes."""


UNKNOWN_THRESHOLD = "unknown_threshold"
"""The contract's option that belongs to it: an image above it is taken to be of no class."""


class Ranked(NamedTuple):
    """One class of a prediction."""

    label: str
    probability: float  # 0 to 1


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Prediction:
    """What a recogniser says about one image.

    prediction.label, prediction.probability
    prediction.top(3)                   # the likeliest three
    json.dumps(prediction.to_dict(top=3))
    """

    label: str  # name of the likeliest class
    index: int  # its place in the model's labels
    probability: float  # of that class, 0 to 1
    probabilities: np.ndarray  # float32 (classes,), in the order of the model's labels
    labels: tuple[str, ...] = ()  # the model's, one a class
    unknown: float | None = None  # probability that the image is of no class, 0 to 1; None for a model that does not tell
    known: bool = True  # False where ``unknown`` is above the model's threshold

    def top(self, k: int = 5) -> list[Ranked]:
        """The ``k`` likeliest classes as pairs (label, probability), best first; all of them where there are fewer.

        The predicted class is always the first, also where another one is exactly as likely. Raises InputError for k below 1.
        """
        return [Ranked(self._label(index), float(self.probabilities[index])) for index in self._likeliest(k)]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """For JSON: ``label``, ``index`` and ``probability``; with ``top`` also the list ``top`` of as many such dicts, best first.

        ``unknown`` and ``known`` too, where the model tells whether an image is of any class.
        """
        best: dict[str, Any] = {"label": self.label, "index": self.index, "probability": self.probability}
        if self.unknown is not None:
            best |= {"unknown": self.unknown, "known": self.known}
        if top is None:
            return best
        indices = self._likeliest(top)
        ranked = [{"label": self._label(i), "index": i, "probability": float(self.probabilities[i])} for i in indices]
        return {**best, "top": ranked}

    def _likeliest(self, k: int) -> list[int]:
        order = np.argsort(-self.probabilities, kind="stable").tolist()
        return [self.index, *(index for index in order if index != self.index)][: whole_number("k", k, 1)]

    def _label(self, index: int) -> str:
        return self.label if index == self.index else self.labels[index] if self.labels else str(index)

    def __repr__(self) -> str:
        unknown = "" if self.known else f", known=False, unknown={self.unknown:.4f}"
        return f"Prediction(label={self.label!r}, probability={self.probability:.4f}{unknown})"


class Predictions(list[Prediction]):
    """The list that ``predict`` returns. A notebook shows it as a table."""

    _MOST_SHOWN = 20

    def __getattr__(self, name: str) -> Any:
        if name in ("label", "probability", "probabilities", "top", "to_dict"):
            raise AttributeError(
                f"predict returns a list, one prediction an image or row, and a list has no {name!r}; use predict_one(…).{name} for one"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _repr_html_(self) -> str:
        """What IPython shows."""
        from html import escape

        rows = "".join(
            f"<tr><td>{position}</td><td>{escape(each.label)}</td><td>{each.probability:.2%}</td></tr>"
            for position, each in enumerate(self[: self._MOST_SHOWN])
        )
        more = f"<p>{len(self) - self._MOST_SHOWN} more</p>" if len(self) > self._MOST_SHOWN else ""
        return f"<table><thead><tr><th></th><th>label</th><th>probability</th></tr></thead><tbody>{rows}</tbody></table>{more}"


class Classifier(Model):
    """A recogniser: images of any size in, a class for each out.

    The graph resizes and normalizes; this class decodes images, converts them to the number of channels, and batches them.
    """

    noun = RECOGNISER.noun

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        self.channels = _check_recogniser(engine)
        self._one_by_one = engine.inputs[0].shape[0] == 1
        self._unknown_above = _unknown_threshold(engine)

    @property
    def tells_unknown(self) -> bool:
        """Whether predictions say if an image is of any class at all: ``unknown`` and ``known``."""
        return self._unknown_above is not None

    def predict(self, x: ImagesInput, batch_size: int | None = None) -> Predictions:
        """One :class:`Prediction` for each image, in the order given; a list also for one image.

            model.predict("three.png")
            model.predict(["three.png", "seven.jpg"])
            model.predict("photos/")                # all images in a folder, sorted by name
            model.predict(x_test[:100])             # uint8 (100, 28, 28)

        ``x``: a path, the bytes of an encoded file, a PIL image, a uint8 array (height, width) or (height, width, 1 | 3), a folder
        of images; a list, generator or other iterable of such images, of any sizes; or an array of many images, (n, height, width)
        or (n, height, width, 1 | 3).
        An array with three axes is one image where its last axis is 1 or 3, and else n grey images. Grey images whose width
        is 1, 3 or 4 are given as (n, height, width, 1). A model that takes colour refuses (3, height, width), which may be one image
        with its channels first.
        ``batch_size``: that many images of one size run together at most; None for 64, or what tuning found best.

        Raises InputError for what cannot be read as an image (:meth:`predict_each` can go on with the others), DataError for a
        folder without images.
        """
        images = decode_images(x, self.channels)
        predictions = dict(self.predict_each(enumerate(images), batch_size))
        return Predictions(predictions[position] for position in range(len(predictions)))

    def predict_one(self, image: ImageInput) -> Prediction:
        """The :class:`Prediction` for one image: a path, bytes, an open file, a PIL image or an array, as :meth:`predict` takes it.

            model.predict_one("three.png").label

        Raises InputError for what cannot be read as one image, as a list or a folder.
        """
        (found,) = self.predict_each([(0, image)])
        return found[1]

    @overload
    def predict_each(
        self, images: Iterable[tuple[Key, ImageInput]], batch_size: int | None = None, *, on_error: OnError = "raise"
    ) -> Iterator[tuple[Key, Prediction]]: ...

    @overload
    def predict_each(
        self, images: ImagesInput, batch_size: int | None = None, *, on_error: OnError = "raise"
    ) -> Iterator[tuple[Any, Prediction]]: ...

    def predict_each(
        self, images: ImagesInput | Iterable[tuple[Any, ImageInput]], batch_size: int | None = None, *, on_error: OnError = "raise"
    ) -> Iterator[tuple[Any, Prediction]]:
        """A stream of any length: keys and predictions, while only a bounded number of images is held in memory.

            for path, prediction in model.predict_each("photos/", on_error="skip"):
                print(path, prediction.label)

        ``images``: pairs of a key and an image, or images as :meth:`predict` takes them, whose key is the path for a path and
        else the position. The predictions come in the order in which batches of images of one size fill up.
        ``on_error``: what happens for an image that cannot be read: ``"raise"`` InputError, ``"skip"`` it, or a function that is
        called with its key and the error. Errors of the model itself are always raised.
        """
        decoded = decode_each(images, on_error, self.channels)
        return self._predict_each(image_batches(decoded, self.channels, self._rows_together(batch_size)))

    def _rows_together(self, batch_size: int | None) -> int:
        """As asked; 1 for a graph whose batch is fixed at 1, as many files from elsewhere have it."""
        asked = whole_number("batch_size", self.good_batch if batch_size is None else batch_size, 1)
        return 1 if self._one_by_one else asked

    def _predict_each(self, batches: Iterator[list[tuple[Any, np.ndarray]]]) -> Iterator[tuple[Any, Prediction]]:
        for batch in batches:
            yield from self._predict_batch(batch)

    def _predict_batch(self, batch: list[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Prediction]]:
        """``batch``: keys and uint8 images (height, width, channels) of one shape."""
        stacked = np.stack([image for _, image in batch])  # (batch, height, width, channels)
        outputs = self.engine.run({"image": stacked}, self.needed_outputs)
        for (key, _), prediction in zip(batch, self.predictions(outputs, len(batch)), strict=True):
            yield key, prediction

    @property
    def needed_outputs(self) -> list[str]:
        """The names of the outputs that predictions are made of."""
        return ["probabilities", "class_index", *([UNKNOWN] if self.tells_unknown else [])]

    def predictions(self, outputs: Mapping[str, Any], count: int) -> list[Prediction]:
        """One for each of ``count`` images, from the graph's outputs by name: :attr:`needed_outputs`, as ``run`` returns them.

        Raises ArtifactError for outputs that cannot be right: of another shape, not finite, not from 0 to 1.
        """
        labels = self.labels
        probabilities, indices = outputs["probabilities"], outputs["class_index"]  # (batch, classes), (batch,)
        wanted = (count, len(labels))
        if probabilities.shape != wanted or indices.shape != wanted[:1] or indices.min() < 0 or indices.max() >= wanted[1]:
            raise ArtifactError(
                f"{self.engine.path} gives probabilities {probabilities.shape} and class_index {indices.shape} for {count} images "
                f"and {len(labels)} labels, expected {wanted} and {wanted[:1]}; export the model again"
            )
        if not np.isfinite(probabilities).all():
            raise ArtifactError(f"{self.engine.path} gives probabilities that are not finite; `onnxferry check` may say more")
        if not _are_shares(probabilities):
            raise ArtifactError(
                f"{self.engine.path} gives probabilities from {probabilities.min():.4g} to {probabilities.max():.4g}, expected 0 to 1; "
                "export the model again"
            )
        found = []
        for index, row, score in zip(indices.tolist(), probabilities, self._unknown(outputs, count), strict=True):
            known = score is None or self._unknown_above is None or score <= self._unknown_above
            found.append(Prediction(labels[index], index, float(row[index]), row, labels, score, known))
        return found

    def _unknown(self, outputs: Mapping[str, Any], count: int) -> list[float] | list[None]:
        """Of each image the probability that it is of no class; None where the model does not tell."""
        if self._unknown_above is None:
            return [None] * count
        scores: np.ndarray = outputs[UNKNOWN]
        if scores.shape != (count,) or not np.isfinite(scores).all() or not _are_shares(scores):
            raise ArtifactError(
                f"{self.engine.path} gives {UNKNOWN} {scores.shape} for {count} images, expected ({count},), each 0 to 1; export it again"
            )
        found: list[float] = scores.tolist()
        return found


def _are_shares(probabilities: np.ndarray) -> bool:
    """Whether all are 0 to 1, with room for the rounding of 8-bit variants."""
    room = 1e-2
    return bool((probabilities >= -room).all() and (probabilities <= 1 + room).all())


def _unknown_threshold(engine: Runner) -> float | None:
    """Above which score an image is of no class; None where the file does not tell. Raises ArtifactError for what is no threshold."""
    options = engine.contract.options if engine.contract else {}
    if UNKNOWN_THRESHOLD not in options:
        return None
    threshold = options[UNKNOWN_THRESHOLD]
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ArtifactError(
            f"{engine.path}: {UNKNOWN_THRESHOLD} is {threshold!r:.40}, expected a number from 0 to 1; export the model again"
        )
    if not any(spec.name == UNKNOWN and spec.dtype == "float32" for spec in engine.outputs):
        raise not_as_promised(engine, Classifier.noun, f"an output {UNKNOWN}, float32", engine.outputs)
    return float(threshold)


def _check_recogniser(engine: Runner) -> int:
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
