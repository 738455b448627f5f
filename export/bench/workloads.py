"""Workloads: a model's whole task at a batch size, as several inputs that take turns, and their expected outputs.

All contenders get the same arrays: uint8 images of the model's own size, noise, latents, or prompt bytes with uniform numbers. Expected
outputs are those of the plain float32 file, which must reproduce its golden samples first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import Contract, kind_of
from onnxferry.runtime.artifact.zoo import find_model, zoo_names
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.kinds import KINDS
from onnxferry.runtime.onnx_file.made_inputs import example_inputs, noise_inputs, varied
from onnxferry.runtime.onnx_file.reader import file_sha256
from onnxferry.runtime.tasks.autoencoder import decoder_path
from onnxferry.runtime.timing import clock

Feeds = Mapping[str, np.ndarray]


FEEDS = 16
"""Different inputs that take turns, so that no result comes from a cache."""


TEXT_STEPS = 32
"""Bytes that a text generator writes a run, for each row."""


MIN_PROBABLE = 0.02
"""Random numbers for a text generator pick bytes of at least this probability, mid-interval, so that rounding does not change them."""


@dataclass(frozen=True)
class BenchModel:
    """A file to measure, and what a worker needs to know about it."""

    name: str  # as in the tables
    path: Path  # the plain float32 file, which peers run
    sha256: str  # of that file
    kind: str  # of its contract: a name of KINDS
    load_name: str  # what ``load`` takes
    size: int | None = None  # side of the images, pixels
    factory: str = ""  # pkg.module:make_model of the network, for PyTorch
    weights: str = ""  # file of its weights; empty: taken from the .onnx file
    seeded: bool = False  # the factory returns the network with its weights

    @property
    def writes(self) -> bool:
        return KINDS[self.kind].returns == "text"


def bench_model(name: str, factory: str = "", weights: str = "") -> BenchModel:
    """The model that a command line names: a shipped one, the decoder of one (``digits-ae.decoder``), or a file.

    Raises ArtifactError if there is none, InputError for a model without inputs.
    """
    path = _found(name)
    with Engine(path, device="cpu", threads=1) as engine:
        contract = engine.contract
        names = [spec.name for spec in engine.inputs]
    if not names:
        raise InputError(f"{path.name} takes no inputs, so there is nothing to measure it on")
    options = contract.options if contract else {}
    image_size = options.get("image_size")
    return BenchModel(
        name=name if not name.endswith(".onnx") else path.stem,
        path=path,
        sha256=file_sha256(path),
        kind=kind_of(contract).name,
        load_name=name if name in zoo_names() else os.fspath(path),
        size=int(image_size[0]) if isinstance(image_size, list) and image_size and isinstance(image_size[0], int) else None,
        factory=factory,
        weights=weights,
    )


def _found(name: str) -> Path:
    if name.endswith(".decoder"):
        path = decoder_path(find_model(name.removesuffix(".decoder")))
        if not path.is_file():
            raise ArtifactError(f"{name.removesuffix('.decoder')!r} has no decoder; leave .decoder out")
        return path
    return find_model(name)


@dataclass(frozen=True)
class Job:
    """Inputs and the expected outputs."""

    feeds: tuple[dict[str, np.ndarray], ...]
    answers: tuple[dict[str, np.ndarray], ...]
    contract: Contract | None
    run_s: float = 0.0  # seconds of a run of the plain file, the fastest of those that gave the answers


def make_job(model: BenchModel, batch: int, given: Feeds | None = None, count: int = FEEDS, seconds: float = math.inf) -> Job:
    """``count`` inputs of ``batch`` rows, the same ones each time, and the plain file's outputs.

    ``seconds``: that the outputs may take, about: of a slow model there are fewer inputs, at least two.

    ``given``: arrays to make them of, for a model of no known kind. Raises InputError if no inputs can be made, and CheckFailedError if the
    file does not reproduce its golden samples.
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
        answers: list[dict[str, np.ndarray]] = []
        times: list[float] = []
        for feed in feeds:
            if len(answers) >= 2 and sum(times) + min(times) > seconds:
                break
            start = clock()
            answers.append(engine.run(feed, outputs))
            times.append(clock() - start)
    return Job(tuple(feeds[: len(answers)]), tuple(answers), contract, min(times))


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

    Shipped images that the model misclassifies are left out: they are difficult ones, chosen to be shown, more than half of some sets, and
    not representative of a model's input.
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
    """Each image shifted by up to a pixel."""
    return np.stack([np.roll(image, tuple(rng.integers(-1, 2, 2)), axis=(0, 1)) for image in images])


def _draws(engine: Engine, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Uniform numbers (batch, TEXT_STEPS) that write a likely text, none of them near the boundary between two bytes."""
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
    """Arrays for every input: given ones, the file's golden sample, or random ones as the file declares them."""
    unknown = sorted(set(given or {}) - {spec.name for spec in (*engine.inputs, *engine.optional_inputs)})
    if unknown:
        raise InputError(
            f"the feeds name {unknown[0]!r}, which is not an input; {model.path.name} takes {'; '.join(map(str, engine.inputs))}"
        )
    if given is not None:
        return dict(given)
    if engine.contract is not None and engine.contract.goldens:
        return dict(engine.contract.goldens[0].inputs)
    return example_inputs(engine.inputs)


def _variations(
    engine: Engine, batch: int, rng: np.random.Generator, count: int, examples: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """``examples`` resized to ``batch`` rows along dynamic axes, and varied a little for each input."""
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
