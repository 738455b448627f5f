"""A text classifier to its file: bytes in, classes and the words that decided out, compared with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from onnxferry.export.families.cnn import add_label_output
from onnxferry.export.families.text_classifier.source import TextClassifierSource
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import TEXT_CLASSES
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Feeds, Plan
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError
from onnxferry.runtime.kinds import TEXT_CLASSIFIER, TEXT_FAMILY
from onnxferry.runtime.tasks.text_classifier import OPTIONAL, TEXT, text_feeds
from onnxferry.train.families.text_classifier import TextNetwork
from onnxferry.train.loop.checkpoint import Checkpoint


def text_classifier_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """The whole task as one graph; its inputs and outputs stand in :mod:`onnxferry.export.families.text_classifier.graph`."""
    network = checkpoint.model()
    if not isinstance(network, TextNetwork):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not a text classifier")
    config = network.config
    texts = [text for text in checkpoint.example("text", torch.uint8).tobytes().split(b"\n") if text.strip()] or [b"a text"]
    contract = Contract(
        kind=TEXT_CLASSIFIER.name,
        name=name,
        family=TEXT_FAMILY.name,
        description=f"Classifies texts into {len(config.labels)} classes, and says which words decided",
        labels=config.labels,
        options={"encoding": "utf-8", "cell": config.cell, "width": config.width, "embedding": config.embedding},
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
    )
    first = texts[0][:18].ljust(18, b" ")
    return [
        Plan(
            # The example: generated cases are of its sizes and of multiples of them.
            TextClassifierSource(network, {TEXT: np.frombuffer(first, np.uint8).reshape(2, 9).copy()}),
            contract,
            samples=text_cases(texts),
            # Two as they are, padded, and one that is alone.
            goldens=options.chosen_goldens([text_feeds(texts[:2]), text_feeds(texts[-1:])]),
            tolerances=TEXT_CLASSES,
            decisions={"probabilities"},
            optional=OPTIONAL,
            finish=(lambda model: add_label_output(model, config.labels)) if options.with_labels else None,
            added=("label",),
        )
    ]


def text_cases(texts: Sequence[bytes]) -> dict[str, Feeds]:
    """The inputs that a text classifier is compared on, by name: real texts, and what texts may be besides. ``texts``: UTF-8."""
    everything = bytes(range(256))
    signs = ("é" * 7 + " naïve Ünder 好吃！！ не знаю ω 🙂🙂 don't DON'T ａｂｃ\t\r\n x").encode()
    cases = {
        "real texts": list(texts),
        "one real text": list(texts[:1]),
        "a text that was cut within a character": ["好吃".encode()[:4], "好吃".encode()[1:]],
        "a ragged batch": [texts[0], b"", signs, b" ", b"a", texts[-1] * 3],
        "no text": [b""],
        "several without a text": [b"", b"", b""],
        "spaces": [b"   ", b" \t\n", b" a", b"a  ", b"  a  b "],
        "every byte": [everything, everything[::-1], everything[128:]],
        "a long word": [b"a" * 700, b"a" * 256 + b" " + b"a" * 257],
        "a long text": [b" ".join(texts) * 4],
        "signs": [b"!?!?...,,,", "。。。！？".encode()],
        "one word": [b"good", b"GOOD", b"Good "],
    }
    made: dict[str, Feeds] = {name: text_feeds(rows) for name, rows in cases.items()}
    made["no lengths"] = {TEXT: text_feeds([texts[0], texts[-1]])[TEXT]}
    return made
