"""Text classifiers: a text in, a class with its probability out, and of those that read bytes, the words that decided.

    model = load("sentiment-zh")
    model.classify("房间很干净，下次还来").label
    for word in model.explain("房间很干净，下次还来").words:
        print(word.text, word.evidence)

Two kinds of files do this, and ``load`` tells them apart by their inputs. Files of ``onnxferry train text-classifier`` take the UTF-8 bytes
of a text, and the graph cuts it into words. Models of transformers take ids of tokens, which the tokenizer beside the file makes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.kinds import TEXT_CLASSIFIER
from onnxferry.runtime.tasks.classifier import Prediction, Predictions
from onnxferry.runtime.tasks.model import Model, not_as_promised, promised
from onnxferry.runtime.tasks.text_generator import text_bytes

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner

TEXT, TEXT_LENGTH = "text", "text_length"
"""The inputs of a classifier that reads bytes: uint8 (batch, length), and int64 (batch,), -1 for a row that has no padding."""


REQUIRED = {TEXT: ("uint8", 2)}


OPTIONAL = {TEXT_LENGTH: ("int64", 1)}


OUTPUTS = {"probabilities": "float32", "class_index": "int64", "attention": "float32", "evidence": "float32", "starts": "int64"}


MAX_BYTES = 2**22
"""Of one text, and of the texts of one run, padded to one length."""


@dataclass(frozen=True, eq=False)
class Word:
    """A word of a text, or a character where it is a token by itself, and what it says."""

    text: str
    start: int  # in characters: text == whole[start:end]
    end: int
    attention: float  # share of the attention, 0 to 1
    evidence: np.ndarray  # float32 (classes,): what it adds to each class's logit


@dataclass(frozen=True, eq=False)
class Explanation:
    """A prediction, and the words of its text. The words' evidence, that of the text's end and the bias sum to the logits."""

    prediction: Prediction
    words: tuple[Word, ...]

    def deciding(self, count: int = 5, label: str | None = None) -> list[Word]:
        """The words that speak most for ``label`` (the predicted one if not given) against the mean of the others, most first.

        Raises InputError for a label that the model does not have.
        """
        names = self.prediction.labels
        if label is not None and label not in names:
            raise InputError(f"the model has no label {label!r}; it has {', '.join(names[:12])}")
        index = self.prediction.index if label is None else names.index(label)
        return sorted(self.words, key=lambda word: -margin(word.evidence, index))[:count]


def margin(evidence: np.ndarray, index: int) -> float:
    """How much ``evidence`` (classes,) speaks for the class ``index``: its number less the mean of the others'."""
    others = np.delete(evidence, index)
    return float(evidence[index] - (others.mean() if others.size else 0.0))


