"""A text checkpoint to its artifact: the sampling loop as one graph, judged against PyTorch byte by byte."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from onnxferry.export.families.rnn.bits import rounded
from onnxferry.export.families.rnn.graph import text_graph
from onnxferry.export.families.rnn.source import TextSource, clear_draws, prompt_batch
from onnxferry.export.graphs.writer import checked_target, write_artifact
from onnxferry.export.parity.compare import compare
from onnxferry.export.parity.probes import Case, probes
from onnxferry.export.parity.reference import SourceRun, run_source
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import TEXT
from onnxferry.export.pipeline.provenance import shortened, without_paths
from onnxferry.export.source import Feeds
from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ExportError, InputError, ParityError
from onnxferry.runtime.kinds import RNN, TEXT_GENERATOR
from onnxferry.runtime.tasks.text_generator import OPTIONAL, REQUIRED
from onnxferry.train.families.rnn import START, VOCABULARY, Rnn, RnnConfig, state_after
from onnxferry.train.loop.checkpoint import Checkpoint

SHORTEST = 18
"""Bytes of real text that the comparisons need."""


RANDOM = "numpy.random.Generator(PCG64(seed)).random(dtype=float32), one number a byte, in order; row r of a batch: seed + r"


def export_text(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    name: str,
    description: str,
    license: str,
    golden: bool | Sequence[Mapping[str, np.ndarray]],
    with_labels: bool = False,
    command: Sequence[str],
    bits: int | None = None,
) -> ParityReport:
    """Carry a text checkpoint across; see :func:`onnxferry.export.families.checkpoint.export_checkpoint`."""
    if with_labels:
        raise InputError("a text generator has no classes: leave --with-labels out")
    network = checkpoint.model()
    if not isinstance(network, Rnn):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not a text generator")
    target = checked_target(path)
    network = rounded(network, bits)
    text = checkpoint.example("text", torch.uint8, at_least=SHORTEST).tobytes()
    goldens = _golden_cases(network, text, golden)
    cases = text_cases(network, text)
    source = TextSource(network, cases[0].feeds)
    given = [*cases, *goldens]
    model = text_graph(network)
    generated = [_clear(network, case) for case in probes(source.inputs, source.examples)]
    runs, failures = run_source(source, [*given, *generated], len(given))
    report = ParityReport(failures=failures)
    if not failures:
        with Engine(model.SerializeToString(deterministic=True), device="cpu") as engine:
            report = compare(source, engine, runs, tolerances=TEXT)
    report.strategy = "made by hand"
    if not report.passed:
        raise ParityError(f"{report.first_line()}\n{report.explain()}", report)
    provenance = {"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance), **source.provenance()}
    provenance["weight_bits"] = bits or (16 if network.config.half else 32)  # of the matrices; what was rounded is what was judged
    if command:
        provenance["command"] = " ".join(shortened(command))
    contract = Contract(
        kind=TEXT_GENERATOR.name,
        name=name,
        family=RNN.name,
        description=description
        or f"Writes text byte by byte ({network.config.cell.upper()}, {network.config.depth} x {network.config.width})",
        options=options(network.config),
        tolerances=TEXT,
        goldens=tuple(_goldens(runs, goldens)),
        metrics=dict(checkpoint.metrics),
        provenance=provenance,
        parity=report.summary(),
        license=license,
    )
    write_artifact(model, contract, target, verify=_replay)
    return report


def options(config: RnnConfig) -> dict[str, object]:
    """The contract's facts of a text generator."""
    return {
        "cell": config.cell,
        "depth": config.depth,
        "width": config.width,
        "state_slots": config.slots,
        "vocabulary": VOCABULARY,
        "encoding": "utf-8",
        "follows": START.decode(),  # what a text is taken to follow where no state is given
        "random": RANDOM,
    }


