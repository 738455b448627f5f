"""Finds the fastest way to run a model on this machine by measuring: variant, back end, threads, graph level, fixed sizes and binding.

    tuning = tune("digits.onnx")                # at most 20 seconds; the result is kept for the next time
    tuning.plans[64].setting, tuning.plans[64].ratio
    load("digits.onnx", tune=True)              # uses what was measured before, for whatever batch sizes

A setting can only be chosen if it gives the model's golden samples within their tolerances; the default stays unless another setting is
faster by more than the noise. :mod:`~onnxferry.runtime.tuning.search` says how settings are timed,
:mod:`~onnxferry.runtime.tuning.cache` where the results are kept.
"""

from __future__ import annotations

import math
import operator
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.artifact.variants import Variant, certified_variants
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.backends.choose import AnyEngine, installed_backends, open_backend
from onnxferry.runtime.engine.batches import batch_axis
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.open import runs_on
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.reader import file_sha256
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary
from onnxferry.runtime.tuning import cache
from onnxferry.runtime.tuning.expected import KEPT, with_measured
from onnxferry.runtime.tuning.inputs import fixed_sizes, make_feeds
from onnxferry.runtime.tuning.plan import Measured, Plan, Setting, Trial, Tuning, plan_from_json, plan_to_json
from onnxferry.runtime.tuning.search import Pool, Search

SECONDS = 20.0
"""The default time limit for a model, all batch sizes together."""


BATCHES = 1, 64


MAX_BATCH = 65_536


LESS = 0.5
"""Share of their time alone that rows of a batch may take, at least: a batch that would not fit with it is not run."""


LEVELS = ("all", "extended", "basic")


def tune(
    name_or_path: str | os.PathLike[str],
    batches: Sequence[int] | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
    providers: Sequence[ort.Provider] | None = None,
    limits: Limits | None = None,
    seconds: float = SECONDS,
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
    remember: bool = True,
    again: bool = False,
) -> Tuning:
    """A plan for each batch size, measured now or kept from before.

    What was measured is kept with the plan, and a later call adds to it: one that finds the plan unsure (:attr:`Plan.unsure`: the machine
    was busy, or the fastest ones are too close), or ``again``.

    ``batches``: None for 1 and 64, or for the graph's batch size if that is fixed. ``threads``: only this number is tried; None for 1 up
    to as many as the process may use. ``device``, ``providers``, ``limits``: as of :class:`Engine`.
    ``seconds``: the time limit; a setting that there is no time left to measure keeps its default. ``feeds``: inputs to time with, of any
    batch size; if empty, the file's first golden sample, or random arrays of its shapes. With them, earlier results of these batch sizes
    do not count.
    Variants are tried on the device that they are certified for; on the CPU, the file itself is also tried on every installed back end
    of :mod:`onnxferry.runtime.engine.backends.choose`.
    ``remember``: False neither reads earlier results nor keeps the new ones.

    Raises InputError for invalid batch sizes and for inputs that cannot be generated, CheckFailedError if the file fails its golden
    samples with the default setting, and what :class:`Engine` raises.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InputError(f"seconds must be a number above 0, got {seconds!r}")
    if isinstance(feeds, Mapping) or not all(isinstance(each, Mapping) for each in feeds):
        raise InputError("feeds must be a list of dicts of arrays by input name, as run() takes them")
    model = describe(find_model(name_or_path), limits)
    sizes = _batch_sizes(batches, model.summary)
    return _tune(situation_of(model, device, threads, providers), sizes, seconds, feeds, remember, again)


def tuning_for(
    model: Description,
    *,
    device: str = "auto",
    threads: int | None = None,
    providers: Sequence[ort.Provider] | None = None,
    seconds: float = SECONDS,
) -> Tuning:
    """All plans that were measured before, for whatever batch sizes; if there are none, :func:`tune` for the default sizes."""
    situation = situation_of(model, device, threads, providers)
    known = situation.known_plans()
    if known:
        return situation.watched(situation.tuning(known, remembered=True))
    reason = situation.why_unknown()
    if reason:
        warnings.warn(f"{model.name} is tuned again: {reason}", RuntimeWarning, stacklevel=5)
    tuning = _tune(situation, _batch_sizes(None, model.summary), seconds)
    if tuning.not_kept:
        warnings.warn(
            f"the tuning of {model.name} is not remembered and will be measured again next time: {tuning.not_kept}; "
            "set ONNXFERRY_CACHE to a folder that can be written",
            RuntimeWarning,
            stacklevel=5,
        )
    return situation.watched(tuning)


@dataclass(frozen=True)
class Situation:
    """What a plan is valid for: a model with its variants, the device, and the numbers of threads to choose from."""

    model: Description
    variants: tuple[Variant, ...]  # those certified for the device
    device: str  # "auto", "cpu" or "cuda", as asked for
    where: str  # the device that this is on this machine
    providers: Sequence[ort.Provider] | None
    threads: tuple[int, ...]  # to try; the first is the default
    backends: Mapping[str, str]  # other ones that are tried: versions by name

    @property
    def files(self) -> dict[str, Description]:
        """By the variant's tag; the model itself under ""."""
        return {"": self.model, **{variant.tag: variant.file for variant in self.variants}}

    @property
    def writes_text(self) -> bool:
        return kind_of(self.model.contract).returns == "text"

    def key(self) -> dict[str, Any]:
        """Everything that the plans depend on."""
        path = self.model.path
        outside = [] if path is None else self.model.summary.weight_files(path)
        return {
            "file": self.model.digest,
            # Too large to hash at each start.
            "outside": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in outside],
            "variants": {variant.tag: variant.file.digest for variant in self.variants},
            "machine": cpu.machine_name(),
            "onnxruntime": str(ort.onnxruntime().__version__),
            "device": self.where,
            "providers": None if self.providers is None else repr(list(self.providers)),
            "threads": list(self.threads),
            "backends": dict(self.backends),
        }

    def why_unknown(self) -> str:
        """Why nothing is known of this model although it was tuned before, in a line; "" where it was not."""
        return cache.problem_of(self.key())

    def known_plans(self) -> dict[int, Plan]:
        """Plans that were kept, by the batch size they were measured for."""
        document = cache.read_entry(self.key())
        entries = document.get("plans") if document else None
        tags = frozenset(variant.tag for variant in self.variants)
        plans = {}
        for text, entry in entries.items() if isinstance(entries, dict) else ():
            batch = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
            plan = plan_from_json(entry, batch, tags)
            if plan is not None and plan.setting.threads in self.threads:
                plans[batch] = plan
        return plans

    def keep(self, plans: Mapping[int, Plan], earlier: Mapping[int, Sequence[Measured]] | None = None) -> str:
        """Keeps plans for the next time, beside those of other sizes. Returns why that was not possible, "" where it was.

        What another process has measured since ``earlier`` was read is kept too.
        """
        known = self.known_plans()
        kept = dict(known)
        for size, plan in plans.items():
            before = set((earlier or {}).get(size, ()))
            others = [each for each in known[size].measured if each not in before] if size in known and earlier is not None else []
            kept[size] = with_measured(plan, *others)
        return cache.write_entry(self.key(), {"plans": {str(size): plan_to_json(kept[size]) for size in sorted(kept)}})

    def watched(self, tuning: Tuning) -> Tuning:
        """With a way to keep its plans as they are found in use."""

        def keep(plan: Plan) -> str:
            return self.keep({plan.batch: plan}, {plan.batch: tuning.plans[plan.batch].measured})

        return replace(tuning, keep=keep)

    def tuning(self, plans: Mapping[int, Plan], *, remembered: bool, not_kept: str = "", seconds: float = 0.0) -> Tuning:
        return Tuning(
            path=self.model.path or Path(),
            plans=dict(sorted(plans.items())),
            machine=cpu.machine_name(),
            per_row=frozenset(variant.tag for variant in self.variants if variant.per_row),
            text=self.writes_text,
            remembered=remembered,
            not_kept=not_kept,
            seconds=seconds,
            files=self.files,
        )


