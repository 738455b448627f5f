"""A model for batch engines: a dict of columns in, a dict of arrays out. It is pickled as its path and options.

    predictor = Predictor("digits")
    dataset.map_batches(predictor, batch_size=256)                                        # Ray Data
    dataset.map(predictor, batched=True, remove_columns=dataset.column_names)             # Hugging Face datasets
    predict_batch_udf(lambda: lambda image: predictor({"image": image})["class_index"], …)   # Spark

None of these is imported here. The model is opened in each process at the first batch, and stays open there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import listed
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tables.feeds import batch_feeds
from onnxferry.runtime.tasks.classifier import UNKNOWN, Classifier
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.model import Model

_LABEL = ("label", "class_index", "probability", "probabilities")


class Predictor:
    """Runs a model on batches of columns.

    ``name_or_path``: as for ``load``; a path must exist in every process. ``outputs``: which columns come back, all if None: of a
    recogniser ``label``, ``class_index``, ``probability``, ``probabilities`` (n, classes), and ``unknown`` where the model tells, of any
    other model its outputs.
    ``keep``: columns of the batch that come back as they are, such as a path or an id. ``threads``: of each process; None for all that
    it may use, which is too many where several processes share a machine. ``tune``: with the fastest verified settings.

    A recogniser takes the one column ``image``: arrays uint8 (n, height, width) or (n, height, width, 1 | 3), or a list of images as
    ``Classifier.predict`` takes them (paths, bytes, PIL images, arrays of any sizes). Any other model takes a column for each input, its
    rows along the first axis; lists become arrays of the input's dtype. Columns that are no input are left alone.

    Raises ArtifactError for a model that cannot be found; calling it raises InputError for columns that do not fit.
    """

    _lock: threading.Lock
    _open: Model | None
    _process: int  # that opened the model

    def __init__(
        self,
        name_or_path: str | os.PathLike[str],
        outputs: Sequence[str] | None = None,
        *,
        keep: Sequence[str] = (),
        threads: int | None = None,
        tune: bool = False,
        device: str = "auto",
    ) -> None:
        find_model(name_or_path)
        self.name_or_path = name_or_path
        self.outputs = None if outputs is None else tuple(outputs)
        self.keep = tuple(keep)
        self.threads, self.tune, self.device = threads, tune, device
        self._forget()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Columns by name in, columns by name out, a row for each row."""
        if not isinstance(batch, Mapping):
            raise InputError(f"a batch must be a dict of columns by name, got {type(batch).__name__}")
        lacking = [name for name in self.keep if name not in batch]
        if lacking:
            raise InputError(f"the batch has no column {lacking[0]!r} to keep; it has {listed(batch)}")
        model = self._model()
        found = _classified(model, batch) if isinstance(model, Classifier) else _run(model, batch)
        for name in self.outputs or ():
            if name not in found:
                raise InputError(f"there is no output {name!r}; there are {listed(found)}")
        wanted = found if self.outputs is None else {name: found[name] for name in self.outputs}
        return {**{name: batch[name] for name in self.keep}, **wanted}

    def close(self) -> None:
        """Closes this process' model; the next batch opens it again."""
        with self._lock:
            model = self._open
            self._open = None
        if model is not None and self._process == os.getpid():
            model.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"Predictor({os.fspath(self.name_or_path)!r}, outputs={self.outputs})"

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open = None
        self._process = 0

    def _model(self) -> Model:
        if self._process != os.getpid():  # a forked process opens its own, with a lock of its own
            self._forget()
            self._process = os.getpid()
        with self._lock:
            model = self._open
            if model is None:
                self._open = model = load(self.name_or_path, device=self.device, threads=self.threads, tune=self.tune)
            return model


def _classified(model: Classifier, batch: Mapping[str, Any]) -> dict[str, Any]:
    if "image" not in batch:
        raise InputError(f"a recogniser takes the column 'image', and the batch has {listed(batch)}")
    images = batch["image"]
    if isinstance(images, np.ndarray) and images.dtype == object:  # images of different sizes
        images = list(images)
    predictions = model.predict(images) if len(images) else []
    classes = len(model.labels)
    unknown = {UNKNOWN: np.array([prediction.unknown for prediction in predictions], np.float32)} if model.tells_unknown else {}
    return {
        "label": np.array([prediction.label for prediction in predictions], np.str_),
        "class_index": np.array([prediction.index for prediction in predictions], np.int64),
        "probability": np.array([prediction.probability for prediction in predictions], np.float32),
        "probabilities": np.stack([p.probabilities for p in predictions]) if predictions else np.zeros((0, classes), np.float32),
        **unknown,
    }


def _run(model: Model, batch: Mapping[str, Any]) -> dict[str, Any]:
    return model.run(batch_feeds(batch, model.engine.inputs, model.engine.optional_inputs))
