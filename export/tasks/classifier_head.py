"""From a model's answer to classes: what it gives (logits, probabilities, one number of two classes), in numpy and as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxferry.export.tasks.image_graph import Nodes
from onnxferry.runtime.errors import InputError

ACTIVATIONS = ("auto", "softmax", "sigmoid", "none")


NEARLY = 1e-3
"""How far a sum of probabilities may be from 1."""


@dataclass(frozen=True)
class ClassifierHead:
    """How probabilities and a class are made of one output of a model."""

    scores: str  # the model's output that they are made of
    classes: int
    activation: str  # softmax, sigmoid, or none where it gives probabilities already
    index: str | None = None  # the model's own output of class indices, where it has one

    def answer(self, outputs: dict[str, np.ndarray], dtype: str = "float32") -> dict[str, np.ndarray]:
        """``probabilities`` (batch, classes) and ``class_index`` int64 (batch,), of the model's outputs."""
        array = outputs[self.scores]
        scores = array.reshape(len(array), -1).astype(dtype)
        if self.activation == "sigmoid":
            scores = _sigmoid(scores)
        if self.activation == "softmax":
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            probabilities = powers / powers.sum(axis=1, keepdims=True)
        else:
            probabilities = scores if scores.shape[1] == self.classes else np.concatenate([1 - scores, scores], axis=1)
        decided = scores if scores.shape[1] == self.classes else probabilities
        own = None if self.index is None else outputs[self.index].reshape(-1).astype(np.int64)
        return {"probabilities": probabilities, "class_index": decided.argmax(axis=1).astype(np.int64) if own is None else own}

    def nodes(self, names: dict[str, str], size: int) -> list[onnx.NodeProto]:
        """The same. ``names``: the graph's values by the model's output names. ``size``: numbers a row of the scores."""
        g = Nodes("onnxferry_classes_")
        scores = g.cast(g.op("Reshape", names[self.scores], g.constant([-1, size], "int64")), "float32")
        if self.activation == "sigmoid":
            scores = g.op("Sigmoid", scores)
        decided = scores
        if self.activation == "softmax":
            g.op("Softmax", scores, out="probabilities", axis=1)
        elif size == self.classes:
            g.op("Identity", scores, out="probabilities")
        else:
            other = g.op("Sub", g.constant(1.0), scores)
            decided = g.op("Concat", other, scores, out="probabilities", axis=1)
        if self.index is None:
            g.op("ArgMax", decided, out="class_index", axis=1, keepdims=0)
        else:
            flat = g.op("Reshape", names[self.index], g.constant([-1], "int64"))
            g.op("Cast", flat, out="class_index", to=onnx.TensorProto.INT64)
        return g.made


def head_for(outputs: dict[str, np.ndarray], labels: Sequence[str], activation: str, scores: str | None) -> ClassifierHead:
    """The head for a model that gave ``outputs`` for a few inputs. Raises InputError where no output is one number a class."""
    if activation not in ACTIVATIONS:
        raise InputError(f"unknown activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    if len(labels) < 2:
        raise InputError(f"a classifier has at least 2 labels, got {len(labels)}")
    if len(set(labels)) < len(labels):
        again = next(label for label in labels if list(labels).count(label) > 1)
        raise InputError(f"the label {again!r} is given twice")
    fitting = [name for name, array in outputs.items() if _width(array) in (len(labels), 1 if len(labels) == 2 else len(labels))]
    found = ", ".join(f"{name} {array.dtype.name} {array.shape}" for name, array in outputs.items())
    if scores is not None and scores not in fitting:
        raise InputError(f"the output {scores!r} does not hold {len(labels)} numbers a row, one for each label; the model gives {found}")
    if scores is None and len(fitting) != 1:
        fitting = ["probabilities"] if "probabilities" in fitting else fitting
        if not fitting:
            raise InputError(
                f"{len(labels)} labels are given, and no output of the model has {len(labels)} numbers a row; it gives {found}"
            )
        if len(fitting) > 1:
            raise InputError(
                f"several outputs have {len(labels)} numbers a row ({', '.join(fitting)}): say which are the classes', scores= (--scores)"
            )
    chosen = scores or fitting[0]
    own = outputs.get("class_index")
    index = "class_index" if own is not None and own.ndim == 1 and own.dtype.kind in "iu" else None
    return ClassifierHead(chosen, len(labels), _activation(outputs[chosen]) if activation == "auto" else activation, index)


def _width(array: np.ndarray) -> int:
    """Numbers a row of a float output that has one row of them for each input, and 0 for any other."""
    if array.dtype.kind != "f" or array.ndim < 1 or not len(array):
        return 0
    inner = [size for size in array.shape[1:] if size != 1]
    return inner[0] if len(inner) == 1 else 1 if not inner else 0


def _activation(scores: np.ndarray) -> str:
    """Probabilities are taken as they are; other numbers are logits."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    if rows.min() < 0 or rows.max() > 1 + NEARLY:
        return "softmax" if rows.shape[1] > 1 else "sigmoid"
    return "none"


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    made: np.ndarray = np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)
    return made


def head_note(head: ClassifierHead, outputs: dict[str, np.ndarray]) -> str:
    """What was found, for the report."""
    if head.activation != "none":
        return f"the output {head.scores!r} is taken for logits: {head.activation} makes probabilities of it"
    rows = np.asarray(outputs[head.scores]).reshape(len(outputs[head.scores]), -1)
    if rows.shape[1] > 1 and np.abs(rows.sum(axis=1) - 1).max() > NEARLY:
        return f"the output {head.scores!r} lies in 0 to 1 and does not sum to 1: it is taken as it is (activation='softmax' for logits)"
    return f"the output {head.scores!r} is taken for probabilities as it is"


def as_labels(labels: Any) -> tuple[str, ...]:
    """Class names. Raises InputError for what is no sequence of names."""
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray):
        raise InputError(f"labels must be a list of class names in the order of the model's outputs, got {labels!r}")
    return tuple(str(label) for label in labels)
