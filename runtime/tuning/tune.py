"""The fastest way to run a model on this machine, found by trying: which certified variant, threads, graph level, sizes and binding.

    tuning = tune("digits.onnx")                # at most 20 seconds; the second time it is remembered
    tuning.plans[64].setting, tuning.plans[64].ratio
    load("digits.onnx", tune=True)              # the same, and runs that way from then on

Before a setting may win, it must give the model's golden samples within their tolerances; where it does not win by more than the
noise, the default stays. :mod:`tune_search` says how it is timed, :mod:`tune_cache` where it is remembered.
"""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.metadata import contract_of
from onnxferry.runtime.artifact.variants import Variant, certified_variants
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.batches import batch_axis
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.open import runs_on
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.machine import cpu as hardware
from onnxferry.runtime.onnx_file.reader import file_sha256, read_model
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary
from onnxferry.runtime.tuning import cache as tune_cache
from onnxferry.runtime.tuning.inputs import fixed_sizes, make_feeds
from onnxferry.runtime.tuning.plan import Plan, Setting, Tuning, plan_from_json, plan_to_json
from onnxferry.runtime.tuning.search import Pool, Search

SECONDS = 20.0
"""That tuning a model takes at most, all batch sizes together."""


BATCHES = 1, 64


MAX_BATCH = 65_536


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
) -> Tuning:
    """A plan for each batch size, measured now or remembered from before.

    ``batches``: None for 1 and 64, for a graph of a fixed batch that one. ``threads``: only this number is
    tried; None for 1 up to as many as the process may use. ``device``, ``providers``, ``limits``: as of :class:`Engine`.
    ``seconds``: for all of it; a setting that there is no time left to measure stays as it is by default. ``feeds``: inputs
    to time with, of any batch size; the first golden sample of the file, or what its shapes ask for, where none are given. With them,
    what was found before does not count.
    Variants are tried where they are certified: those of the CPU on the CPU, those of CUDA there.
    ``remember``: False neither looks at what was found before nor keeps what is found now.

    Raises InputError for batch sizes that make no sense and for inputs that cannot be made up, CheckFailedError where the file's
    golden samples do not come out even as it is, and what :class:`Engine` raises.
    """
    start = time.perf_counter()
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InputError(f"seconds must be a number above 0, got {seconds!r}")
    if isinstance(feeds, Mapping) or not all(isinstance(each, Mapping) for each in feeds):
        raise InputError("feeds must be a list of dicts of arrays by input name, as run() takes them")
    path = find_model(name_or_path)
    summary = read_model(path, limits)
    contract = contract_of(summary.metadata, str(path))
    sizes = _batch_sizes(batches, summary)
    where = runs_on(device, providers)
    variants = certified_variants(path, limits, where)
    most = hardware.default_threads() if threads is None else threads
    counts = _thread_counts(most) if threads is None and where != "cuda" else [most]  # of the CPU
    key = _key(path, summary, variants, (device, where), providers, counts)
    known = _known_plans(key, variants) if remember and not feeds else {}  # what was found with other inputs need not hold for these
    plans = {size: known[size] for size in sizes if size in known}
    missing = [size for size in sizes if size not in known]
    not_kept = "" if remember else "asked not to"
    if missing:
        files = {"": path, **{variant.tag: variant.path for variant in variants}}

        def open_engine(file: Path, setting: Setting) -> Engine:
            return open_as(setting, file, device=device, providers=providers, limits=limits)

        pool = Pool(files, open_engine)
        default = Setting(threads=most)
        text = kind_of(contract).returns == "text"  # prompts are of any length
        try:
            for position, size in enumerate(missing):
                left = (seconds - (time.perf_counter() - start)) / (len(missing) - position)
                made = make_feeds(contract, summary.inputs, size, samples=feeds, optional=[spec.name for spec in summary.optional_inputs])
                others = _settings([v for v in variants if size == 1 or not v.rows_alone], counts, default)
                fixed = () if text else fixed_sizes(summary.inputs, made)
                plans[size] = Search(pool, made, left).plan(size, default, others, LEVELS, fixed)
        finally:
            pool.close()
        if remember:
            kept = {**known, **plans}
            not_kept = tune_cache.write_entry(key, {"plans": {str(size): plan_to_json(kept[size]) for size in sorted(kept)}})
    return Tuning(
        path=path,
        plans=dict(sorted(plans.items())),
        machine=cpu.machine_name(),
        rows_alone=frozenset(variant.tag for variant in variants if variant.rows_alone),
        text=kind_of(contract).returns == "text",
        remembered=not missing,
        not_kept=not_kept,
        seconds=time.perf_counter() - start,
    )


def open_as(
    setting: Setting,
    file: Path,
    *,
    device: str,
    providers: Sequence[ort.Provider] | None = None,
    limits: Limits | None = None,
) -> Engine:
    """``file``: that of the setting's variant."""
    return Engine(
        file,
        device=device,
        threads=setting.threads,
        providers=providers,
        limits=limits,
        graph_level=setting.graph_level,
        sizes=dict(setting.sizes),
    )


def forget(name_or_path: str | os.PathLike[str]) -> int:
    """Forgets all that was found for a model's file, for whatever settings. Returns how many entries there were."""
    return tune_cache.forget_entries(file_sha256(find_model(name_or_path)))


def _batch_sizes(batches: Iterable[int] | None, summary: ModelSummary) -> list[int]:
    """Checked, each once, ascending. Raises InputError."""
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
    """All there are first, then one, then powers of two between: every number of many would take too long to try."""
    between = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return list(dict.fromkeys([most, 1, *reversed(between)]))


def _settings(variants: Sequence[Variant], counts: Sequence[int], default: Setting) -> list[Setting]:
    """Files by threads, likeliest first: what a certificate says is faster comes before what is not."""
    promised = sorted(variants, key=lambda variant: -max(variant.speed.values(), default=1.0))
    settings = [Setting(tag, count) for count in counts for tag in (*(variant.tag for variant in promised), "")]
    return [setting for setting in settings if setting != default]


def _key(
    path: Path,
    summary: ModelSummary,
    variants: Sequence[Variant],
    device: tuple[str, str],
    providers: Sequence[ort.Provider] | None,
    counts: Sequence[int],
) -> dict[str, Any]:
    """Everything that the answer depends on. ``device``: as asked for, and what that is here."""
    return {
        "file": file_sha256(path),
        # Too large to be read each time.
        "outside": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in summary.weight_files(path)],
        "variants": {variant.tag: file_sha256(variant.path) for variant in variants},
        "machine": cpu.machine_name(),
        "onnxruntime": str(ort.onnxruntime().__version__),
        "device": list(device),
        "providers": None if providers is None else repr(list(providers)),
        "threads": list(counts),
    }


def _known_plans(key: Mapping[str, Any], variants: Sequence[Variant]) -> dict[int, Plan]:
    document = tune_cache.read_entry(key)
    entries = document.get("plans") if document else None
    tags = frozenset(variant.tag for variant in variants)
    plans = {}
    for text, entry in entries.items() if isinstance(entries, dict) else ():
        batch = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
        plan = plan_from_json(entry, batch, tags)
        if plan is not None:
            plans[batch] = plan
    return plans
