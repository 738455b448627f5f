"""Models of text with a tokenizer beside them: classes, tags, embeddings, and text that goes on.

load("sentiment.onnx").classify("a lovely film").label
load("minilm.onnx").embed(["one text", "another"])          # float32 (2, 384)
load("names.onnx").tag("Ada met Grace in Paris")
load("tiny.onnx").generate("Once upon a time", tokens=40)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.tasks.model import MOST_NUMBERS, Model, promised
from onnxferry.runtime.tasks.text_classifier import TextClassifier
from onnxferry.runtime.tasks.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


class TextModel(Model):
    """A model that takes ids of tokens, and the tokenizer that makes them of text."""

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        self.tokenizer = open_tokenizer(engine)

    def feeds(self, texts: Sequence[str]) -> tuple[dict[str, np.ndarray], list[Any]]:
        """The inputs for these texts, int64 (texts, tokens), and the tokenizer's encodings."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"expected text or a list of texts, got {type(texts).__name__} of {', '.join({type(t).__name__ for t in texts})}"
            )
        encodings = self.tokenizer.encode_batch(list(texts))
        made = {
            "input_ids": [each.ids for each in encodings],
            "attention_mask": [each.attention_mask for each in encodings],
            "token_type_ids": [each.type_ids for each in encodings],
        }
        return {spec.name: np.array(made[spec.name], np.int64) for spec in self.engine.inputs if spec.name in made}, encodings

    def _outputs(self, texts: Sequence[str]) -> tuple[dict[str, np.ndarray], list[Any]]:
        feeds, encodings = self.feeds(texts)
        if any(array.ndim != 2 or not array.shape[1] for array in feeds.values()):  # the tokenizer adds no special tokens
            raise InputError("a text has no tokens: give one that is not empty")
        return self.engine.run(feeds), encodings


class TokenizedTextClassifier(TextModel, TextClassifier):
    """A text classifier whose graph takes ids of tokens. A text that is longer than the model takes is cut."""

    def _answers(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        outputs, _ = self._outputs(texts)
        probabilities = promised(self.engine, outputs, "probabilities", "float32", (len(texts), len(self.labels)))
        return probabilities, promised(self.engine, outputs, "class_index", "int64", (len(texts),))


class TextEmbedder(TextModel):
    """Texts in, a vector for each out."""

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """float32 (texts, size); (size,) for one text.

            a, b = model.embed(["a ferry", "a ship"])
            similarity = a @ b / np.linalg.norm(a) / np.linalg.norm(b)

        A text that is longer than the model takes is cut. Raises InputError for what is no text.
        """
        rows = [texts] if isinstance(texts, str) else texts
        size = next((spec.shape[1] for spec in self.engine.outputs if spec.name == "embedding" and len(spec.shape) == 2), None)
        if not len(rows):
            return np.zeros((0, size if isinstance(size, int) else 0), np.float32)
        outputs, _ = self._outputs(rows)
        found = promised(self.engine, outputs, "embedding", "float32", (len(rows), None))
        return found[0] if isinstance(texts, str) else found


@dataclass(frozen=True)
class Tag:
    """A token of a text, and its class."""

    text: str
    label: str
    probability: float  # 0 to 1
    start: int  # in the text: text == whole[start:end]
    end: int


class TextTagger(TextModel):
    """A text in, a class for each of its tokens out."""

    def tag(self, text: str) -> list[Tag]:
        """The tokens in their order, without those that the tokenizer adds.

            [tag for tag in model.tag("Ada met Grace in Paris") if tag.label != "O"]

        What lies beyond the length that the model takes has no tags. Raises InputError for what is no text.
        """
        outputs, (encoding,) = self._outputs([text])
        count = len(encoding.ids)
        probabilities = promised(self.engine, outputs, "probabilities", "float32", (1, count, len(self.labels)))[0]
        indices = promised(self.engine, outputs, "class_index", "int64", (1, count))[0].tolist()
        if indices and (min(indices) < 0 or max(indices) >= len(self.labels)):
            raise ArtifactError(f"{self.engine.path} gives a class_index beyond its {len(self.labels)} labels; export the model again")
        return [
            Tag(text[start:end], self.labels[index], float(row[index]), start, end)
            for (start, end), added, index, row in zip(encoding.offsets, encoding.special_tokens_mask, indices, probabilities, strict=True)
            if not added
        ]


class TextDecoder(TextModel):
    """A causal language model: text in, the text that follows out. Its cache is an input and an output of the graph."""

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        options = engine.contract.options if engine.contract else {}
        cache = options.get("cache")
        sizes = [cache.get(key) for key in ("layers", "heads", "size")] if isinstance(cache, Mapping) else []
        if len(sizes) != 3 or not all(isinstance(size, int) and 1 <= size <= MOST_NUMBERS for size in sizes):
            raise ArtifactError(f"{engine.path} does not say the size of its cache; export the model again")
        self._heads, self._size = int(sizes[1] or 0), int(sizes[2] or 0)
        end = options.get("end")
        self._end = {each for each in end if isinstance(each, int)} if isinstance(end, list) else set()
        tokenizer = options.get("tokenizer")
        longest = tokenizer.get("max_length") if isinstance(tokenizer, Mapping) else None
        self.max_length = longest if isinstance(longest, int) and longest > 0 else MOST_NUMBERS
        self._past = [spec.name for spec in engine.inputs if spec.name != "input_ids"]

    def generate(self, prompt: str, *, tokens: int = 50, temperature: float = 0.0, seed: int = 0) -> str:
        """The prompt and what follows it, up to ``tokens`` tokens or the model's end of text.

        ``temperature``: 0 takes the likeliest token each time; above, one is drawn, with ``seed``. The prompt and its continuation end at
        the longest text that the model takes. Raises InputError for an empty prompt and for numbers that make no sense.
        """
        whole_number("tokens", tokens, 1)
        if not 0 <= temperature < 100:
            raise InputError(f"temperature must be 0 or more, got {temperature!r}")
        feeds, _ = self.feeds([prompt])
        ids: list[int] = feeds["input_ids"][0].tolist()
        if not ids:
            raise InputError("the prompt has no tokens: give one that is not empty")
        draws = np.random.default_rng(seed)
        state = {name: np.zeros((1, self._heads, 0, self._size), np.float32) for name in self._past}
        step = feeds["input_ids"]
        for _ in range(min(tokens, self.max_length - len(ids))):
            outputs = self.engine.run({"input_ids": step, **state})
            logits = promised(self.engine, outputs, "logits", "float32", (1, step.shape[1], None))[0, -1].astype(np.float64)
            chosen = int(logits.argmax()) if temperature == 0 else _drawn(logits / temperature, draws)
            if chosen in self._end:
                break
            ids.append(chosen)
            shape = (1, self._heads, None, self._size)
            state = {name: promised(self.engine, outputs, name.replace("past_", "present_", 1), "float32", shape) for name in self._past}
            step = np.array([[chosen]], np.int64)
        return str(self.tokenizer.decode(ids))


def _drawn(logits: np.ndarray, draws: np.random.Generator) -> int:
    shares = np.exp(logits - logits.max())
    return int(draws.choice(len(shares), p=shares / shares.sum()))
