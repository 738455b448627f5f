"""Faster or smaller variants of an .onnx file, each scored and timed beside the original, and kept or refused with the reason.

result = optimize("digits.onnx", data="mnist")
for verdict in result.verdicts:
    print(verdict.tag, verdict.words)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.graphs.writer import checked_target, write_artifact
from onnxferry.export.optimize.backends import entry, golden_rms, larger, on_openvino, rms_of
from onnxferry.export.optimize.budget import Budget, Judge, parse_budget
from onnxferry.export.optimize.candidates import Candidate, candidates_for, for_web
from onnxferry.export.optimize.objects import in_order_of
from onnxferry.export.optimize.resources import WITHIN, Allowance, as_source, bytes_of
from onnxferry.export.optimize.samples import SCORED, Samples, samples_for
from onnxferry.export.optimize.score import outputs_of, score, written_score
from onnxferry.export.optimize.timing import Speed, compare_speed, feeds_for, machine_name, ort_version, rotating
from onnxferry.export.optimize.verdict import Verdict, better
from onnxferry.export.optimize.web import WebBench, web_bench
from onnxferry.runtime.artifact.comparison import absolute_difference
from onnxferry.runtime.artifact.contract import Contract, Golden, kind_of
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.tolerances import Tolerance, golden_tolerance, rms_limits
from onnxferry.runtime.artifact.variants import WEB
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine.backends.choose import OPENVINO, AnyEngine
from onnxferry.runtime.engine.backends.openvino import OpenVINOEngine
from onnxferry.runtime.engine.engine import Engine, PlacementWarning
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import InputError, OnnxFerryError, first_line
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.kinds import MODEL, Kind
from onnxferry.runtime.machine.memory import resident_memory
from onnxferry.runtime.onnx_file.reader import file_sha256
from onnxferry.runtime.timing import clock

GOALS = ("faster", "smaller")


TARGETS = ("", WEB)
"""Where a variant is to run: "" for here, or the browser."""


DEVICES = ("cpu", "cuda")


MIN_SMALLER = 0.95
"""Maximum size of a smaller variant, as a share of the original's bytes."""


WRITTEN = 32
"""Bytes that a text generator writes a run when it is timed."""


