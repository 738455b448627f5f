"""Models that know their task: ``load`` opens a file or a shipped model and gives the object that its contract asks for.

from onnxferry.runtime import load

for prediction in load("digits").predict(["three.png", "seven.jpg"]):
    print(prediction.label, prediction.probability)
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.variants import decoder_path, variants_of
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.open import runs_on
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.tasks.model import Model

Task = TypeVar("Task", bound="Model")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    tune: bool = False,
    limits: Limits | None = None,
    variant: str | None = None,
) -> Model:
    """Opens a model: an existing path or a name ending in ``.onnx`` is a file, anything else the name of a shipped model.

    ``device``: ``"auto"``, ``"cpu"`` or ``"cuda"``. ``threads``: None for as many as this process may use.
    ``providers``: ONNX Runtime's execution providers in order, instead of ``device``. ``tune``: run it the fastest way that is
    proved good enough here (see :mod:`onnxferry.runtime.tuning.tune`): finding that takes up to 20 seconds and is then remembered.
    ``variant``: the tag of a certified variant beside the file, such as ``"int8"`` (see :mod:`onnxferry.runtime.artifact.variants`), which
    is opened instead, on the device that it is certified for; None opens the file itself. Of an autoencoder, each of its two files
    that has such a variant.
    ``limits``: how much a file may hold; raise them (``Limits(depth=40)`` of :mod:`onnxferry.runtime.onnx_file.reader`) for one you trust.

    Returns a :class:`~onnxferry.runtime.tasks.classifier.Classifier` for a recogniser, a
    :class:`~onnxferry.runtime.tasks.text_generator.TextGenerator`, an
    :class:`~onnxferry.runtime.tasks.image_generator.ImageGenerator`, an
    :class:`~onnxferry.runtime.tasks.autoencoder.Autoencoder` (its decoder's file is found beside it), or a plain :class:`Model` for a file
    that carries no contract of ours.
    Raises ArtifactError for a file that cannot be opened or a variant that is not there or not for ``device``, DeviceError where the
    device asked for cannot be used here; with ``tune``, what :func:`onnxferry.runtime.tuning.tune.tune` raises.
    """

    path = find_model(name_or_path)
    if variant is not None and tune:
        raise InputError("give either variant=..., to choose one, or tune=True, to have it chosen")
    chosen = {} if variant is None else variants_of(path, variant, limits)
    for each in chosen.values():  # what a certificate says was seen on one device
        if (device != "auto" or providers is not None) and runs_on(device, providers) != each.device:
            raise ArtifactError(
                f"{each.path.name} is certified for {each.device} alone; leave the device out, or say device={each.device!r}"
            )

    def open_engine(original: Path) -> Engine:
        if tune:
            from onnxferry.runtime.tuning.tune import SECONDS
            from onnxferry.runtime.tuning.tuned_engine import open_tuned

            seconds = SECONDS / 2 if decoder_path(path).is_file() else SECONDS  # of an autoencoder, each half
            return open_tuned(original, device=device, threads=threads, providers=providers, limits=limits, seconds=seconds)
        if original in chosen:
            certified = chosen[original]
            where = certified.device if providers is None else device
            return Engine(certified.path, device=where, threads=threads, providers=providers, limits=limits)
        return Engine(original, device=device, threads=threads, providers=providers, limits=limits)

    return _model_from_engine(open_engine(path), open_engine)


def load_as(task: type[Task], name_or_path: str | os.PathLike[str], device: str = "auto", threads: int | None = None) -> Task:
    """As :func:`load`, for what must be of one kind, such as a
    :class:`~onnxferry.runtime.tasks.classifier.Classifier`. Raises ArtifactError for any other file."""
    model = load(name_or_path, device=device, threads=threads)
    if isinstance(model, task):
        return model
    model.close()
    what = f"its contract says {model.contract.kind}" if model.contract else "it carries no onnxferry contract"
    look = shlex.join(["onnxferry", "inspect", os.fspath(name_or_path)])
    raise ArtifactError(f"{os.fspath(name_or_path)} is not {task.noun}, {what}; see what it takes and gives: {look}")


def _model_from_engine(engine: Engine, open_engine: Callable[[Path], Engine]) -> Model:
    opened = [engine]

    def open_and_note(path: Path) -> Engine:
        opened.append(open_engine(path))
        return opened[-1]

    try:
        return _as_its_kind(engine, open_and_note)
    except BaseException:  # a graph that is not what its contract says: nobody else could close its sessions
        for each in opened:
            each.close()
        raise


def _as_its_kind(engine: Engine, open_engine: Callable[[Path], Engine]) -> Model:
    task: type[Model] = kind_of(engine.contract).task_class
    return task.from_engine(engine, open_engine)
