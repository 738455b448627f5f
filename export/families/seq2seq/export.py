"""A translator to its file: the decoding loop as one graph, compared with PyTorch byte by byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from onnxferry.export.families.handmade import texts_of
from onnxferry.export.families.rnn.bits import rounded
from onnxferry.export.families.seq2seq.source import TranslatorSource, searched
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import CLEAR_BEAM, TRANSLATION
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Feeds, Plan
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.kinds import SEQ2SEQ, TRANSLATOR
from onnxferry.runtime.tasks.translator import OPTIONAL
from onnxferry.train.families.seq2seq import END, Seq2Seq, padded
from onnxferry.train.loop.checkpoint import Checkpoint

TEXTS = 6
"""Held-out texts that the comparisons need."""


ATTEMPTS = 10
"""To find inputs that hold no tie."""


UNSURE = 100 * TRANSLATION["log_probability"].atol
"""Nats that a greedy golden sample's least likely translation has at least, if one is found."""


LETTERS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz .", np.uint8)


def translator_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """The search as one graph; its inputs and outputs stand in :mod:`onnxferry.export.families.seq2seq.graph`."""
    if options.with_labels:
        raise InputError("a translator has no classes: leave with_labels (--with-labels) out")
    trained = checkpoint.model()
    if not isinstance(trained, Seq2Seq):
        raise ExportError(f"the checkpoint rebuilds a {type(trained).__name__}, not a translator")
    network = rounded(trained, options.bits)
    config = network.config
    text = checkpoint.example("text", torch.uint8, None, at_least=1)
    lengths = np.minimum(checkpoint.example("lengths", torch.int64, at_least=len(text))[: len(text)], text.shape[1])
    texts = [row[:length].tobytes() for row, length in zip(text, lengths, strict=True)]
    cases = {case: clear(network, feeds, seed) for seed, (case, feeds) in enumerate(translator_cases(texts).items())}
    (_, example), *samples = cases.items()
    contract = Contract(
        kind=TRANSLATOR.name,
        name=name,
        family=SEQ2SEQ.name,
        description=f"Translates text byte by byte (bidirectional GRU of {config.encoder}, attention, GRU of {config.decoder})",
        options={"encoding": "utf-8", "end": END, "max_bytes": config.max_bytes},
        metrics=dict(checkpoint.metrics),
        provenance={
            "data": dict(checkpoint.data),
            "training": without_paths(checkpoint.provenance),
            "weight_bits": options.bits or (16 if config.half else 32),  # they were rounded before the comparison
        },
    )
    return [
        Plan(
            TranslatorSource(network, example),
            contract,
            samples=dict(samples),
            goldens=_golden_samples(network, texts, options.golden),
            tolerances=TRANSLATION,
            optional=OPTIONAL,
            adjust_probe=lambda case, feeds: clear(network, feeds, len(case)),
        )
    ]


