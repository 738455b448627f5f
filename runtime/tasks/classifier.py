"""predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.images.batches import Key, image_batches
from onnxferry.runtime.images.decode import ImageInput, decode_images
from onnxferry.runtime.kinds import RECOGNISER
from onnxferry.runtime.tasks.model import Model, not_as_promised

if TYPE_CHECKING:
    from onnxferry.runtime.engine.engine import Engine


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Prediction:
    """What a recogniser says of one image."""

    label: str  # name of the likeliest class
    index: int  # its place in the model's labels
    probability: float  # of that class, 0 to 1
    probabilities: np.ndarray  # float32 (classes,), in the order of the model's labels

    def __repr__(self) -> str:
        return f"Prediction(label={self.label!r}, probability={self.probability:.4f})"


class Classifier(Model):
    """A recogniser: images of any size in, a class for each out.

    The graph resizes and normalises; here images are only decoded, brought to its number of channels, and batched.
    """

    noun = RECOGNISER.noun

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.channels = _check_recogniser(engine)

    def predict(self, x: ImageInput | list[Any] | tuple[Any, ...], batch_size: int | None = None) -> list[Prediction]:
        """One :class:`Prediction` for each image, in the order given, also for one.

        ``x``: a path, an encoded file's bytes, a PIL image, a uint8 array (height, width) or (height, width, 1 | 3), a list of
        such of any sizes, or an array (n, height, width, 1 | 3). Images of one size run together, up to ``batch_size`` at a time
        (None: 64, or what tuning found best).
        Raises InputError for what cannot be read as an image.
        """
        predictions = dict(self.predict_each(enumerate(decode_images(x)), batch_size))
        return [predictions[position] for position in range(len(predictions))]

    def predict_each(self, images: Iterable[tuple[Key, np.ndarray]], batch_size: int | None = None) -> Iterator[tuple[Key, Prediction]]:
        """A stream of any length: pairs of a key and a uint8 image (height, width, 1 | 3) in, of the key and its prediction out.

        Comes out in the order in which batches of one size fill up. Holds a bounded number of images at a time.
        """
        for batch in image_batches(images, self.channels, self.good_batch if batch_size is None else batch_size):
            yield from self._predict_batch(batch)

    def _predict_batch(self, batch: list[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Prediction]]:
        """``batch``: keys and uint8 images (height, width, channels) of one shape."""
        stacked = np.stack([image for _, image in batch])  # (batch, height, width, channels)
        outputs = self.engine.run({"image": stacked}, ["probabilities", "class_index"])
        probabilities, indices = outputs["probabilities"], outputs["class_index"]  # (batch, classes), (batch,)
        wanted = (len(batch), len(self.labels))
        if probabilities.shape != wanted or indices.shape != wanted[:1] or indices.min() < 0 or indices.max() >= wanted[1]:
            raise ArtifactError(
                f"{self.engine.path} gives probabilities {probabilities.shape} and class_index {indices.shape} for {len(batch)} images "
                f"and {len(self.labels)} labels, expected {wanted} and {wanted[:1]}; export the model again"
            )
        if not np.isfinite(probabilities).all():
            raise ArtifactError(f"{self.engine.path} gives probabilities that are not finite; `onnxferry check` may say more")
        for (key, _), index, row in zip(batch, indices.tolist(), probabilities, strict=True):
            yield key, Prediction(self.labels[index], index, float(row[index]), row)


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