def situation_of(model: Description, device: str, threads: int | None, providers: Sequence[ort.Provider] | None) -> Situation:
    """Raises what :class:`Engine` raises for a device or providers that cannot be used."""
    where = runs_on(device, providers)
    most = cpu.default_threads() if threads is None else threads
    counts = _thread_counts(most) if threads is None and where != "cuda" else [most]  # threads are the CPU's
    # The others have neither a GPU nor inputs with a default inside the graph, and a list of providers says what is to be tried.
    defaults = model.contract.defaults if model.contract is not None else {}
    apart = where != "cpu" or providers is not None or any(spec.name not in defaults for spec in model.summary.optional_inputs)
    backends = {} if apart else installed_backends()
    return Situation(model, certified_variants(model, device=where), device, where, providers, tuple(counts), backends)


def _tune(
    situation: Situation,
    sizes: Sequence[int],
    seconds: float,
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
    remember: bool = True,
    again: bool = False,
) -> Tuning:
    start = time.perf_counter()
    kept = situation.known_plans() if remember else {}
    known = {} if feeds else kept  # what was measured with other inputs need not be true of these
    missing = [size for size in sizes if again or size not in known or (known[size].unsure and len(known[size].measured) < KEPT)]
    earlier = {size: known[size].measured for size in missing if size in known}
    measured = _measured(situation, missing, feeds, start + seconds, known)
    new = {size: plan for size, plan in measured.items() if plan.measured}  # the others were not run
    not_kept = "asked not to" if not remember else situation.keep(new, earlier) if new else ""
    plans = {size: new.get(size) or known.get(size) or measured[size] for size in sizes}
    return situation.tuning(plans, remembered=not missing, not_kept=not_kept, seconds=time.perf_counter() - start)


