"""A translator of onnxferry as a source: what its whole-task graph should give, computed by PyTorch.

Each text is read alone, without padding, and its beams are lists of Python, so that nothing of how the graph treats a batch, or what its
beams come from, is shared.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxferry.export.families.seq2seq.graph import MAX_BEAM, translator_graph
from onnxferry.export.source import NUDGE, Candidate, Feeds, InputSpec, Strategy
from onnxferry.train.families.seq2seq import END, Seq2Seq


@dataclass(frozen=True, eq=False)
class Beam:
    """A translation, finished or not."""

    bytes_: tuple[int, ...]  # with the 0 that ends it
    score: float  # log-probability of all of them
    state: Tensor  # (decoder,)
    attention: tuple[Tensor, ...]  # a step: (places,)

    @property
    def finished(self) -> bool:
        return self.bytes_[-1:] == (END,)

    def mean(self, penalty: float) -> float:
        return float(self.score / len(self.bytes_) ** penalty)


@dataclass(frozen=True, eq=False)
class Searched:
    """The beams of a text, best first, and by how much the closest of all decisions was clear."""

    beams: list[Beam]
    margin: float  # nats between what was taken and the best that was not, or between two that were put in order


@torch.inference_mode()
def search(network: Seq2Seq, text: bytes, beam: int, max_bytes: int, penalty: float) -> Searched:
    """Beam search (Graves 2012; Sutskever et al. 2014, arXiv 1409.3215): the ``beam`` likeliest beginnings at each step."""
    encoded = network.encode(torch.frombuffer(bytearray(text or b"\0"), dtype=torch.uint8)[None, : len(text)], torch.tensor([len(text)]))
    beams = [Beam((), 0.0, encoded.state[0], ())]
    margin = float("inf")
    for _ in range(max_bytes):
        if beams[0].bytes_ and all(each.finished for each in beams):
            break
        scored: list[tuple[float, int, int]] = []  # score, beam, byte
        steps = []
        for at, each in enumerate(beams):
            if each.finished:
                steps.append((each.state, torch.zeros_like(encoded.mask[0])))
                scored.append((each.score, at, END))
                continue
            before = torch.tensor([each.bytes_[-1] if each.bytes_ else END])
            output, state, attention = network.step(before, each.state[None], encoded)
            steps.append((state[0], attention[0]))
            scores = (each.score + network.head(output).log_softmax(dim=1)[0].double()).tolist()
            scored.extend((score, at, byte) for byte, score in enumerate(scores))
        scored.sort(key=lambda one: -one[0])
        margin = min([margin, *(scored[at][0] - scored[at + 1][0] for at in range(min(beam, len(scored) - 1)))])
        beams = [
            Beam((*beams[at].bytes_, byte), score, steps[at][0], (*beams[at].attention, steps[at][1]))
            if not beams[at].finished
            else beams[at]
            for score, at, byte in scored[:beam]
        ]
    means = sorted((each.mean(penalty) for each in beams), reverse=True)
    margin = min([margin, *(first - second for first, second in itertools.pairwise(means))])
    return Searched(sorted(beams, key=lambda each: -each.mean(penalty)), margin)


class TranslatorSource:
    """``network``: on the CPU, in eval mode. See :class:`onnxferry.export.source.Source`."""

    def __init__(self, network: Seq2Seq, examples: Feeds) -> None:
        self.network = network
        self.examples = dict(examples)
        self.notes: Sequence[str] = ()
        self.output_names = ("bytes", "log_probability", "attention")
        self.inputs = (InputSpec("text", "uint8", ("batch", "length"), examples["text"].shape),)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return _run(self.network, feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs = _run(copy.deepcopy(self.network).double(), feeds)
        return {name: array if array.dtype == np.uint8 else array.astype(np.float64) for name, array in outputs.items()}

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray]:
        network = copy.deepcopy(self.network)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + NUDGE * torch.randn(parameter.shape, generator=generator))
        return _run(network, feeds)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return (Strategy("made by hand", lambda: Candidate(translator_graph(self.network))),)

    def provenance(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
        model = type(self.network).__name__
        return {"framework": "torch", "torch": torch.__version__, "model": model, "weights_sha256": digest.hexdigest()}


def texts_of(feeds: Feeds) -> list[bytes]:
    """The rows of ``text``, each up to its length."""
    text = feeds["text"]
    lengths = np.broadcast_to(feeds.get("text_length", np.array([-1])), (len(text),))
    return [row.tobytes() if length < 0 else row[:length].tobytes() for row, length in zip(text, lengths, strict=True)]


def searched(network: Seq2Seq, feeds: Feeds) -> list[Searched]:
    """What a search finds for each row of ``feeds``, as the graph takes them."""
    beam = min(max(1, int(feeds.get("beam", 1))), MAX_BEAM)
    most = max(1, int(feeds.get("max_bytes", network.config.max_bytes)))
    return [search(network, text, beam, most, float(feeds.get("length_penalty", 1.0))) for text in texts_of(feeds)]


def _run(network: Seq2Seq, feeds: Feeds) -> dict[str, np.ndarray]:
    found = searched(network, feeds)
    beams = max((len(each.beams) for each in found), default=1)
    steps = max((len(beam.bytes_) for each in found for beam in each.beams), default=1)
    shape = (len(found), beams, steps)
    bytes_ = np.zeros(shape, np.uint8)
    scores = np.zeros(shape[:2], np.float32)
    attention = np.zeros((*shape, feeds["text"].shape[1] + 1), np.float32)
    for row, each in enumerate(found):
        for column, beam in enumerate(each.beams):
            bytes_[row, column, : len(beam.bytes_)] = beam.bytes_
            scores[row, column] = beam.score
            for step, weights in enumerate(beam.attention):
                attention[row, column, step, : len(weights)] = weights.float().numpy()
    return {"bytes": bytes_, "log_probability": scores, "attention": attention}
