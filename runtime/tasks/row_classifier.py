"""Classifiers of rows: columns of numbers and text in, a class with its probability out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.tables.feeds import as_feeds
from onnxferry.runtime.tasks.classifier import Prediction, Predictions
from onnxferry.runtime.tasks.model import Model

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


class RowClassifier(Model):
    """A model of one's own that has labels and gives their probabilities, such as an exported scikit-learn classifier."""

    noun = "a classifier of rows"

    @staticmethod
    def fits(engine: Runner) -> bool:
        """Whether it has labels, ``probabilities`` (rows, labels) and ``class_index`` int64 (rows,)."""
        outputs = {spec.name: spec for spec in engine.outputs}
        probabilities, index = outputs.get("probabilities"), outputs.get("class_index")
        labels = engine.contract.labels if engine.contract else ()
        if not labels or probabilities is None or index is None or len(probabilities.shape) != 2 or len(index.shape) != 1:
            return False
        return probabilities.dtype in ("float32", "float64") and index.dtype == "int64" and probabilities.shape[1] in (len(labels), None)

    def predict(self, rows: Any) -> Predictions:
        """One :class:`~onnxferry.runtime.tasks.classifier.Prediction` for each row, in the order given; a list also for one row.

            model.predict(frame)                                    # a pandas or polars DataFrame
            model.predict([{"age": 34, "city": "Bonn"}])
            model.predict({"age": [34, 51], "city": ["Bonn", "Ulm"]})
            model.predict(["buy now!!", "see you at six"])          # a model of texts

        ``rows``: what :meth:`~onnxferry.runtime.tasks.model.Model.run` takes. Raises InputError for rows that do not fit.
        """
        feeds = as_feeds(rows, self.engine.inputs, self.engine.optional_inputs)
        outputs = self.engine.run(feeds)
        probabilities, indices = outputs["probabilities"].astype(np.float32, copy=False), outputs["class_index"]
        labels = self.labels
        if probabilities.shape == (len(indices), len(labels)) and (row := _unanswered(probabilities, feeds)) is not None:
            raise InputError(
                f"row {row + 1} has a missing or infinite number, for which the model has no answer; fill it in as for training, or leave "
                "the row out"
            )
        if probabilities.shape != (len(indices), len(labels)) or not np.isfinite(probabilities).all():
            raise ArtifactError(
                f"{self.engine.path} gives probabilities {probabilities.shape} for {len(indices)} rows and {len(labels)} labels, or "
                "some that are not finite; export the model again"
            )
        if len(indices) and (indices.min() < 0 or indices.max() >= len(labels)):
            raise ArtifactError(f"{self.engine.path} gives a class_index beyond its {len(labels)} labels; export the model again")
        return Predictions(
            Prediction(labels[index], index, float(row[index]), row, labels)
            for index, row in zip(indices.tolist(), probabilities, strict=True)
        )

    def predict_one(self, row: Any) -> Prediction:
        """The prediction for one row: a dict by column, or what a model with one input takes.

            model.predict_one({"age": 34, "city": "Bonn"}).label

        Raises InputError for anything but one row.
        """
        found = self.predict([row] if isinstance(row, Mapping | str) or hasattr(row, "_asdict") else row)
        if len(found) != 1:
            raise InputError(f"predict_one takes one row, got {len(found)}; use predict")
        return found[0]


def _unanswered(probabilities: np.ndarray, feeds: Mapping[str, Any]) -> int | None:
    """The first row whose probabilities are not finite, and whose numbers are not all either."""
    for row in np.flatnonzero(~np.isfinite(probabilities).all(axis=1)).tolist():
        for array in feeds.values():
            if array.dtype.kind == "f" and len(array) == len(probabilities) and not np.isfinite(array[row]).all():
                return int(row)
    return None
