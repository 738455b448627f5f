"""Which session a model gets: on the device that was asked for, from the file itself or from this machine's cache of rewritten graphs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxferry.runtime import graph_cache, ort
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError
from onnxferry.runtime.graph_cache import GraphCache
from onnxferry.runtime.onnx_file import ModelSummary


@dataclass(frozen=True)
class Opened:
    """A session, and what is to be known of it."""

    session: Any  # onnxruntime.InferenceSession
    reason: str  # why it runs where it runs
    cached: bool = False  # whether its graph came from the cache


def cache_for(choice: bool | str | os.PathLike[str] | None, summary: ModelSummary) -> GraphCache | None:
    """The cache that a model's graph goes to. ``choice``: None where it pays, True wherever it can, False never, or a folder."""
    if choice is not None and not isinstance(choice, bool | str | os.PathLike):
        raise InputError(f"cache must be None, True, False or a folder, got {choice!r}")
    if choice is False or not graph_cache.can_hold(summary) or (choice is None and not graph_cache.pays(summary)):
        return None
    folder = graph_cache.cache_folder() if choice is None or choice is True else choice
    return None if folder is None else GraphCache(Path(folder))


def open_on(
    model: str | bytes,
    name: str,
    settings: ort.SessionSettings,
    device: str,
    providers: Sequence[ort.Provider] | None,
    cache: GraphCache | None = None,
) -> Opened:
    """Opens a model where it was asked for. ``name`` stands for it in messages."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}; other providers go into providers=[...]")
    if providers is not None:
        if device != "auto":
            raise InputError(f"give either device={device!r} or providers=[...], not both")
        requested = ort.provider_list(providers)
        for full, _ in requested:
            problem = ort.provider_problem(full) if full != ort.CPU else None
            if problem:
                raise DeviceError(f"the provider {ort.short_name(full)!r} cannot be used here: {problem}")
        return _open(model, name, settings, requested, "as asked for", cache)
    on_cpu: list[ort.Requested] = [(ort.CPU, {})]
    on_cuda = [(ort.CUDA, ort.CUDA_OPTIONS), *on_cpu]
    if device == "cpu":
        return _open(model, name, settings, on_cpu, "as asked for", cache)
    problem = ort.cuda_problem()
    if device == "cuda":
        if problem:
            raise DeviceError(f"device='cuda' cannot be used here: {problem}")
        return _open(model, name, settings, on_cuda, "as asked for", cache)
    if problem is None:
        try:
            return _open(model, name, settings, on_cuda, "CUDA works here", cache)
        except DeviceError as error:
            problem = str(error)
    return _open(model, name, settings, on_cpu, f"CUDA cannot be used: {problem}", cache)


def _open(
    model: str | bytes, name: str, settings: ort.SessionSettings, requested: Sequence[ort.Requested], reason: str, cache: GraphCache | None
) -> Opened:
    # Other providers rewrite graphs for themselves, or compile them, and have caches of their own.
    if cache is not None and list(requested) == [(ort.CPU, {})] and settings.graph_level != "off":
        opened = _open_cached(model, name, settings, requested, reason, cache)
        if opened is not None:
            return opened
    return Opened(ort.open_session(model, name, settings, requested), reason)


def _open_cached(
    model: str | bytes, name: str, settings: ort.SessionSettings, requested: Sequence[ort.Requested], reason: str, cache: GraphCache
) -> Opened | None:
    """From the cache, or from the file and into the cache; None where neither works, for whatever reason."""
    key = cache.key(model, settings.graph_level)
    if key is None:
        return None
    entry = cache.find(key)
    if entry is not None:
        try:
            session = ort.open_session(os.fspath(entry), name, dataclasses.replace(settings, graph_level="off"), requested)
        except ArtifactError:
            cache.drop(entry)
        else:
            return Opened(session, reason, cached=True)
    temporary = cache.temporary()
    if temporary is None:
        return None
    try:
        session = ort.open_session(model, name, dataclasses.replace(settings, save_to=os.fspath(temporary)), requested)
        if cache.key(model, settings.graph_level) == key:  # else the file was exchanged meanwhile
            cache.keep(temporary, key)
        return Opened(session, reason)
    except ArtifactError:
        return None  # the file's fault, or no room for the entry: opening it without one tells
    finally:
        cache.drop(temporary)