@dataclass(frozen=True)
class Optimized:
    """All candidates of one model."""

    model: str
    kind: str
    goal: str
    budget: str
    data: str
    batches: tuple[int, ...]
    bytes: int
    device: str
    machine: str
    onnxruntime: str
    target: str
    web: str  # where variants for the browser were timed, or why not; "" for others
    verdicts: tuple[Verdict, ...]
    files: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Without local paths."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("verdicts", "files")}
        return {**fields, "files": [path.name for path in self.files], "verdicts": [verdict.to_json() for verdict in self.verdicts]}


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all candidates are measured with."""

    original: Engine
    kind: Kind
    goal: str
    budget: Budget
    calibration: Samples
    samples: Samples
    expected: Mapping[str, np.ndarray]
    batches: tuple[int, ...]
    seconds: float
    size: int
    device: str
    web: WebBench | None
    allowance: Allowance

    def text(self) -> bool:
        return self.kind.returns == "text"


def optimize(
    model: str | os.PathLike[str],
    *,
    goal: str | None = None,
    budget: str | Judge | Budget | None = None,
    data: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    batches: Sequence[int] | None = None,
    folder: str | os.PathLike[str] | None = None,
    seconds: float = 1.0,
    samples: int = SCORED,
    device: str = "cpu",
    target: str = "",
    ort_web: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    tried: Callable[[Verdict], None] | None = None,
    within: float = WITHIN,
    say: Callable[[str], None] | None = None,
) -> Optimized:
    """Try every variant of ``model`` (a path or a shipped name) and write the ones that win as ``NAME.TAG.onnx`` into ``folder``.

    ``budget``: see :mod:`onnxferry.export.optimize.budget`; None for the default of the kind, in ``onnxferry.runtime.kinds``.
    ``data``: what is scored on: a named set, a folder of images, an .npz, for text a file; its training part (or first half)
    calibrates unless ``calibration`` is given. ``folder``: made if need be; None for the model's own. ``seconds``: of timing, a
    candidate and batch size. ``samples``: scored at most.
    ``goal``: ``"faster"`` (the default) or ``"smaller"``. ``batches``: 1 and 64 if not given.
    ``device``: ``"cpu"`` or ``"cuda"``, where everything is scored and timed; a certificate holds for that device alone.
    ``target``: ``"web"`` for the browser, which has a goal of its own: the smallest download (with gzip) that is not slower there. It is
    scored here; its golden samples are replayed and it is timed, at batch size 1 if no others are given, in onnxruntime-web in Node.js.
    ``ort_web``: an unpacked npm package onnxruntime-web; npm fetches it if not given. Without it or Node.js nothing is timed, and what
    is known to be slow there is refused. The smallest is written as ``NAME.web.onnx``.
    ``progress``: called with the name of each candidate before it is tried, ``tried`` with its verdict after, which a better candidate
    may still change to one that is not kept.
    ``within``: seconds that all candidates may take, about: one that does not fit into what is left, or not into the memory that is free,
    is skipped, which its verdict says. ``say``: called with lines on what is expected to be taken.
    Kept is what is inside the budget and faster by more than the noise at one of ``batches`` at least (goal ``smaller``: smaller
    by a twentieth), and not beaten by another kept one at all of them. Nothing else is written, and no file half.

    Raises InputError, DataError, ArtifactError for what makes no sense, DeviceError where the device cannot be used; a candidate
    that fails is a verdict, no error.
    """
    if target not in TARGETS:
        raise InputError(f"the target must be {WEB}, got {target!r}")
    if target == WEB and (goal is not None or device != "cpu"):
        raise InputError("the target web has a goal of its own, and all else runs on the CPU; leave out the goal and the device")
    if target != WEB and ort_web is not None:
        raise InputError("onnxruntime-web is for the target web; give that target too, or leave it out")
    goal = goal or "faster"
    batches = batches if batches is not None else (1,) if target else (1, 64)
    if goal not in GOALS:
        raise InputError(f"the goal must be {' or '.join(GOALS)}, got {goal!r}")
    if not batches or any(isinstance(b, bool) or not isinstance(b, int) or not 1 <= b <= 65536 for b in batches):
        raise InputError(f"batch sizes must be whole numbers from 1 to 65536, got {list(batches)!r}")
    if device not in DEVICES:
        raise InputError(f"the device must be {' or '.join(DEVICES)}, got {device!r}")
    path = find_model(model)
    asked = parse_budget(budget) if budget is not None else None
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine(path, device=device))
        contract = engine.contract or Contract(kind=MODEL.name, name=path.stem)
        if contract.certificate:
            raise InputError(f"{path.name} is a variant itself; optimize the original, {contract.name}.onnx")
        for output in engine.outputs:
            if not output.of_numbers:
                raise InputError(f"{path.name} gives {output}: only tensors of numbers can be scored; optimize the model without it")
        kind = kind_of(contract)
        asked = asked or parse_budget(kind.budget)
        asked.check_kind(kind)
        first, second = samples_for(engine, kind, data, calibration, samples)
        beside = _made(path.parent if folder is None else Path(folder))
        if kind.returns == "text":
            second = Samples({**second.feeds, "uniforms": np.zeros((len(second), 0), np.float32)}, second.words)
        sizes = tuple(sorted(set(batches)))
        allowance = Allowance(within, describe(path).summary.weight_bytes, say or (lambda line: None))
        # Rows longer than one take the original's own batches: its answers do not depend on them.
        second, expected = allowance.measure(engine, second, {size: _timed_feeds(kind, second, size, 1)[0] for size in sizes})
        source = load_onnx(path)
        del source.metadata_props[:]  # the contract's defaults stand in the graph again, and a candidate has no contract yet
        web = stack.enter_context(web_bench(path, source, contract, None if ort_web is None else Path(ort_web))) if target else None
        size = bytes_of(path)
        bench = _Bench(engine, kind, target or goal, asked, first, second, expected, sizes, seconds, size, device, web, allowance)
        found = []
        candidates = candidates_for(source, kind, "smaller" if target else goal, first, device)
        candidates = for_web(candidates) if target else candidates
        each = allowance.candidate_seconds(seconds)
        most = max((allowance.candidate_bytes(candidate.making) for candidate in candidates), default=0)
        held = resident_memory()
        memory = f"about {human_bytes(most + (held.rss if held else 0))} of memory {'in all' if held else 'more'}"
        allowance.say(f"{len(candidates)} candidates, each about {each:.0f} s; {memory}, and {within:.0f} s at most")
        for candidate in candidates:
            if progress is not None:
                progress(f"{candidate.tag} {candidate.rung}".strip())
            found.append(_tried(candidate, bench, contract))
            if tried is not None:
                tried(found[-1][0])
        digest = file_sha256(path)
        verdicts, files = _written(found, bench, contract, digest, path, beside)
    return Optimized(
        model=path.name,
        kind=contract.kind,
        goal=bench.goal,
        budget=asked.words,
        data=second.words,
        batches=bench.batches,
        bytes=bench.size,
        device=device,
        machine=machine_name(device),
        onnxruntime=ort_version(),
        target=target,
        web="" if bench.web is None else bench.web.words,
        verdicts=verdicts,
        files=files,
    )


def _made(folder: Path) -> Path:
    """Creates the folder if needed. Raises InputError, or ExportError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}; give another place") from error
    return checked_target(folder / "variant.onnx").parent