def batch_of(texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Texts of any lengths as the graph takes them: padded, with their lengths."""
    text, lengths = padded(texts)
    return {"text": text.numpy(), "text_length": lengths.numpy()}


def translator_cases(texts: Sequence[bytes]) -> dict[str, Feeds]:
    """The inputs that a translator is compared on, by name, the example first: held-out texts, any bytes, every width of beams."""
    some = [texts[at % len(texts)] for at in range(TEXTS)]
    everything = bytes(range(1, 256))
    ragged = [some[0], b"", some[1], some[2][:1], everything[::9]]
    one = next((text for text in some if text), b"a")
    two = np.frombuffer((one * 40)[: 2 * 9], np.uint8).reshape(2, 9).copy()
    return {
        # The example: generated cases are of its sizes and of multiples of them.
        "two texts": {"text": two},
        "one text": batch_of(some[:1]),
        "held-out texts": batch_of(some),
        "a ragged batch": batch_of(ragged),
        "an empty text": {"text": np.zeros((1, 0), np.uint8)},
        "empty texts": {"text": np.zeros((3, 0), np.uint8), "text_length": np.array([0], np.int64)},
        "padding of any bytes": {"text": np.full((2, 30), 65, np.uint8), "text_length": np.array([5, 12], np.int64)},
        "one length for all rows": {"text": np.full((3, 20), 51, np.uint8), "text_length": np.array([7], np.int64)},
        "every byte": batch_of([everything]),
        "two beams": {**batch_of(some), "beam": np.array(2, np.int64)},
        "five beams": {**batch_of(ragged), "beam": np.array(5, np.int64)},
        "many beams": {**batch_of(some[:2]), "beam": np.array(16, np.int64), "max_bytes": np.array(6, np.int64)},
        "no beam": {**batch_of(some[:2]), "beam": np.array(0, np.int64)},
        "beams of an empty text": {"text": np.zeros((2, 0), np.uint8), "beam": np.array(3, np.int64)},
        "by log-probability": {**batch_of(some), "beam": np.array(4, np.int64), "length_penalty": np.array(0.0, np.float32)},
        "one byte": {**batch_of(some), "max_bytes": np.array(1, np.int64)},
        "one byte of three beams": {**batch_of(some), "max_bytes": np.array(1, np.int64), "beam": np.array(3, np.int64)},
        "cut off": {**batch_of(some), "max_bytes": np.array(4, np.int64)},
        "a long text": batch_of([(one + b" ") * 12]),
    }


def clear(network: Seq2Seq, feeds: Feeds, seed: int) -> Feeds:
    """``feeds`` without decisions that rounding could tip: rows that have one get other letters and digits, as many.

    A network that has learnt little is never sure: after some tries fewer beams are followed, and then fewer bytes written.
    """
    feeds = dict(feeds)
    generator = np.random.default_rng(seed)
    for attempt in range(ATTEMPTS):
        tied = [row for row, each in enumerate(searched(network, feeds)) if each.margin < CLEAR_BEAM]
        if not tied:
            break
        sources = texts_of(feeds)
        if not any(sources[row] for row in tied) or attempt >= ATTEMPTS // 2:
            if int(feeds.get("beam", 1)) > 1:
                feeds["beam"] = np.array(int(feeds["beam"]) // 2, np.int64)
            else:
                most = int(feeds.get("max_bytes", network.config.max_bytes))
                feeds["max_bytes"] = np.array(max(1, most // 2), np.int64)
        text = feeds["text"].copy()
        for row in tied:
            if sources[row]:
                count = max(1, len(sources[row]) // 4)  # not all: of bytes that no text has, all decisions might be unclear
                text[row, generator.integers(0, len(sources[row]), size=count)] = generator.choice(LETTERS, size=count)
        feeds["text"] = text
    return feeds


def _golden_samples(network: Seq2Seq, texts: Sequence[bytes], golden: bool | Sequence[Feeds]) -> list[Feeds]:
    """Held-out texts one by one, a ragged batch, and beams."""
    if golden is False:
        return []
    if golden is not True:
        for feeds in golden:
            _check_golden(feeds)
        return [dict(feeds) for feeds in golden]
    some = [texts[at % len(texts)] for at in range(TEXTS)]
    made: list[Feeds] = [
        _unsure(network, [*some, b""]),
        {**batch_of(some[:1]), "beam": np.array(3, np.int64)},
        {**batch_of(some[1:4]), "beam": np.array(4, np.int64)},
    ]
    return [clear(network, feeds, 100 + seed) for seed, feeds in enumerate(made)]


def _unsure(network: Seq2Seq, texts: list[bytes]) -> Feeds:
    """``texts`` and some that are none, so that a log-probability is far from 0: a tolerance says nothing of one that is smaller itself."""
    generator = np.random.default_rng(0)
    for _ in range(8):
        feeds = batch_of(texts)
        if min(each.beams[0].score for each in searched(network, feeds)) < -UNSURE:
            break
        texts = [*texts, generator.choice(LETTERS, size=int(generator.integers(3, 20))).tobytes()]
    return feeds


def _check_golden(feeds: Feeds) -> None:
    known = {"text": ("uint8", 2), **OPTIONAL}
    if "text" not in feeds:
        raise InputError("a golden sample of a translator has no 'text'")
    for name, array in feeds.items():
        if name not in known:
            raise InputError(f"a golden sample has {name!r}, which no translator takes; expected {', '.join(known)}")
        dtype, axes = known[name]
        if not isinstance(array, np.ndarray) or (array.dtype.name, array.ndim) != (dtype, axes):
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"a golden sample's {name} must be {dtype} with {axes} axes, got {got}")
