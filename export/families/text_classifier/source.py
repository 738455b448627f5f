"""A text classifier of onnxferry as a source: what its whole-task graph should give, computed by PyTorch.

Cuts each text into tokens and answers it by itself, without padding, so that nothing of how the graph treats a batch is shared.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from onnxferry.export.families.text_classifier.graph import text_classifier_graph
from onnxferry.export.source import NUDGE, Candidate, Feeds, InputSpec, Strategy
from onnxferry.runtime.tasks.text_classifier import OUTPUTS, TEXT, TEXT_LENGTH
from onnxferry.train.data.text_tokens import tokens
from onnxferry.train.families.text_classifier import TextNetwork, padded


class TextClassifierSource:
    """``network``: on the CPU, in eval mode. See :class:`onnxferry.export.source.Source`."""

    def __init__(self, network: TextNetwork, examples: Feeds) -> None:
        self.network = network
        self.examples = dict(examples)
        self.notes: Sequence[str] = ()
        self.output_names = tuple(OUTPUTS)
        self.inputs = (InputSpec(TEXT, "uint8", ("batch", "length"), examples[TEXT].shape),)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return _run(self.network, feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs = _run(copy.deepcopy(self.network).double(), feeds)
        return {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in outputs.items()}

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray]:
        network = copy.deepcopy(self.network)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + NUDGE * torch.randn(parameter.shape, generator=generator))
        return _run(network, feeds)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return (Strategy("made by hand", lambda: Candidate(text_classifier_graph(self.network))),)

    def provenance(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
        model = type(self.network).__name__
        return {"framework": "torch", "torch": torch.__version__, "model": model, "weights_sha256": digest.hexdigest()}


@torch.inference_mode()
def _run(network: TextNetwork, feeds: Feeds) -> dict[str, np.ndarray]:
    text = feeds[TEXT]
    lengths = np.broadcast_to(feeds.get(TEXT_LENGTH, np.array([-1])), (len(text),))
    contents = [row.tobytes() if length < 0 else row[:length].tobytes() for row, length in zip(text, lengths.tolist(), strict=True)]
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
