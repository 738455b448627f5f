"""A translator of onnxferry as a source: what its whole-task graph should give, computed by PyTorch.

Each text is read alone, without padding, and its beams are lists of Python, so that nothing of how the graph treats a batch, or what its
beams come from, is shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxferry.export.families.handmade import HandmadeSource, texts_of
from onnxferry.export.families.seq2seq.graph import translator_graph
from onnxferry.export.source import Feeds
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
            scored.extend((score, at, byte) for byte, score in zip(network.config.writable, scores, strict=True))
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


class TranslatorSource(HandmadeSource[Seq2Seq]):
    output_names = ("bytes", "log_probability", "attention")
    axes: Mapping[str, tuple[int | str, ...]] = {"text": ("batch", "length")}

    def answer(self, network: Seq2Seq, feeds: Feeds) -> dict[str, np.ndarray]:
        return _run(network, feeds)

    def graph(self) -> onnx.ModelProto:
        return translator_graph(self.network)


def searched(network: Seq2Seq, feeds: Feeds) -> list[Searched]:
    """What a search finds for each row of ``feeds``, as the graph takes them."""
    beam = min(max(1, int(feeds.get("beam", 1))), len(network.config.writable))
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
