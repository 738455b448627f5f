"""What is measured: a model's whole task at a batch size, as feeds that rotate and the answers they must get.

Every contender gets the same arrays: uint8 images of the model's own size, noise, latents, or prompt bytes with uniform numbers. The
answers are those of the plain float32 file, which must first give its own golden samples, those of its source framework.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import Contract, kind_of
from onnxferry.runtime.artifact.zoo import find_model, zoo_names
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.ort import ONE_NODE_MODEL
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ArtifactError, ExportError, InputError
from onnxferry.runtime.files import downloads_folder, written_whole
from onnxferry.runtime.kinds import KINDS
from onnxferry.runtime.onnx_file.made_inputs import example_inputs, noise_inputs, varied
from onnxferry.runtime.onnx_file.reader import file_sha256
from onnxferry.runtime.tasks.autoencoder import decoder_path

Feeds = Mapping[str, np.ndarray]


FEEDS = 16
"""Different inputs that take turns, so that nothing is fast because it was asked for a moment before."""


TEXT_STEPS = 32
"""Bytes that a run of a text generator writes, for each row."""


MADE = ("resnet18", "lstm-2x512", "one-node")
"""Models that are made for measuring, when they are first asked for: see synthetic.py. ``one-node`` squares a number."""


MIN_PROBABLE = 0.02
"""Draws that a text is written with pick bytes likelier than this, in the middle of their share: rounding does not change them."""


@dataclass(frozen=True)
class BenchModel:
    """A file to measure, not opened: what a worker needs to know of it."""

    name: str  # as in the tables
    path: Path  # the plain float32 file, which peers run
    sha256: str  # of that file
    kind: str  # of its contract: a name of KINDS
    load_name: str  # what ``load`` takes
    size: int | None = None  # side of the images, pixels
    factory: str = ""  # pkg.module:make_model of the network, where the file does not tell
    weights: str = ""  # file of its weights; empty: they are taken from the .onnx file
    seeded: bool = False  # the factory gives the very weights: the file's need not be put in

    @property
    def writes(self) -> bool:
        return KINDS[self.kind].returns == "text"


def bench_model(name: str, factory: str = "", weights: str = "") -> BenchModel:
    """The model that a command line names: a shipped one, the decoder of one (``digits-ae.decoder``), or a file.

    Raises ArtifactError where there is none.
    """
    path = _made(name) if name in MADE else _found(name)
    with Engine(path, device="cpu", threads=1) as engine:
        contract = engine.contract
        names = [spec.name for spec in engine.inputs]
    if not names:
        raise InputError(f"{path.name} takes no inputs, so there is nothing to measure it on")
    options = contract.options if contract else {}
    image_size = options.get("image_size")
    seeded = name == "resnet18"
    return BenchModel(
        name=name if not name.endswith(".onnx") else path.stem,
        path=path,
        sha256=file_sha256(path),
        kind=kind_of(contract).name,
        load_name=name if name in zoo_names() else os.fspath(path),
        size=int(image_size[0]) if isinstance(image_size, list) and image_size and isinstance(image_size[0], int) else None,
        factory="onnxferry.export.bench.synthetic:resnet18" if seeded else factory,
        weights="" if seeded else weights,
        seeded=seeded,
    )


def _found(name: str) -> Path:
    if name.endswith(".decoder"):
        path = decoder_path(find_model(name.removesuffix(".decoder")))
        if not path.is_file():
            raise ArtifactError(f"{name.removesuffix('.decoder')!r} has no decoder; leave .decoder out")
        return path
    return find_model(name)


def _made(name: str) -> Path:
    """The model of that name out of the cache, made if it is not there. Raises ExportError where that fails."""
    source = file_sha256(Path(__file__).with_name("synthetic.py"))[:8]
    path = downloads_folder() / "bench" / f"{name}-{source}.onnx"
    if name == "one-node" and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_bytes(ONE_NODE_MODEL)
    if not path.is_file():
        # Aside, because it takes PyTorch, whose threads and memory have no business here while others are timed.
        process = multiprocessing.get_context("spawn").Process(target=_make, args=(name, path))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise ExportError(f"the model {name!r} could not be made: its process ended with {process.exitcode}")
    return path


def _make(name: str, path: Path) -> None:
    from onnxferry.export.bench.synthetic import make

    make(name, path)


@dataclass(frozen=True)
class Job:
    """Feeds and the reference's answers to them."""

    feeds: tuple[dict[str, np.ndarray], ...]
    answers: tuple[dict[str, np.ndarray], ...]
    contract: Contract | None


def make_job(model: BenchModel, batch: int, given: Feeds | None = None, count: int = FEEDS) -> Job:
    """``count`` feeds of ``batch`` rows, the same ones each time, and the plain file's answers.

    ``given``: arrays to make them of, for a file that is nobody's we know. Raises InputError where no feeds can be made, and
    CheckFailedError where the file does not give its golden samples.
    """
    rng = np.random.default_rng((batch, 0))
    with Engine(model.path, device="cpu") as engine:
        contract = engine.contract
        if contract is not None and contract.goldens:
            replay(engine).raise_if_failed(model.path.name)
        if model.writes:
            feeds = [_draws(engine, batch, rng) for _ in range(count)]
            outputs: Sequence[str] | None = ["bytes"]
        else:
            made = _made_for(model, engine, batch, rng, count)
            feeds = made if made is not None else _variations(engine, batch, rng, count, _examples(engine, model, given))
            outputs = None
        answers = tuple(engine.run(feed, outputs) for feed in feeds)
    return Job(tuple(feeds), answers, contract)