_Tried = tuple[Verdict, onnx.ModelProto | None, tuple[tuple[Golden, ...], dict[str, Tolerance]]]


def _tried(candidate: Candidate, bench: _Bench, contract: Contract) -> _Tried:
    """As :func:`_judged`, with the time that it took; or skipped, where it does not fit."""
    skipped = bench.allowance.refusal(bench.seconds, candidate.making)
    if skipped:
        return Verdict(candidate.tag, candidate.what, False, skipped, rung=candidate.rung), None, ((), {})
    start = clock()
    verdict, model, samples = _judged(candidate, bench, contract)
    return dataclasses.replace(verdict, seconds=round(clock() - start, 2)), model, samples


def _judged(candidate: Candidate, bench: _Bench, contract: Contract) -> _Tried:
    """Build, score, time. ``kept`` means: inside the budget and better than the original."""
    nothing: tuple[tuple[Golden, ...], dict[str, Tolerance]] = ((), {})

    def no(words: str, **facts: Any) -> _Tried:
        return (
            Verdict(candidate.tag, candidate.what, False, words, rows_alone=candidate.rows_alone, rung=candidate.rung, **facts),
            None,
            nothing,
        )

    try:
        model = candidate.build()
        if model is None:
            return no("nothing in the model that it changes")
        with as_source(model) as source, _opened(source, candidate, bench) as engine:
            size = bytes_of(source)
            variant = outputs_of(engine, bench.samples.feeds, candidate.rows_alone)
            scored = score(bench.budget, bench.expected, variant, bench.samples.labels)
            facts: dict[str, Any] = {"bytes": size, "score": scored, "rms": rms_of(bench.expected, variant)}
            if not scored.inside:
                return no(f"outside the budget: {scored.words}", **facts)
            if bench.text():
                fine, words = written_score(bench.original, engine, bench.samples, candidate.rows_alone)
                if not fine:
                    return no(f"outside the budget: {words}", **facts)
            samples = _goldens(engine, contract, bench.expected, variant)
            if isinstance(samples, str):
                return no(samples, **facts)
            facts["rms"] = larger(facts["rms"], golden_rms(engine, samples[0]))
            if bench.web is None:
                facts["speed"] = {batch: _speed(bench, engine, batch, candidate.rows_alone) for batch in bench.batches}
            else:
                certificate = {} if bench.text() else {"rms": facts["rms"]}
                certified = contract.replace(goldens=samples[0], tolerances=samples[1], certificate=certificate)
                refused, found = bench.web.judged(model, certified, {batch: _feeds(bench, batch) for batch in bench.batches}, bench.seconds)
                facts |= found
                if refused:
                    return no(refused, **facts)
    except OnnxFerryError as error:
        return no(str(error).splitlines()[0])
    except Exception as error:  # noqa: BLE001 (a tool that fails on this model is the verdict of that candidate)
        return no(f"could not be made: {type(error).__name__}: {first_line(error, 'no reason given')}")
    if bench.goal == "smaller":
        if size > MIN_SMALLER * bench.size:
            return no(f"not smaller: {size} bytes, the original {bench.size}", **facts)
    elif bench.goal == "faster" and not any(each.faster for each in facts["speed"].values()):
        return no("not faster than the original by more than the noise", **facts)
    named: dict[str, Any] = {"rows_alone": candidate.rows_alone, "rung": candidate.rung, "precision": candidate.precision}
    verdict = Verdict(candidate.tag, candidate.what, True, scored.words, **named, **facts)
    return verdict, model, samples


