"""A shipped text classifier's figures, through the runtime, and those of logistic regression on bags of words in the same split.

    python tests/bench/figures_reviews.py --model sentiment-zh          # reviews-zh
    python tests/bench/figures_reviews.py --model sentiment-en          # snippets-en
    python tests/bench/figures_reviews.py --model sentiment-zh --checkpoint RUN     # and speed, beside PyTorch's network

The accuracy on the test part, which neither training nor the choice of an epoch has seen. Logistic regression (scikit-learn) is fitted on
the training part, and its C, of 0.25, 1, 4, 16 and 64, is the one with the best accuracy on the validation part: on single words (tf-idf;
Chinese as snownlp cuts it into words), on words and pairs of words, and on groups of up to 3 (Chinese) or 2 to 5 (English) characters.
Batch 1: one text of the test part after the other, on one thread, in turns with the faster of PyTorch's eager and traced networks, which
get their tokens ready made. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime import load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.evaluation.scores import wilson_interval
from onnxferry.runtime.tasks.text_classifier import ByteTextClassifier, text_feeds
from onnxferry.runtime.timing import time_in_turns
from onnxferry.train.data.text_sets import REVIEWS, SNIPPETS, TextClassSplits, TextSet, load_text_set

SETS = {"sentiment-zh": REVIEWS, "sentiment-en": SNIPPETS}
STRENGTHS = (0.25, 1.0, 4.0, 16.0, 64.0)
TIMED = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentiment-zh", help="a name of the zoo, or a file of that name")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    arguments = parser.parse_args()
    name = Path(arguments.model).stem
    splits = load_text_set(SETS[name])
    figures: dict[str, Any] = {"model": arguments.model}
    with load(arguments.model, device="cpu", threads=1) as model:
        if not isinstance(model, ByteTextClassifier):
            raise SystemExit(f"{arguments.model} does not classify texts by their bytes")
        found = model.classify([text.decode() for text in splits.test.texts])
        right = int((np.array([each.index for each in found]) == splits.test.labels).sum())
        figures |= {
            "accuracy": round(right / len(splits.test), 4),
            "test texts": len(splits.test),
            "95% interval": [round(each, 4) for each in wilson_interval(right, len(splits.test))],
            **baselines(splits, chinese=SETS[name] == REVIEWS),
            "bytes of the file": find_model(arguments.model).stat().st_size,
        }
        if arguments.checkpoint:
            figures |= beside_pytorch(model, arguments.checkpoint, splits.test, found, arguments.seconds)
    print(json.dumps(figures, indent=2))


def baselines(splits: TextClassSplits, *, chinese: bool) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    def plain(part: TextSet) -> list[str]:
        return [text.decode() for text in part.texts]

    def cut(part: TextSet) -> list[str]:
        if not chinese:
            return plain(part)
        from snownlp import seg

        return [" ".join(word for word in seg.seg(text) if word.strip()) for text in plain(part)]

    words = [cut(part) for part in (splits.train, splits.validation, splits.test)]
    characters = [plain(part) for part in (splits.train, splits.validation, splits.test)]
    pattern = r"\S+" if chinese else r"(?u)\b\w+\b"
    groups = {"analyzer": "char", "ngram_range": (1, 3)} if chinese else {"analyzer": "char_wb", "ngram_range": (2, 5)}
    plans = {
        "bag of words, logistic regression": (words, {"token_pattern": pattern, "ngram_range": (1, 1)}),
        "words and pairs of words, logistic regression": (words, {"token_pattern": pattern, "ngram_range": (1, 2)}),
        "groups of characters, logistic regression": (characters, {**groups, "min_df": 2}),
    }
    return {
        name: regression(TfidfVectorizer(sublinear_tf=True, **options), texts, splits)  # type: ignore[arg-type]
        for name, (texts, options) in plans.items()
    }


def regression(vectorizer: Any, texts: Sequence[list[str]], splits: TextClassSplits) -> float:
    from sklearn.linear_model import LogisticRegression

    train = vectorizer.fit_transform(texts[0])
    validation, test = (vectorizer.transform(part) for part in texts[1:])
    fitted = [LogisticRegression(C=strength, solver="liblinear").fit(train, splits.train.labels) for strength in STRENGTHS]
    best = max(fitted, key=lambda each: each.score(validation, splits.validation.labels))
    return round(float(best.score(test, splits.test.labels)), 4)


def beside_pytorch(model: ByteTextClassifier, run: Path, test: TextSet, found: Sequence[Any], seconds: float) -> dict[str, Any]:
    import torch

    from onnxferry.train.data.text_tokens import tokens
    from onnxferry.train.families.text_classifier import TextNetwork, padded
    from onnxferry.train.loop.checkpoint import load_checkpoint

    network = load_checkpoint(run, "text-classifier").model()
    assert isinstance(network, TextNetwork)
    torch.set_num_threads(1)
    ready = [padded([tokens(text).hashes]) for text in test.texts]
    with torch.inference_mode():
        expected = torch.cat([network(*each).logits.softmax(dim=1) for each in ready]).numpy()
    actual = np.stack([each.probabilities for each in found])
    some = np.random.default_rng(0).permutation(len(test))[:TIMED].tolist()
    feeds = [text_feeds([test.texts[i]]) for i in some]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(_Probabilities(network).eval(), ready[some[0]], check_trace=False))

        def of(call: Callable[..., object]) -> Callable[[], object]:
            return lambda: [call(*ready[i]) for i in some]

        calls: dict[str, Callable[[], object]] = {
            "onnxferry": lambda: [model.engine.run(each, ["probabilities"]) for each in feeds],
            "PyTorch, eager": of(_Probabilities(network).eval()),
            "PyTorch, traced": of(traced),
        }
        times = {name: statistics.median(values) / TIMED for name, values in time_in_turns(calls, seconds, min_rounds=5).items()}
    fastest = min(value for name, value in times.items() if name != "onnxferry")
    return {
        "decisions that differ from PyTorch's": int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        "largest difference of a probability from PyTorch's": float(np.abs(actual - expected).max()),
        "milliseconds a text at batch 1": {name: round(1e3 * value, 4) for name, value in times.items()},
        "times as fast as PyTorch's fastest": round(fastest / times["onnxferry"], 2),
    }


def _Probabilities(network: Any) -> Any:  # noqa: N802 - a module, made where torch is imported
    import torch

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, hashes: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
            return self.network(hashes, counts).logits.softmax(dim=1)  # type: ignore[no-any-return]

    return Probabilities()


if __name__ == "__main__":
    main()