class TextClassifier(Model):
    """Texts in, a class with its probability for each out."""

    noun = TEXT_CLASSIFIER.noun

    @classmethod
    def from_engine(cls, engine: Runner, open_engine: Callable[[Path], Runner]) -> Self:
        """Of a file that takes bytes a :class:`ByteTextClassifier`, of any other one with a tokenizer beside it."""
        if cls is not TextClassifier:
            return super().from_engine(engine, open_engine)
        if any(spec.name == TEXT and spec.dtype == "uint8" for spec in engine.inputs):
            return ByteTextClassifier.from_engine(engine, open_engine)  # type: ignore[return-value]
        from onnxferry.runtime.tasks.text_models import TokenizedTextClassifier  # which is built on this class

        return TokenizedTextClassifier.from_engine(engine, open_engine)  # type: ignore[return-value]

    @overload
    def classify(self, texts: str) -> Prediction: ...

    @overload
    def classify(self, texts: list[str] | tuple[str, ...]) -> Predictions: ...

    def classify(self, texts: str | list[str] | tuple[str, ...]) -> Prediction | Predictions:
        """One :class:`~onnxferry.runtime.tasks.classifier.Prediction` for a text, a list of them for a list.

            model.classify("a lovely film").label
            model.classify(["a lovely film", "a waste of time"])

        Raises InputError for what is no text, and for a text that is empty.
        """
        if not isinstance(texts, str | list | tuple):
            raise InputError(f"expected a text or a list of texts, got {type(texts).__name__}")
        if not isinstance(texts, str) and not texts:
            return Predictions()
        rows = [texts] if isinstance(texts, str) else texts
        probabilities, indices = self._answers(rows)
        found = self._predictions(probabilities, indices)
        return found[0] if isinstance(texts, str) else found

    @abstractmethod
    def _answers(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float32 (texts, classes) and int64 (texts,)."""

    def _predictions(self, probabilities: np.ndarray, indices: np.ndarray) -> Predictions:
        if not np.isfinite(probabilities).all() or indices.min() < 0 or indices.max() >= len(self.labels):
            raise ArtifactError(f"{self.engine.path} gives probabilities that are not finite, or a class that it has not")
        return Predictions(
            Prediction(self.labels[index], index, float(row[index]), row, self.labels)
            for index, row in zip(indices.tolist(), probabilities, strict=True)
        )


class ByteTextClassifier(TextClassifier):
    """A text classifier whose graph takes the bytes of texts, of any lengths, and says what each word adds to the answer."""

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        _check_classifier(engine)

    def explain(self, text: str) -> Explanation:
        """The prediction for a text, and what each of its words says for each class.

            model.explain("a lovely film").deciding(2)

        Raises InputError for what is no text, and for one that is empty.
        """
        if not isinstance(text, str):
            raise InputError(f"expected a text, got {type(text).__name__}")
        content = _content(text)
        outputs = self.engine.run(text_feeds([content]))
        starts = promised(self.engine, outputs, "starts", "int64", (1, None))[0]
        count = len(starts)
        attention = promised(self.engine, outputs, "attention", "float32", (1, count))[0]
        evidence = promised(self.engine, outputs, "evidence", "float32", (1, count, len(self.labels)))[0]
        (prediction,) = self._predictions(*self._promised(outputs, 1))
        if count and (starts.min() < 0 or (np.diff(starts) < 0).any() or starts[-1] != len(content)):
            raise ArtifactError(f"{self.engine.path} gives places of words that are not in the text; export the model again")
        return Explanation(prediction, tuple(_words(content, starts, attention, evidence)))

    def _answers(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        contents = [_content(text) for text in texts]
        probabilities = np.zeros((len(texts), len(self.labels)), np.float32)
        indices = np.zeros(len(texts), np.int64)
        for rows in _batches([len(each) for each in contents], 1 if self.engine.per_row else self.good_batch):
            outputs = self.engine.run(text_feeds([contents[row] for row in rows]), ["probabilities", "class_index"])
            probabilities[rows], indices[rows] = self._promised(outputs, len(rows))
        return probabilities, indices

    def _promised(self, outputs: dict[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
        probabilities = promised(self.engine, outputs, "probabilities", "float32", (count, len(self.labels)))
        return probabilities, promised(self.engine, outputs, "class_index", "int64", (count,))


def text_feeds(texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Texts of any lengths as the graph takes them: padded, with their lengths."""
    width = max(map(len, texts), default=0)
    padded = np.zeros((len(texts), width), np.uint8)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = np.frombuffer(text, np.uint8)
    return {TEXT: padded, TEXT_LENGTH: np.array([len(text) for text in texts], np.int64)}


def _content(text: object) -> bytes:
    content = text_bytes("text", text)
    if not content.strip():
        raise InputError("the text is empty: give at least one word")
    if len(content) > MAX_BYTES:
        raise InputError(f"the text has {len(content)} bytes, more than the {MAX_BYTES} that are read: give a part of it")
    return content


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Rows of about one length together: at most ``most`` of them, and MAX_BYTES with their padding."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda each: lengths[each]):
        if rows and (len(rows) >= most or (len(rows) + 1) * lengths[row] > MAX_BYTES):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _words(content: bytes, starts: np.ndarray, attention: np.ndarray, evidence: np.ndarray) -> Iterator[Word]:
    """The last token is the text's end, which is no word."""
    place = 0  # in characters
    for number, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        if not number:
            place = len(content[:start].decode(errors="replace"))
        whole = content[start:end].decode(errors="replace")
        word = whole.rstrip()
        yield Word(word, place, place + len(word), float(attention[number]), evidence[number])
        place += len(whole)


def _check_classifier(engine: Runner) -> None:
    """Raises ArtifactError where the graph is not the text classifier that its contract says it is."""
    for name, (dtype, axes) in REQUIRED.items():
        found = {spec.name: spec for spec in engine.inputs}.get(name)
        if found is None or found.dtype != dtype or len(found.shape) != axes or len(engine.inputs) != len(REQUIRED):
            raise not_as_promised(engine, TextClassifier.noun, f"one required input, {TEXT} uint8 (batch, length)")
    for name, (dtype, axes) in OPTIONAL.items():
        spare = {spec.name: spec for spec in engine.optional_inputs}.get(name)
        if spare is None or spare.dtype != dtype or len(spare.shape) != axes:
            raise not_as_promised(engine, TextClassifier.noun, f"an optional input {name}, {dtype} (batch,)")
    outputs = {spec.name: spec for spec in engine.outputs}
    for name, dtype in OUTPUTS.items():
        if name not in outputs or outputs[name].dtype != dtype:
            raise not_as_promised(engine, TextClassifier.noun, f"an output {name}, {dtype}")
    if len(engine.contract.labels if engine.contract else ()) < 2:
        raise ArtifactError(f"{engine.path or 'the model'} says that it is {TextClassifier.noun}, and names fewer than 2 classes")