def _opened(source: bytes | Path, candidate: Candidate, bench: _Bench) -> AnyEngine:
    if candidate.precision:
        return OpenVINOEngine(source, threads=bench.original.threads, precision=candidate.precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlacementWarning)  # how fast it is shows what falls to the CPU
        return Engine(source, device=bench.device)


def _speed(bench: _Bench, engine: AnyEngine, batch: int, rows_alone: bool) -> Speed:
    return compare_speed(bench.original, engine, _feeds(bench, batch), rows_alone=rows_alone, seconds=bench.seconds)


def _feeds(bench: _Bench, batch: int) -> list[dict[str, np.ndarray]]:
    """What is timed at that batch size."""
    return _timed_feeds(bench.kind, bench.samples, batch, feeds_for(bench.allowance.runs[batch]))


def _timed_feeds(kind: Kind, samples: Samples, batch: int, count: int) -> list[dict[str, np.ndarray]]:
    """``count`` batches to time with."""
    if kind.returns != "text":
        return rotating(samples.feeds, batch, count)
    prompts = rotating({"prompt": samples.feeds["prompt"][:, :16]}, batch, min(count, 4))
    rng = np.random.default_rng(batch)
    return [{**each, "uniforms": rng.random((batch, WRITTEN), dtype=np.float32)} for each in prompts]


def _goldens(
    engine: AnyEngine, contract: Contract, expected: Mapping[str, np.ndarray], variant: Mapping[str, np.ndarray]
) -> tuple[tuple[Golden, ...], dict[str, Tolerance]] | str:
    """The source's golden samples and the tolerances that the variant is held to from now on; or why they do not hold.

    An element may be off by twice what was seen where it was scored, or by what the original may. Decisions must be equal; but
    of a text that goes another way after one byte, only what was read is kept, and objects may be found in another order.
    """
    written = kind_of(contract).returns == "translation"
    tolerances = dict(contract.tolerances)
    kept = []
    gone = [engine.run(golden.inputs) for golden in contract.goldens]
    for golden, actual in zip(contract.goldens, gone, strict=True):
        outputs = dict(golden.outputs)
        if kind_of(contract).returns == "text" and not np.array_equal(actual["bytes"], outputs.get("bytes", actual["bytes"])):
            outputs = {name: array for name, array in outputs.items() if name in ("log_probabilities", "next_logits")}
        if kind_of(contract).returns == "boxes":
            outputs = in_order_of(outputs, actual) or outputs
        for name, array in outputs.items():
            decided = array.dtype.kind in "iub" and (written or not (array.dtype == np.uint8 and array.ndim >= 3))
            if decided and not np.array_equal(actual[name], array):
                return f"a golden sample's decision changes: its output {name!r}"
        kept.append(Golden(golden.inputs, outputs))
    for name in {name for golden in kept for name in golden.outputs}:
        seen = [(golden.outputs[name], actual[name]) for golden, actual in zip(kept, gone, strict=True) if name in golden.outputs]
        if name in expected and name in variant and expected[name].shape == variant[name].shape:
            seen.append((expected[name], variant[name]))
        if all(a.dtype.kind in ("iub" if written else "ib") for a, _ in seen):
            continue
        off = max((float(absolute_difference(b, a).max()) for a, b in seen if a.size), default=0.0)
        old = tolerances.get(name) or golden_tolerance(seen[0][0].dtype)
        if off > old.atol:
            tolerances[name] = Tolerance(old.rtol, float(f"{2 * off:.3g}"))
    return tuple(kept), tolerances


