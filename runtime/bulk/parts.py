"""One part of a bulk prediction: some images to the lines of a file, a row each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.loading import load_as

COLUMNS = ("input", "label", "index", "probability", "error")


@dataclass(frozen=True)
class PartOptions:
    """What a process needs to know: ``top`` and ``threshold`` as of :class:`~onnxferry.runtime.bulk.job.BulkOptions`."""

    model: str
    device: str = "auto"
    threads: int | None = None
    threshold: float = 0.0
    top: int = 1

    def columns(self, tells_unknown: bool = False) -> tuple[str, ...]:
        """Of the result; with "unknown" and "known" for a model that tells whether an image is of any class."""
        scores = ("unknown", "known") if tells_unknown else ()
        asked = (*(["sure"] if self.threshold > 0 else []), *(["top"] if self.top > 1 else []))
        return (*COLUMNS[:-1], *scores, *asked, COLUMNS[-1])


class PartPredictor:
    """An open recogniser. Raises what opening it raises."""

    def __init__(self, options: PartOptions) -> None:
        self.options = options
        self.model = load_as(Classifier, options.model, options.device, options.threads)

    def text(self, names: Sequence[str]) -> str:
        """A line of JSON for each image, in that order; with its error for one that cannot be read."""
        rows: dict[str, dict[str, Any]] = {}

        def failed(name: Any, error: InputError) -> None:
            rows[name] = {"input": name, "error": str(error)}

        for name, prediction in self.model.predict_each(((name, name) for name in names), on_error=failed):
            found = prediction.to_dict(self.options.top if self.options.top > 1 else None)
            rows[name] = {"input": name, **found, "sure": prediction.known and prediction.probability >= self.options.threshold}
        columns = self.options.columns(self.model.tells_unknown)
        return "".join(json.dumps({column: rows[name].get(column) for column in columns}) + "\n" for name in names)
