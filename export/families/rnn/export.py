"""A text generator (RNN) to its file: the sampling loop as one graph, compared with PyTorch byte by byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from onnxferry.export.families.rnn.bits import rounded
from onnxferry.export.families.rnn.source import TextSource, clear_draws, prompt_batch
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import TEXT
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Feeds, Plan
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.kinds import RNN, TEXT_GENERATOR
from onnxferry.runtime.tasks.text_generator import OPTIONAL, REQUIRED
from onnxferry.train.families.rnn import START, VOCABULARY, Rnn, RnnConfig, state_after
from onnxferry.train.loop.checkpoint import Checkpoint

SHORTEST = 18
"""Bytes of real text that the comparisons need."""


RANDOM = "numpy.random.Generator(PCG64(seed)).random(dtype=float32), one number a byte, in order; row r of a batch: seed + r"


def text_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """The sampling loop as one graph; its inputs and outputs stand in :mod:`onnxferry.export.families.rnn.graph`."""
    if options.with_labels:
        raise InputError("a text generator has no classes: leave with_labels (--with-labels) out")
    trained = checkpoint.model()
    if not isinstance(trained, Rnn):
        raise ExportError(f"the checkpoint rebuilds a {type(trained).__name__}, not a text generator")
    network = rounded(trained, options.bits)
    text = checkpoint.example("text", torch.uint8, at_least=SHORTEST).tobytes()
    (_, example), *samples = text_cases(network, text).items()
    config = network.config
    contract = Contract(
        kind=TEXT_GENERATOR.name,
        name=name,
        family=RNN.name,
        description=f"Writes text byte by byte ({config.cell.upper()}, {config.depth} x {config.width})",
        options=contract_options(config),
        metrics=dict(checkpoint.metrics),
        provenance={
            "data": dict(checkpoint.data),
            "training": without_paths(checkpoint.provenance),
            "weight_bits": options.bits or (16 if config.half else 32),  # of the matrices; they were rounded before the comparison
        },
    )
    start = state_after(network, START)

    def without_ties(case: str, feeds: Feeds) -> Feeds:
        prompt = {"prompt": feeds["prompt"]}
        return {**prompt, "uniforms": clear_draws(network, start, prompt, feeds["uniforms"].shape[1], seed=len(case))}

    return [
        Plan(
            TextSource(network, example),
            contract,
            samples=dict(samples),
            goldens=_golden_samples(network, text, options.golden),
            tolerances=TEXT,
            optional=OPTIONAL,
            adjust_probe=without_ties,
        )
    ]


def contract_options(config: RnnConfig) -> dict[str, object]:
    """The options of a text generator in its contract."""
    return {
        "cell": config.cell,
        "depth": config.depth,
        "width": config.width,
        "state_slots": config.slots,
        "vocabulary": VOCABULARY,
        "encoding": "utf-8",
        "follows": START.decode(),  # what a text is assumed to follow if no state is given
        "random": RANDOM,
    }


def text_cases(network: Rnn, text: bytes) -> dict[str, Feeds]:
    """The inputs that a text generator is compared on, by name, the example first: real text and arbitrary bytes, every way to sample,
    ragged and empty prompts, given states.
    """
    start = state_after(network, START)
    rng = np.random.default_rng(0)
    everything = bytes(range(VOCABULARY))
    slots = (network.config.slots, network.config.width)
    small = (rng.standard_normal((1, *slots)) * 0.5).clip(-0.99, 0.99).astype(np.float32)
    # States that were reached by reading text. From random states a trained network is chaotic: a hundred bytes later PyTorch itself
    # is 1e-4 off float64, and equal programs would fail.
    histories = [text[:80], text[-120:], everything[60:130], text[:1], everything[::-3]]
    own = torch.cat([state_after(network, history) for history in histories]).numpy()
    ragged = prompt_batch([text[:40], b"", text[100:101], everything[:9], text[200:217]])
    plans: list[tuple[str, dict[str, np.ndarray], int]] = [
        # The example: generated cases are of its sizes and of multiples of them.
        ("two prompts", {"prompt": np.frombuffer(text[:18], np.uint8).reshape(2, 9).copy()}, 8),
        ("real text", prompt_batch([text[:300]]), 300),
        ("a ragged batch with states of its own", {**ragged, "state": own}, 100),
        ("no prompt", {"prompt": np.zeros((1, 0), np.uint8)}, 60),
        ("no prompt, given states", {"prompt": np.zeros((5, 0), np.uint8), "state": own}, 20),
        ("one state for all rows", {**ragged, "state": small}, 20),
        ("every byte", prompt_batch([everything, everything[::-1]]), 20),
        ("cool", {**ragged, "temperature": np.array(0.4, np.float32)}, 40),
        ("hot", {**ragged, "temperature": np.array(3.0, np.float32)}, 40),
        ("greedy", {**prompt_batch([text[:64]]), "temperature": np.array(0.0, np.float32)}, 100),
        ("top_k", {**ragged, "top_k": np.array(7, np.int64)}, 40),
        ("top_k of one", {**prompt_batch([text[:5]]), "top_k": np.array(1, np.int64)}, 20),
        ("more than all", {**prompt_batch([text[:5]]), "top_k": np.array(999, np.int64)}, 20),
        ("top_p", {**ragged, "top_p": np.array(0.7, np.float32), "temperature": np.array(0.8, np.float32)}, 40),
        ("top_k and top_p", {**ragged, "top_k": np.array(20, np.int64), "top_p": np.array(0.9, np.float32)}, 40),
        ("nothing to write", prompt_batch([text[:50], text[50:100]]), 0),
        ("bytes 0 and 255", prompt_batch([bytes(30), b"\xff" * 30]), 20),
        ("temperature next to nothing", {**ragged, "temperature": np.array(1e-6, np.float32)}, 20),
        ("temperature of a million", {**ragged, "temperature": np.array(1e6, np.float32)}, 20),
        ("top_p next to nothing", {**ragged, "top_p": np.array(1e-6, np.float32)}, 20),
        ("top_k of all, top_p of one", {**ragged, "top_k": np.array(VOCABULARY, np.int64), "top_p": np.array(1.0, np.float32)}, 20),
    ]
    return {name: {**feeds, "uniforms": clear_draws(network, start, feeds, steps, seed)} for seed, (name, feeds, steps) in enumerate(plans)}


def _golden_samples(network: Rnn, text: bytes, golden: bool | Sequence[Feeds]) -> list[Feeds]:
    """Teacher-forced real text, greedy bytes where the margin is safe, and a ragged batch that samples."""
    if golden is False:
        return []
    if golden is not True:
        for feeds in golden:
            _check_golden(feeds)
        return [dict(feeds) for feeds in golden]
    start = state_after(network, START)
    plans: list[tuple[dict[str, np.ndarray], int]] = [
        (prompt_batch([text[:512]]), 40),
        ({**prompt_batch([text[:64]]), "temperature": np.array(0.0, np.float32)}, 64),
        ({**prompt_batch([b"To be", b""]), "temperature": np.array(0.8, np.float32), "top_p": np.array(0.9, np.float32)}, 60),
    ]
    drawn = [{**feeds, "uniforms": clear_draws(network, start, feeds, steps, 100 + seed)} for seed, (feeds, steps) in enumerate(plans)]
    return [feeds for feeds in drawn if feeds["uniforms"].shape[1]]


def _check_golden(feeds: Feeds) -> None:
    missing = sorted(set(REQUIRED) - set(feeds))
    if missing:
        raise InputError(f"a golden sample of a text generator has no {missing[0]!r}; it needs prompt and uniforms")
    known = {**REQUIRED, **OPTIONAL}
    for name, array in feeds.items():
        if name not in known:
            raise InputError(f"a golden sample has {name!r}, which no text generator takes; expected {', '.join(known)}")
        dtype, axes = known[name]
        if not isinstance(array, np.ndarray) or (array.dtype.name, array.ndim) != (dtype, axes):
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"a golden sample's {name} must be {dtype} with {axes} axes, got {got}")
    if len(feeds["prompt"]) != len(feeds["uniforms"]):
        raise InputError(
            f"a golden sample has {len(feeds['prompt'])} prompts and {len(feeds['uniforms'])} rows of uniforms; give one for each"
        )