def _written(
    tried: Sequence[_Tried], bench: _Bench, contract: Contract, digest: str, path: Path, folder: Path
) -> tuple[tuple[Verdict, ...], tuple[Path, ...]]:
    """Writes the kept ones that no other beats."""
    verdicts, files = [], []
    alive = [verdict for verdict, model, _ in tried if verdict.kept and model is not None]
    for verdict, model, (goldens, tolerances) in tried:
        if not verdict.kept or model is None:
            verdicts.append(verdict)
            continue
        winner = better(verdict, alive, bench.goal)
        if winner is not None:
            verdicts.append(dataclasses.replace(verdict, kept=False, words=f"inside, but {winner.name} beats it: {verdict.words}"))
            continue
        target = folder / f"{path.stem}.{verdict.tag}.onnx"
        elsewhere = {}
        if verdict.tag == "int8" and not verdict.rows_alone and not bench.text():
            payload, facts = model.SerializeToString(deterministic=True), (bench.expected, goldens, bench.allowance.runs, bench.seconds)
            elsewhere = on_openvino(payload, bench.original, bench.budget, bench.samples, *facts)
        certificate = _certificate(verdict, bench, digest, elsewhere)
        # What the certificate measured is held to that: a tolerance that every pixel of an image in 8 bits is within says nothing.
        tolerances = {name: each for name, each in tolerances.items() if name not in rms_limits(certificate)}
        certified = contract.replace(goldens=goldens, tolerances=tolerances, certificate=certificate)

        def replay(file: Path, certified: Contract = certified, precision: str = verdict.precision) -> None:
            opened = OpenVINOEngine(file, precision=precision) if precision else Engine(file, device=bench.device)
            with opened as engine:
                if certified.goldens:
                    replay_goldens(engine.run, certified).raise_if_failed(file.name)

        write_artifact(model, certified, target, verify=replay)
        files.append(target)
        verdicts.append(dataclasses.replace(verdict, file=target.name))
    return tuple(verdicts), tuple(files)


def _certificate(verdict: Verdict, bench: _Bench, digest: str, backends: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate, as the runtime reads it. ``backends``: what it says of others than the one that it was made for."""
    made = verdict.score
    scored = {} if made is None else {"metric": made.metric, "source": made.source, "variant": made.variant, "n": made.n}
    own = {"backend": OPENVINO} if verdict.precision else {}
    if verdict.precision:
        backends = {OPENVINO: entry(verdict.precision, scored, verdict.rms, verdict.speed)}
    certificate: dict[str, Any] = {
        "variant": verdict.tag,
        **({"rung": verdict.rung} if verdict.rung else {}),
        "of": digest,
        "goal": bench.goal,
        "budget": bench.budget.words,
        "score": scored,
        # So that another machine, whose kernels may round otherwise, can tell (runtime/tune_search.py).
        **({} if bench.text() else {"rms": dict(verdict.rms)}),
        "data": bench.samples.words,
        "speed": {str(batch): round(speed.ratio, 3) for batch, speed in verdict.speed.items()},
        "bytes": [bench.size, verdict.bytes],
        "device": WEB if bench.web is not None else bench.device,
        "machine": machine_name(bench.device),
        "onnxruntime": ort_version(),
        **own,
        **({} if bench.web is None else {"web": bench.web.words, "transferred": [bench.web.original_bytes, verdict.transferred]}),
        **({"backends": dict(backends)} if backends else {}),
    }
    return {**certificate, "rows_alone": True} if verdict.rows_alone else certificate