def text_cases(network: Rnn, text: bytes) -> list[Case]:
    """What a text generator is compared on: real text and any bytes, all ways to sample, ragged and empty prompts, states of its own."""
    start = state_after(network, START)
    rng = np.random.default_rng(0)
    everything = bytes(range(VOCABULARY))
    slots = (network.config.slots, network.config.width)
    small = (rng.standard_normal((1, *slots)) * 0.5).clip(-0.99, 0.99).astype(np.float32)
    # Reached by reading, as every state is that somebody goes on from. From random ones a trained network is chaos: a hundred bytes
    # later PyTorch itself is 1e-4 off double precision, and equal programs would fail.
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
    ]
    cases = []
    for seed, (name, feeds, steps) in enumerate(plans):
        uniforms = clear_draws(network, start, feeds, steps, seed)
        cases.append(_case(name, {**feeds, "uniforms": uniforms}))
    return cases


def _case(name: str, feeds: Feeds, generated: bool = False) -> Case:
    prompt, uniforms = feeds["prompt"], feeds["uniforms"]
    return Case(name, feeds, {"batch": prompt.shape[0], "length": prompt.shape[1], "steps": uniforms.shape[1]}, generated)


def _clear(network: Rnn, case: Case) -> Case:
    """A generated case with ties drawn again."""
    feeds = {"prompt": case.feeds["prompt"]}
    uniforms = clear_draws(network, state_after(network, START), feeds, case.feeds["uniforms"].shape[1], seed=len(case.name))
    return _case(case.name, {**feeds, "uniforms": uniforms}, generated=True)


def _golden_cases(network: Rnn, text: bytes, golden: bool | Sequence[Feeds]) -> list[Case]:
    """Teacher-forced real text, greedy bytes where the margin is safe, and a ragged batch that samples."""
    if golden is False:
        return []
    if golden is not True:
        for feeds in golden:
            _check_golden(feeds)
        return [_case(f"golden sample {i}", dict(feeds)) for i, feeds in enumerate(golden)]
    start = state_after(network, START)
    plans: list[tuple[dict[str, np.ndarray], int]] = [
        (prompt_batch([text[:512]]), 40),
        ({**prompt_batch([text[:64]]), "temperature": np.array(0.0, np.float32)}, 64),
        ({**prompt_batch([b"To be", b""]), "temperature": np.array(0.8, np.float32), "top_p": np.array(0.9, np.float32)}, 60),
    ]
    cases: list[Case] = []
    for seed, (feeds, steps) in enumerate(plans):
        uniforms = clear_draws(network, start, feeds, steps, 100 + seed)
        if uniforms.shape[1]:
            cases.append(_case(f"golden sample {len(cases)}", {**feeds, "uniforms": uniforms}))
    return cases


def _check_golden(feeds: Feeds) -> None:
    missing = sorted(set(REQUIRED) - set(feeds))
    if missing:
        raise InputError(f"a golden input of a text generator has no {missing[0]!r}; it needs prompt and uniforms")
    known = {**REQUIRED, **OPTIONAL}
    for name, array in feeds.items():
        if name not in known:
            raise InputError(f"a golden input has {name!r}, which no text generator takes; expected {', '.join(known)}")
        dtype, axes = known[name]
        if not isinstance(array, np.ndarray) or (array.dtype.name, array.ndim) != (dtype, axes):
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"a golden input's {name} must be {dtype} with {axes} axes, got {got}")
    if len(feeds["prompt"]) != len(feeds["uniforms"]):
        raise InputError(
            f"a golden input has {len(feeds['prompt'])} prompts and {len(feeds['uniforms'])} rows of uniforms; give one for each"
        )


def _goldens(runs: Sequence[SourceRun], cases: Sequence[Case]) -> list[Golden]:
    wanted = {id(case) for case in cases}
    return [Golden(dict(run.case.feeds), run.outputs) for run in runs if id(run.case) in wanted and run.outputs is not None]


def _replay(file: Path) -> None:
    """Opens the written file and replays what it carries: the last thing before it gets its name."""
    with Engine(file, device="cpu") as engine:
        if engine.contract is None:
            raise ExportError("the written file lost its contract: this is a fault of onnxferry, please report it")
        if engine.contract.goldens:
            replay(engine).raise_if_failed(file.name)
