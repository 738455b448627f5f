"""A text classifier of onnxferry as a source: what its whole-task graph should give, computed by PyTorch.

Cuts each text into tokens and answers it by itself, without padding, so that nothing of how the graph treats a batch is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch

from onnxferry.export.families.handmade import HandmadeSource, texts_of
from onnxferry.export.families.text_classifier.graph import text_classifier_graph
from onnxferry.export.source import Feeds
from onnxferry.runtime.tasks.text_classifier import OUTPUTS, TEXT
from onnxferry.train.data.text_tokens import tokens
from onnxferry.train.families.text_classifier import TextNetwork, padded


class TextClassifierSource(HandmadeSource[TextNetwork]):
    output_names = tuple(OUTPUTS)
    axes: Mapping[str, tuple[int | str, ...]] = {TEXT: ("batch", "length")}

    def answer(self, network: TextNetwork, feeds: Feeds) -> dict[str, np.ndarray]:
        return _run(network, feeds)

    def graph(self) -> onnx.ModelProto:
        return text_classifier_graph(self.network)


@torch.inference_mode()
def _run(network: TextNetwork, feeds: Feeds) -> dict[str, np.ndarray]:
    contents = texts_of(feeds)
    read = [tokens(content) for content in contents]
    answers = [network(*padded([each.hashes])) for each in read]
    width = max((len(each.starts) for each in read), default=0)

    def wide(arrays: Sequence[np.ndarray], fill: Sequence[int]) -> np.ndarray:
        rows = [
            np.concatenate([array, np.full((width - len(array), *array.shape[1:]), value, array.dtype)])
            for array, value in zip(arrays, fill, strict=True)
        ]
        return np.stack(rows)

    nothing = [0] * len(read)
    logits = torch.cat([answer.logits for answer in answers])
    return {
        "probabilities": logits.softmax(dim=1).float().numpy(),
        "class_index": logits.argmax(dim=1).numpy(),
        "attention": wide([answer.attention[0].float().numpy() for answer in answers], nothing),
        "evidence": wide([answer.evidence[0].float().numpy() for answer in answers], nothing),
        "starts": wide([each.starts for each in read], [len(content) for content in contents]),
    }