def _measured(
    situation: Situation,
    sizes: Sequence[int],
    feeds: Sequence[Mapping[str, np.ndarray]],
    deadline: float,
    known: Mapping[int, Plan],
) -> dict[int, Plan]:
    """A plan for each batch size, each with an equal share of the time left until ``deadline`` (of ``time.perf_counter``).

    ``known``: earlier plans. Those of these sizes are added to, and those of smaller sizes say how long a run may take.
    """
    if not sizes:
        return {}
    contract, summary = situation.model.contract, situation.model.summary
    default = Setting(threads=situation.threads[0])

    def open_engine(file: Description, setting: Setting) -> AnyEngine:
        return open_as(setting, file, device=situation.device, providers=situation.providers)

    pool = Pool(situation.files, open_engine)
    plans: dict[int, Plan] = {}
    try:
        for position, size in enumerate(sizes):
            left = (deadline - time.perf_counter()) / (len(sizes) - position)
            smaller = [plan.default_seconds * size / batch for batch, plan in {**known, **plans}.items() if batch < size]
            taken = max(smaller, default=0.0)  # as long, row by row
            if LESS * taken > left:
                words = f"it was not run: one run would take about {taken:.3g} s; give more --seconds"
                plans[size] = Plan(size, default, taken, taken, 1.0, (Trial(default, None, 1.0, "default"),), words)
                continue
            made = make_feeds(contract, summary.inputs, size, samples=feeds, optional=[spec.name for spec in summary.optional_inputs])
            variants = [variant for variant in situation.variants if size == 1 or not variant.per_row]
            others = _settings(variants, situation.threads, default, list(situation.backends))
            fixed = () if situation.writes_text else fixed_sizes(summary.inputs, made)  # prompts are of any length
            earlier = known[size].measured if size in known else ()
            search = Search(pool, made, left, on_cpu=situation.where == "cpu", earlier=earlier)
            plans[size] = search.plan(size, default, others, LEVELS, fixed)
    finally:
        pool.close()
    return plans


def open_as(setting: Setting, file: Description, *, device: str, providers: Sequence[ort.Provider] | None = None) -> AnyEngine:
    """``file``: that of the setting's variant."""
    if setting.backend != ort.ONNXRUNTIME:
        return open_backend(setting.backend, file, threads=setting.threads, sizes=dict(setting.sizes))
    return Engine(
        file,
        device=device,
        threads=setting.threads,
        providers=providers,
        graph_level=setting.graph_level,
        sizes=dict(setting.sizes),
    )


def forget(name_or_path: str | os.PathLike[str]) -> int:
    """Removes all results that were kept for a model's file, for any settings. Returns how many entries there were."""
    return cache.forget_entries(file_sha256(find_model(name_or_path)))


def _batch_sizes(batches: Iterable[int] | None, summary: ModelSummary) -> list[int]:
    """The batch sizes, checked, without duplicates and ascending. Raises InputError."""
    fixed = None
    if batch_axis(summary.inputs, summary.optional_inputs) is None:
        fixed = next((size for spec in summary.inputs for size in spec.shape[:1] if isinstance(size, int) and size > 0), 1)
    if batches is None:
        return [fixed] if fixed else list(BATCHES)
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise InputError(f"batches must be a list of whole numbers such as [1, 64], got {batches!r}")
    sizes = set()
    for batch in batches:
        try:
            size = operator.index(batch)
        except TypeError:
            size = 0
        if isinstance(batch, bool) or not 1 <= size <= MAX_BATCH:
            raise InputError(f"a batch size must be a whole number from 1 to {MAX_BATCH}, got {batch!r}")
        if fixed and size != fixed:
            raise InputError(f"the model takes batches of {fixed} only, got {size}; export it with a dynamic batch axis")
        sizes.add(size)
    if not sizes:
        raise InputError("batches is empty: give at least one batch size, or None for the usual ones")
    return sorted(sizes)


def _thread_counts(most: int) -> list[int]:
    """The highest number first, then one, then the powers of two between: trying every number would take too long."""
    between = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return list(dict.fromkeys([most, 1, *reversed(between)]))


def _settings(variants: Sequence[Variant], counts: Sequence[int], default: Setting, backends: Sequence[str]) -> list[Setting]:
    """Variants, back ends and numbers of threads to try, likeliest first: the variants with the highest certified speed.

    A variant runs on the back end that it is certified for; on the others, the file itself.
    """
    promised = sorted(variants, key=lambda variant: -max(variant.speed.values(), default=1.0))
    ways = [(variant.tag, name) for variant in promised for name in variant.backends if name == ort.ONNXRUNTIME or name in backends]
    ways += [("", backend) for backend in (ort.ONNXRUNTIME, *backends)]
    settings = [Setting(tag, count, backend=backend) for count in counts for tag, backend in ways]
    return [setting for setting in settings if setting != default]
