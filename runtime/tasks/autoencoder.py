"""Autoencoders: encode images to a few numbers, decode them, and score how unusual an image is.

    model = load("digits-ae")
    model.reconstruct("seven.png")              # uint8 (1, 28, 28)
    z = model.encode(["three.png", "eight.png"])  # float32 (2, 32)
    model.decode((z[:1] + z[1:]) / 2)             # halfway between the two
    model.anomaly_score("shoe.png") > model.threshold

Two files make one model: ``NAME.onnx``, the encoder, which also reconstructs and scores, and ``NAME.decoder.onnx`` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from onnxferry.runtime.artifact.variants import decoder_path as decoder_path
from onnxferry.runtime.artifact.variants import original_path
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.images.batches import Key, image_batches
from onnxferry.runtime.images.decode import ImageInput
from onnxferry.runtime.images.inputs import ImagesInput, OnError, decode_each, decode_images
from onnxferry.runtime.kinds import DECODER, ENCODER
from onnxferry.runtime.onnx_file.values import is_size
from onnxferry.runtime.tasks.model import MOST_NUMBERS, Model, not_as_promised, promised

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


DECODE_BATCH_SIZE = 256


_OUTPUTS = {"reconstruction": ("uint8", 4), "latent": ("float32", 2), "anomaly_score": ("float32", 1)}


class Autoencoder(Model):
    """Encodes, decodes, reconstructs and scores images of any size; the graph resizes them to ``size``."""

    noun = ENCODER.noun

    def __init__(self, engine: Runner, decoder: Runner | None) -> None:
        super().__init__(engine)
        self.decoder = decoder
        self.channels, self.size, self.latent = _check_encoder(engine)
        self._shapes = {"reconstruction": (self.size, self.size, self.channels), "latent": (self.latent,), "anomaly_score": ()}
        if decoder is not None:
            _check_decoder(engine, decoder, self.latent, (self.size, self.size, self.channels))

    @classmethod
    def from_engine(cls, engine: Runner, open_engine: Callable[[Path], Runner]) -> Self:
        """With the decoder whose file lies beside the encoder's, if there is one."""
        beside = None if engine.path is None else decoder_path(original_path(engine.path, engine.contract))
        return cls(engine, open_engine(beside) if beside is not None and beside.is_file() else None)

    @property
    def threshold(self) -> float:
        """The anomaly score that 99 of 100 held-out images stay below (the contract says how many of 100)."""
        options = self.contract.options if self.contract else {}
        value = options.get("anomaly_threshold")
        try:
            threshold = float(value) if isinstance(value, int | float) else math.nan
        except OverflowError:
            threshold = math.inf
        if not math.isfinite(threshold):
            raise ArtifactError(f"{self.engine.path} names no anomaly threshold in its contract; export it again")
        return threshold

    def reconstruct(self, x: ImagesInput, batch_size: int | None = None) -> np.ndarray:
        """Encode and decode images: uint8 (n, size, size), for a colour model (n, size, size, 3).

        ``x``: one image, a folder, an iterable or an array of images, as :meth:`Classifier.predict` takes them, of any sizes: the
        centred square of each is resampled in the graph.
        Raises InputError for what cannot be read as an image, DataError for a folder without images.
        """
        made = self._all(x, "reconstruction", (self.size, self.size, self.channels), np.uint8, batch_size)
        return made[..., 0] if self.channels == 1 else made

    def encode(self, x: ImagesInput, batch_size: int | None = None) -> np.ndarray:
        """Latents, float32 (n, latent); of a variational autoencoder, their means. ``x`` as for :meth:`reconstruct`."""
        return self._all(x, "latent", (self.latent,), np.float32, batch_size)

    def anomaly_score(self, x: ImagesInput, batch_size: int | None = None) -> np.ndarray:
        """The mean squared error of each reconstruction, float32 (n,), with pixels in 0 to 1. Higher is more unusual."""
        return self._all(x, "anomaly_score", (), np.float32, batch_size)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Latents, float (n, latent) → images, uint8 (n, size, size), for a colour model (n, size, size, 3).

        Raises InputError for latents of another width, ArtifactError where the decoder's file is not beside the encoder's.
        """
        if self.decoder is None:
            path = self.engine.path
            where = "it was opened from bytes" if path is None else f"expected {decoder_path(original_path(path, self.contract))}"
            raise ArtifactError(f"the decoder's file is missing, {where}; put it beside the encoder's, or export the model again")
        latents = np.asarray(z)
        if latents.ndim != 2 or latents.shape[1] != self.latent or latents.dtype.kind != "f":
            raise InputError(f"latents must be float32 (n, {self.latent}), got {latents.dtype} {latents.shape}")
        if not np.isfinite(latents).all():
            raise InputError("latents must be finite numbers")
        latents = latents.astype(np.float32)
        parts = [np.zeros((0, self.size, self.size, self.channels), np.uint8)]
        for start in range(0, len(latents), DECODE_BATCH_SIZE):
            part = latents[start : start + DECODE_BATCH_SIZE]
            drawn = self.decoder.run({"latent": part}, ["image"])
            parts.append(promised(self.decoder, drawn, "image", "uint8", (len(part), *self._shapes["reconstruction"])))
        made = np.concatenate(parts)
        return made[..., 0] if self.channels == 1 else made

    @overload
    def run_each(
        self, images: Iterable[tuple[Key, ImageInput]], outputs: list[str], batch_size: int | None = None, *, on_error: OnError = "raise"
    ) -> Iterator[tuple[Key, dict[str, np.ndarray]]]: ...

    @overload
    def run_each(
        self, images: ImagesInput, outputs: list[str], batch_size: int | None = None, *, on_error: OnError = "raise"
    ) -> Iterator[tuple[Any, dict[str, np.ndarray]]]: ...

    def run_each(
        self,
        images: ImagesInput | Iterable[tuple[Any, ImageInput]],
        outputs: list[str],
        batch_size: int | None = None,
        *,
        on_error: OnError = "raise",
    ) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
        """A stream of any length: keys and each image's row of the named outputs, while a bounded number of images is held in memory.

        ``images`` and ``on_error``: as :meth:`Classifier.predict_each` takes them. ``outputs``: of ``reconstruction``, ``latent`` and
        ``anomaly_score``. ``batch_size``: None for 64, or what tuning found best.
        """
        decoded = decode_each(images, on_error, self.channels)
        return self._run_each(image_batches(decoded, self.channels, self.good_batch if batch_size is None else batch_size), outputs)

    def _run_each(self, batches: Iterator[list[tuple[Any, np.ndarray]]], outputs: list[str]) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
        for batch in batches:
            made = self.engine.run({"image": np.stack([image for _, image in batch])}, outputs)
            for name in outputs:
                if name in _OUTPUTS:
                    promised(self.engine, made, name, _OUTPUTS[name][0], (len(batch), *self._shapes[name]))
            for row, (key, _) in enumerate(batch):
                yield key, {name: made[name][row] for name in outputs}

    def _all(self, x: Any, output: str, shape: tuple[int, ...], dtype: Any, batch_size: int | None) -> np.ndarray:
        rows = dict(self.run_each(enumerate(decode_images(x, self.channels)), [output], batch_size))
        return np.stack([rows[position][output] for position in range(len(rows))]) if rows else np.zeros((0, *shape), dtype)

    def close(self) -> None:
        super().close()
        if self.decoder is not None:
            self.decoder.close()


def _check_encoder(engine: Runner) -> tuple[int, int, int]:
    """Channels, side and latents. Raises ArtifactError where the graph is not what its contract says."""
    inputs, outputs = {spec.name: spec for spec in engine.inputs}, {spec.name: spec for spec in engine.outputs}
    image = inputs.get("image")
    if list(inputs) != ["image"] or image is None or image.dtype != "uint8" or len(image.shape) != 4 or image.shape[3] not in (1, 3):
        raise not_as_promised(engine, Autoencoder.noun, "the one input image, uint8 (batch, height, width, 1 | 3)")
    for name, (dtype, rank) in _OUTPUTS.items():
        if name not in outputs or outputs[name].dtype != dtype or len(outputs[name].shape) != rank:
            raise not_as_promised(engine, Autoencoder.noun, f"an output {name}, {dtype} with {rank} axes")
    side, latent = outputs["reconstruction"].shape[1], outputs["latent"].shape[1]
    if (
        not is_size(side)
        or not is_size(latent)
        or max(side, latent) > MOST_NUMBERS
        or outputs["reconstruction"].shape[2:] != (side, image.shape[3])
    ):
        raise not_as_promised(
            engine, Autoencoder.noun, "a reconstruction (batch, size, size, channels) and a latent (batch, n) of fixed sizes"
        )
    return int(image.shape[3] or 0), side, latent


def _check_decoder(engine: Runner, decoder: Runner, latent: int, shape: tuple[int, int, int]) -> None:
    theirs, ours = decoder.contract, engine.contract
    if theirs is None or theirs.kind != DECODER.name or [spec.name for spec in decoder.inputs] != ["latent"]:
        raise ArtifactError(f"{decoder.path} is not a decoder; export the model again")
    if decoder.inputs[0].shape[1:] != (latent,) or (ours is not None and ours.options.get("pair") != theirs.options.get("pair")):
        raise ArtifactError(f"{decoder.path} belongs to another encoder than {engine.path}; export the model again")
    drawn = next((spec for spec in decoder.outputs if spec.name == "image"), None)
    if drawn is None or drawn.dtype != "uint8" or drawn.shape[1:] != shape:
        raise ArtifactError(f"{decoder.path} draws no images of {shape}, which {engine.path} reads; export the model again")