def _made_for(model: BenchModel, engine: Engine, batch: int, rng: np.random.Generator, count: int) -> list[dict[str, np.ndarray]] | None:
    """Inputs of a kind of model that is known; None for any other."""
    contract = engine.contract
    if contract is None:
        return None
    takes = kind_of(contract).takes
    if takes == "image" and model.size is not None:
        images = _images(model, contract)
        return [{"image": _moved(images[rng.integers(0, len(images), batch)], rng)} for _ in range(count)]
    if takes == "noise":
        return [noise_inputs(engine.inputs, batch, len(contract.labels), rng) for _ in range(count)]
    if takes == "latent" and contract.goldens:
        known = np.concatenate([golden.inputs["latent"] for golden in contract.goldens])
        spread = known.std(axis=0) + known.std()
        middle = known.mean(axis=0)
        return [{"latent": (middle + spread * rng.standard_normal((batch, known.shape[1]))).astype(np.float32)} for _ in range(count)]
    return None


def _images(model: BenchModel, contract: Contract) -> np.ndarray:
    """Held-out images uint8 (n, size, size, channels): those shipped beside the file, else its golden samples, else noise.

    Shipped ones that the file misreads are left out. They are there to be looked at, more than half of some sets, and all of them
    doubtful: a bench that judges by them says little of the images that come.
    """
    shape = (model.size or 0, model.size or 0, int(contract.options.get("channels", 1)))
    shipped = model.path.with_name("examples.npz")
    found = []
    if shipped.is_file():
        with np.load(shipped) as arrays:
            if "images" in arrays:
                read = arrays["labels"] == arrays["predicted"] if "predicted" in arrays else slice(None)
                found = [arrays["images"][read]]
    found += [golden.inputs["image"] for golden in contract.goldens]
    right = [images for images in found if images.dtype == np.uint8 and images.shape[1:] == shape]
    return right[0] if right else np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)


def _moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image a pixel or so elsewhere."""
    return np.stack([np.roll(image, tuple(rng.integers(-1, 2, 2)), axis=(0, 1)) for image in images])


def _draws(engine: Engine, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Uniform numbers (batch, TEXT_STEPS) that write a likely text, none of them near the border between two bytes."""
    nothing = np.zeros((batch, 0), np.float32)
    temperature = np.array(0.8, np.float32)
    feeds: dict[str, np.ndarray] = {"prompt": np.zeros((batch, 0), np.uint8), "uniforms": nothing}
    columns = []
    for _ in range(TEXT_STEPS):
        outputs = engine.run(feeds, ["next_logits", "state_after"])
        logits = outputs["next_logits"].astype(np.float64) / float(temperature)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        share = weights / weights.sum(axis=1, keepdims=True)
        picked = np.array([rng.choice(256, p=row) for row in share])
        rare = share[np.arange(batch), picked] < MIN_PROBABLE
        picked = np.where(rare, share.argmax(axis=1), picked)
        above = share.cumsum(axis=1)[np.arange(batch), picked]
        columns.append(above - share[np.arange(batch), picked] / 2)
        feeds = {"prompt": picked.astype(np.uint8)[:, None], "uniforms": nothing, "state": outputs["state_after"]}
    uniforms = np.stack(columns, axis=1).astype(np.float32)
    return {"prompt": np.zeros((batch, 0), np.uint8), "uniforms": uniforms, "temperature": temperature}


def _examples(engine: Engine, model: BenchModel, given: Feeds | None) -> dict[str, np.ndarray]:
    """Arrays for every input: given ones, the file's golden sample, or drawn as the file declares them."""
    unknown = sorted(set(given or {}) - {spec.name for spec in (*engine.inputs, *engine.optional_inputs)})
    if unknown:
        raise InputError(f"the feeds name {unknown[0]!r}, which is no input; {model.path.name} takes {'; '.join(map(str, engine.inputs))}")
    if given is not None:
        return dict(given)
    if engine.contract is not None and engine.contract.goldens:
        return dict(engine.contract.goldens[0].inputs)
    return example_inputs(engine.inputs)


def _variations(
    engine: Engine, batch: int, rng: np.random.Generator, count: int, examples: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """``examples`` brought to ``batch`` rows along the axes that are free to vary, and changed a little from feed to feed."""
    missing = [spec.name for spec in engine.inputs if spec.name not in examples]
    if missing:
        raise InputError(f"there are no feeds for the input {missing[0]!r}; give them with --feeds FILE.npz, an array an input")
    rows: dict[str, Any] = {}
    free = False
    for spec in (*engine.inputs, *engine.optional_inputs):
        if spec.name not in examples:
            continue
        array = np.asarray(examples[spec.name])
        varies = spec.ranked and len(spec.shape) > 0 and not isinstance(spec.shape[0], int) and array.ndim > 0 and len(array) > 0
        free |= varies
        rows[spec.name] = np.resize(array, (batch, *array.shape[1:])) if varies else array
    if not free and batch != 1:
        raise InputError(f"the batch of {engine.path} is fixed, so that it cannot be measured at {batch}; measure it at --batch 1")
    return [{name: varied(array, rng, image=array.ndim > 2) for name, array in rows.items()} for _ in range(count)]
