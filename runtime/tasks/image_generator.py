"""Image generators: noise and a class in, images out.

    model = load("digits-gan")
    model.sample(16, labels="7", seed=0)              # uint8 (16, 28, 28)
    model.sample(20, labels=[3, "8"])                 # three, eight, three, eight, …
    model.walk(1, 2, steps=12, label="5")             # interpolate from one seed's image to another's

The graph turns noise into images; this class makes the noise (PCG64), looks up class names, and batches.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import IMAGE_GENERATOR
from onnxferry.runtime.onnx_file.values import is_size
from onnxferry.runtime.tasks.model import MOST_NUMBERS, Model, not_as_promised, promised

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


SAMPLE_BATCH_SIZE = 256


class ImageGenerator(Model):
    """Generates images of the classes it was trained on. The same arguments give the same images."""

    noun = IMAGE_GENERATOR.noun

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        self.noise, self.size, self.channels = _check_generator(engine)

    def sample(self, n: int, labels: Any = None, seed: int = 0) -> np.ndarray:
        """``n`` images, uint8 (n, size, size), for a colour model (n, size, size, 3).

        ``labels``: a class's name or index, or a list of such, used again from its start where it is shorter than ``n``; None
        for all classes in turn. Image i is made from row i of PCG64(seed)'s standard normal numbers, so that a smaller ``n`` gives
        the first images of a larger one. Raises InputError for a class that the model does not have, and for n below 1.
        """
        batches = self.sample_each(n, labels, seed)
        made = np.concatenate(list(batches))
        return made[..., 0] if self.channels == 1 else made

    def sample_each(self, n: int, labels: Any = None, seed: int = 0) -> Iterator[np.ndarray]:
        """As :meth:`sample`, in batches uint8 (up to 256, size, size, channels), so that memory does not grow with ``n``.

        Arguments are checked at the call.
        """
        count, asked, first = whole_number("n", n, 1), self.class_indices(labels), whole_number("seed", seed, 0)
        if labels is not None and len(asked) > count:
            raise InputError(f"{len(asked)} labels for {count} images: give at most one for each")
        return self._batches(count, asked, np.random.Generator(np.random.PCG64(first)))

    def _batches(self, count: int, asked: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        for start in range(0, count, SAMPLE_BATCH_SIZE):
            stop = min(count, start + SAMPLE_BATCH_SIZE)
            noise = generator.standard_normal((stop - start, self.noise), dtype=np.float32)
            yield self.make(noise, asked[np.arange(start, stop) % len(asked)])

    def walk(self, first: int, last: int, steps: int = 10, label: Any = None) -> np.ndarray:
        """Images interpolated from one seed's noise to another's, both ends included, as :meth:`sample` returns them.

        Spherical interpolation, as all noise has about the same length (White 2016, arXiv 1609.04468).
        ``label``: the class, the first if None. Raises InputError for steps below 2.
        """
        count = whole_number("steps", steps, 2)
        asked = self.class_indices(0 if label is None else label)
        if len(asked) != 1:
            raise InputError(f"a walk stays in one class, got {len(asked)} labels")
        ends = [
            np.random.Generator(np.random.PCG64(whole_number("seed", seed, 0))).standard_normal(self.noise, dtype=np.float32)
            for seed in (first, last)
        ]
        noise = great_circle(ends[0], ends[1], np.linspace(0, 1, count))
        made = np.concatenate(
            [
                self.make(noise[i : i + SAMPLE_BATCH_SIZE], asked.repeat(len(noise[i : i + SAMPLE_BATCH_SIZE])))
                for i in range(0, count, SAMPLE_BATCH_SIZE)
            ]
        )
        return made[..., 0] if self.channels == 1 else made

    def make(self, noise: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Noise float32 (n, noise) and class indices int64 (n,) → uint8 (n, size, size, channels).

        Raises InputError for noise of another width, and for indices out of range.
        """
        if noise.ndim != 2 or noise.shape[1] != self.noise:
            raise InputError(f"noise must be float32 (n, {self.noise}), got {noise.dtype} {noise.shape}")
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self.labels):
            raise InputError(f"class indices must be 0 to {len(self.labels) - 1}, got {indices.min()} to {indices.max()}")
        made = self.engine.run({"noise": noise, "label": np.asarray(indices, np.int64)}, ["image"])
        return promised(self.engine, made, "image", "uint8", (len(noise), self.size, self.size, self.channels))

    def class_indices(self, labels: Any) -> np.ndarray:
        """Names, indices, or lists of such → int64 (n,); None: all classes in order."""
        if labels is None:
            return np.arange(len(self.labels))
        if isinstance(labels, str | bytes) or np.ndim(labels) == 0:
            labels = [labels]
        given: Sequence[Any] = list(labels)
        if not given:
            raise InputError("labels is empty: name at least one class, or give None for all of them")
        return np.array([self._class_index(label) for label in given], np.int64)

    def _class_index(self, label: Any) -> int:
        if isinstance(label, str):
            if label in self.labels:
                return self.labels.index(label)
            near = difflib.get_close_matches(label, self.labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it makes {', '.join(map(repr, self.labels))}"
            raise InputError(f"the model has no class {label!r}; {hint}")
        try:
            index = operator.index(label)
        except TypeError:
            raise InputError(f"a label is a class's name or index, got {label!r}") from None
        if isinstance(label, bool) or not 0 <= index < len(self.labels):
            raise InputError(f"class indices are 0 to {len(self.labels) - 1}, got {label!r}")
        return index


def great_circle(first: np.ndarray, last: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Points from ``first`` to ``last``, float32 (n,) each, at ``shares`` (m,) of the way: float32 (m, n)."""
    a, b = first.astype(np.float64), last.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    angle = float(np.arccos(np.clip(float(a @ b) / max(lengths, 1e-12), -1, 1)))
    if np.sin(angle) < 1e-6:  # nearly the same direction: the circle is a line
        points = (1 - shares)[:, None] * a + shares[:, None] * b
    else:
        points = (np.sin((1 - shares) * angle)[:, None] * a + np.sin(shares * angle)[:, None] * b) / np.sin(angle)
    return points.astype(np.float32)


def _check_generator(engine: Runner) -> tuple[int, int, int]:
    """Numbers of noise, side and channels. Raises ArtifactError where the graph is not what its contract says."""
    inputs, outputs = {spec.name: spec for spec in engine.inputs}, {spec.name: spec for spec in engine.outputs}
    noise, label, image = inputs.get("noise"), inputs.get("label"), outputs.get("image")
    problem = ""
    if set(inputs) != {"noise", "label"} or noise is None or label is None or noise.dtype != "float32" or label.dtype != "int64":
        problem = "the inputs noise, float32 (batch, n), and label, int64 (batch,)"
    elif len(noise.shape) != 2 or not is_size(noise.shape[1]) or noise.shape[1] > MOST_NUMBERS:
        problem = "noise of a fixed width"
    elif (
        image is None
        or image.dtype != "uint8"
        or len(image.shape) != 4
        or image.shape[3] not in (1, 3)
        or image.shape[1] != image.shape[2]
        or not is_size(image.shape[1])
        or image.shape[1] > MOST_NUMBERS
    ):
        problem = "an output image, uint8 (batch, size, size, 1 | 3)"
    elif not engine.contract or not engine.contract.labels:
        problem = "labels, one a class"
    if problem or noise is None or image is None:
        raise not_as_promised(engine, ImageGenerator.noun, problem)
    return int(noise.shape[1] or 0), int(image.shape[1] or 0), int(image.shape[3] or 0)
