"""``load`` opens a file or a shipped model, and returns an object of the class for its task.

from onnxferry import load

for prediction in load("digits").predict(["three.png", "seven.jpg"]):
    print(prediction.label, prediction.probability)
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onnxferry.runtime.artifact.contract import Contract, kind_of
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.artifact.variants import Variant, decoder_path, variants_of
from onnxferry.runtime.artifact.zoo import check_shipped, find_model
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.open import runs_on
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.tasks.model import Model

if TYPE_CHECKING:
    from onnxferry.runtime.sandbox.child import SandboxLimits

Task = TypeVar("Task", bound="Model")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    backend: str | None = None,
    tune: bool = False,
    limits: Limits | None = None,
    variant: str | None = None,
    isolated: bool | SandboxLimits = False,
    timeout: float | None = None,
    verify: bool = False,
) -> Model:
    """Open a model.

        load("digits")                          # a shipped model, see zoo_names()
        load("model.onnx", device="cuda")       # a file
        load("digits", variant="int8")          # a certified variant beside the file

    ``name_or_path``: an existing path or a name ending in ``.onnx`` is a file, a folder is the one .onnx file in it, anything else the
    name of a shipped model.
    ``device``: ``"auto"``, ``"cpu"`` or ``"cuda"``. ``threads``: None for as many as this process may use.
    ``providers``: ONNX Runtime's execution providers in order, instead of ``device``.
    ``backend``: what runs the model on the CPU: None for ONNX Runtime, ``"openvino"`` for OpenVINO's own runtime, or the name of an
    installed wheel with a plugin provider, such as ``"onnxruntime-ep-openvino"``. It computes in float32.
    ``tune``: run the model with the fastest verified settings on this machine (see :mod:`onnxferry.runtime.tuning.tune`): those that were
    measured before, for whatever batch sizes; if there are none, they are measured now, in up to 20 seconds, and kept.
    ``variant``: the tag of a certified variant beside the file, such as ``"int8"`` (see :mod:`onnxferry.runtime.artifact.variants`), to
    open instead, on the device and the back end that it is certified for. Of an autoencoder's two files, each that has such a variant.
    ``isolated``: run the model in a confined child process, for a file that you do not trust (see
    :mod:`onnxferry.runtime.sandbox.isolated`); on the CPU, without ``tune``, ``variant`` and ``providers``. True, or what the child
    may use: ``SandboxLimits(seconds=10, memory_bytes=2**31)``.
    ``timeout``: seconds that ONNX Runtime may take to open each file; :meth:`Model.run` has one of its own. Not with ``tune``.
    ``verify``: of a shipped model, compare the SHA-256 of each file with what this release shipped, before it is opened.
    ``limits``: how much a file may hold; raise them (``Limits(depth=40)``) for one you trust.

    Returns a :class:`~onnxferry.runtime.tasks.classifier.Classifier` for a recogniser, a
    :class:`~onnxferry.runtime.tasks.text_generator.TextGenerator`, an
    :class:`~onnxferry.runtime.tasks.image_generator.ImageGenerator`, an
    :class:`~onnxferry.runtime.tasks.autoencoder.Autoencoder` (its decoder's file is found beside it), a
    :class:`~onnxferry.runtime.tasks.text_classifier.TextClassifier`, a
    :class:`~onnxferry.runtime.tasks.text_models.TextTagger` (or ``TextEmbedder``, ``TextDecoder``) for a model of text whose tokenizer
    lies beside it, a
    :class:`~onnxferry.runtime.tasks.row_classifier.RowClassifier` for a model with labels and their probabilities, or a plain
    :class:`Model` for any other file.

    Raises ArtifactError for a file that cannot be opened (ArtifactNotFoundError for one that does not exist) or a variant that does
    not exist or is not for ``device``, DeviceError where the device cannot be used here, TimeLimitError after ``timeout``; with ``tune``,
    what :func:`onnxferry.runtime.tuning.tune.tune` raises; with ``verify``, InputError for a file that is not shipped and ArtifactError
    for one that was changed.
    """
    path = find_model(_in_folder(name_or_path))
    if verify:
        check_shipped(path)  # also the original of a variant, whose certificate names it
    if variant is not None and tune:
        raise InputError("give either variant=..., to choose one, or tune=True, to have it chosen")
    if tune and timeout is not None:
        raise InputError("tune=True has a time limit of its own: leave timeout out")
    if backend is not None:
        _check_backend(backend, device, providers, tune)
    if isolated:
        if tune or variant is not None or providers is not None or device not in ("auto", "cpu") or backend is not None:
            raise InputError("isolated=True runs the file as it is on the CPU: leave device, providers, backend, tune and variant out")
        from onnxferry.runtime.sandbox.child import SandboxLimits

        if not isinstance(isolated, bool | SandboxLimits):
            raise InputError(f"isolated must be True, False or SandboxLimits(...), got {isolated!r}")
        return _load_isolated(path, threads, None if isinstance(isolated, bool) else isolated, limits, timeout, verify)
    chosen = {} if variant is None else _chosen_variants(path, variant, device, providers, limits)
    for certified in chosen.values() if backend is not None else ():
        if backend not in certified.backends:
            raise ArtifactError(f"{certified.path.name} is certified for {', '.join(certified.backends)} alone, not for {backend}")

    def described(file: Path) -> Description:
        model = describe(file, limits)
        if verify:
            check_shipped(file, model.digest)
        return model

    def open_file(file: Path) -> Runner:
        if tune:
            share = 0.5 if decoder_path(path).is_file() else 1.0  # an autoencoder's two files share the time
            return _open_tuned(described(file), device, threads, providers, share)
        certified = chosen.get(file)
        where = certified.device if certified and providers is None else device
        model = certified.file if certified else described(file)
        if verify and certified:
            check_shipped(certified.path, model.digest)
        runs = backend or (next(iter(certified.backends)) if certified and providers is None else ort.ONNXRUNTIME)
        if runs != ort.ONNXRUNTIME:
            from onnxferry.runtime.engine.backends.choose import open_backend, verified

            return verified(open_backend(runs, model, threads=threads, timeout=timeout), runs, model.name)
        return Engine(model, device=where, threads=threads, providers=providers, timeout=timeout)

    return _model_from_runner(open_file(path), open_file)


def _check_backend(backend: str, device: str, providers: object, tune: bool) -> None:
    from onnxferry.runtime.engine.backends.choose import check_name

    check_name(backend)
    if tune:
        raise InputError("give either backend=..., to choose one, or tune=True, to have it chosen")
    if providers is not None:
        raise InputError("give either backend=... or providers=[...], which are ONNX Runtime's, not both")
    if device not in ("auto", "cpu") and backend != ort.ONNXRUNTIME:
        raise InputError(f"backend={backend!r} runs on the CPU: leave device={device!r} out")


def _in_folder(name_or_path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The only .onnx file of a folder, for a model that lies there with its tokenizer; anything else as it is."""
    if not isinstance(name_or_path, str | os.PathLike):
        return name_or_path  # find_model reports it
    folder = Path(name_or_path)
    if not os.fspath(name_or_path) or not folder.is_dir():
        return name_or_path
    files = sorted(folder.glob("*.onnx"))
    if not files and (folder / "config.json").is_file():
        made = shlex.join(["onnxferry", "export", str(folder), "-o", str(folder / "model.onnx")])
        raise ArtifactError(f"the folder {folder} holds a model of transformers that was not exported: {made}")
    if len(files) != 1:
        raise ArtifactError(f"the folder {folder} holds {len(files)} .onnx files, expected one: name the file")
    return files[0]


def _load_isolated(
    path: Path, threads: int | None, sandbox: SandboxLimits | None, limits: Limits | None, timeout: float | None, verify: bool
) -> Model:
    from onnxferry.runtime.sandbox.isolated import IsolatedEngine

    def open_file(file: Path) -> Runner:
        if verify:
            check_shipped(file)
        return IsolatedEngine(file, threads=threads, limits=sandbox, file_limits=limits, timeout=timeout)

    return _model_from_runner(open_file(path), open_file)


def _chosen_variants(
    path: Path, tag: str, device: str, providers: Sequence[ort.Provider] | None, limits: Limits | None
) -> dict[Path, Variant]:
    """The variants of that tag, by their original's file. Raises ArtifactError if there is none, or it is for another device."""
    chosen = variants_of(path, tag, limits)
    for each in chosen.values():  # what a certificate says was measured on one device
        if (device != "auto" or providers is not None) and runs_on(device, providers) != each.device:
            raise ArtifactError(
                f"{each.path.name} is certified for {each.device} alone; leave the device out, or say device={each.device!r}"
            )
    return chosen


def _open_tuned(model: Description, device: str, threads: int | None, providers: Sequence[ort.Provider] | None, share: float) -> Runner:
    from onnxferry.runtime.tuning.tune import SECONDS
    from onnxferry.runtime.tuning.tuned_engine import open_tuned

    return open_tuned(model, device=device, threads=threads, providers=providers, seconds=share * SECONDS)


def load_as(task: type[Task], name_or_path: str | os.PathLike[str], device: str = "auto", threads: int | None = None) -> Task:
    """As :func:`load`, for a model that must be of one class, such as a
    :class:`~onnxferry.runtime.tasks.classifier.Classifier`. Raises ArtifactError for any other file."""
    model = load(name_or_path, device=device, threads=threads)
    if isinstance(model, task):
        return model
    model.close()
    raise wrong_kind(model.contract, task, name_or_path)


def wrong_kind(contract: Contract | None, task: type[Model], name_or_path: str | os.PathLike[str]) -> ArtifactError:
    """The error for a model of another class than a verb takes."""
    what = f"its contract says {contract.kind}" if contract else "it carries no onnxferry contract"
    return ArtifactError(f"{os.fspath(name_or_path)} is not {task.noun}, {what}; {run_or_inspect(name_or_path)}")


def run_or_inspect(name_or_path: str | os.PathLike[str]) -> str:
    """The end of an error for a model that a verb does not take."""
    look, run = (shlex.join(["onnxferry", verb, os.fspath(name_or_path)]) for verb in ("inspect", "run"))
    return f"see what it takes and gives: {look}; run it on anything: {run} --feeds FILE"


def _model_from_runner(runner: Runner, open_file: Callable[[Path], Runner]) -> Model:
    opened = [runner]

    def open_and_note(path: Path) -> Runner:
        opened.append(open_file(path))
        return opened[-1]

    try:
        task: type[Model] = kind_of(runner.contract).task_class
        if task is Model:
            from onnxferry.runtime.tasks.row_classifier import RowClassifier  # only here: it reads tables, which no other task does

            task = RowClassifier if RowClassifier.fits(runner) else task
        return task.from_engine(runner, open_and_note)
    except BaseException:  # a graph that is not what its contract says: the caller has nothing to close
        for each in opened:
            each.close()
        raise
