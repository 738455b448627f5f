"""A recurrent network of onnxferry as a source: what its whole-task graph should give, computed by PyTorch.

Reads prompts row by row, without padding, so that nothing of how the graph treats a ragged batch is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxferry.export.families.handmade import HandmadeSource
from onnxferry.export.families.rnn.graph import text_graph
from onnxferry.export.parity.tolerances import CLEAR_DRAW, CLEAR_LOGITS
from onnxferry.export.source import Feeds
from onnxferry.runtime.errors import InputError
from onnxferry.train.families.rnn import START, Rnn, choose, running_weights, sample, state_after


class TextSource(HandmadeSource[Rnn]):
    output_names = ("bytes", "log_probabilities", "next_logits", "state_after")
    axes: Mapping[str, tuple[int | str, ...]] = {"prompt": ("batch", "length"), "uniforms": ("batch", "steps")}

    def __init__(self, network: Rnn, examples: Feeds) -> None:
        super().__init__(network, examples)
        self.start = state_after(network, START)

    def answer(self, network: Rnn, feeds: Feeds) -> dict[str, np.ndarray]:
        # The state after the first byte is a constant of the graph: a copy with other weights begins there too.
        return _run(network, self.start.to(next(network.parameters()).dtype), feeds)

    def graph(self) -> onnx.ModelProto:
        return text_graph(self.network)


@torch.inference_mode()
def read_prompts(network: Rnn, start: Tensor, feeds: Feeds) -> tuple[Tensor, np.ndarray]:
    """The state after each row's prompt (batch, slots, width), and the log-probabilities of its bytes (batch, length)."""
    prompt = feeds["prompt"]
    rows, length = prompt.shape
    lengths = np.broadcast_to(feeds.get("prompt_length", np.array([-1])), (rows,))
    before = torch.from_numpy(feeds["state"]).to(start.dtype) if "state" in feeds else start
    before = before.expand(rows, -1, -1)
    states, log_probabilities = [], np.zeros((rows, length), np.float32)
    for row in range(rows):
        count = length if lengths[row] < 0 else int(lengths[row])
        state = before[row : row + 1]
        if count:
            bytes_ = torch.from_numpy(prompt[row, :count].astype(np.int64))
            logits, after = network(bytes_[:, None], state)
            predicted = torch.cat([network.logits_of(state), logits[:-1, 0]]).log_softmax(dim=1)  # (count, 256)
            log_probabilities[row, :count] = predicted.gather(1, bytes_[:, None])[:, 0].float().numpy()
            state = after
        states.append(state)
    return torch.cat(states), log_probabilities


def _options(feeds: Feeds) -> dict[str, Any]:
    return {
        "temperature": float(feeds.get("temperature", 1.0)),
        "top_k": int(feeds.get("top_k", 0)),
        "top_p": float(feeds.get("top_p", 1.0)),
    }


@torch.inference_mode()
def _run(network: Rnn, start: Tensor, feeds: Feeds) -> dict[str, np.ndarray]:
    uniforms = torch.from_numpy(np.ascontiguousarray(feeds["uniforms"])).to(start.dtype)
    if len(uniforms) != len(feeds["prompt"]):
        raise InputError(f"{len(feeds['prompt'])} prompts and {len(uniforms)} rows of uniform numbers")
    state, log_probabilities = read_prompts(network, start, feeds)
    written, after = sample(network, state, uniforms, **_options(feeds))
    return {
        "bytes": written.numpy(),
        "log_probabilities": log_probabilities,
        "next_logits": network.logits_of(state).float().numpy(),
        "state_after": after.float().numpy(),
    }


@torch.inference_mode()
def clear_draws(network: Rnn, start: Tensor, feeds: Feeds, steps: int, seed: int) -> np.ndarray:
    """Uniform numbers float32 (batch, steps) none of which is a tie when ``feeds`` are run with them.

    A draw that is one is drawn again. At temperature 0, where there is nothing to draw, fewer steps come back: those before
    the first at which the two likeliest bytes of a row are a tie.
    """
    generator = np.random.default_rng(seed)
    state, _ = read_prompts(network, start, feeds)
    options = _options(feeds)
    columns: list[np.ndarray] = []
    for _ in range(steps):
        logits = network.logits_of(state)
        if options["temperature"] <= 0:
            best = logits.topk(2, dim=1).values
            if bool(((best[:, 0] - best[:, 1]) < CLEAR_LOGITS).any()):
                break
            draw = np.zeros(len(state), np.float32)
        else:
            running = running_weights(logits.double(), **options)
            total = running[:, -1:]
            draw = generator.random(len(state), dtype=np.float32)
            for _attempt in range(100):
                distance = ((running / total) - torch.from_numpy(draw)[:, None]).abs().amin(dim=1).numpy()
                # The end of the scale is no border: what lies beyond the total is never drawn.
                tied = (distance < CLEAR_DRAW) & (draw < 1 - CLEAR_DRAW)
                if not tied.any():
                    break
                draw = np.where(tied, generator.random(len(state), dtype=np.float32), draw)
        columns.append(draw)
        byte = choose(logits, torch.from_numpy(draw), **options)
        _, state = network(byte[None], state)
    return np.stack(columns, axis=1) if columns else np.zeros((len(state), 0), np.float32)


def prompt_batch(prompts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Prompts of any lengths as the graph takes them: padded, with their lengths."""
    width = max((len(prompt) for prompt in prompts), default=0)
    padded = np.zeros((len(prompts), width), np.uint8)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = np.frombuffer(prompt, np.uint8)
    return {"prompt": padded, "prompt_length": np.array([len(prompt) for prompt in prompts], np.int64)}
