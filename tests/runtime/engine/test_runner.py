"""The protocol of an open model: the engines have all of it, and a back end without ONNX Runtime runs every task through it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxferry.runtime import Batcher, Classifier, Engine, Model, TextGenerator
from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.engine.runner import BufferRunner, Runner
from onnxferry.runtime.errors import CheckFailedError, InputError
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.tuning.plan import Plan, Setting, Tuning
from onnxferry.runtime.tuning.tuned_engine import TunedEngine

Arrays = Mapping[str, np.ndarray]
PATIENCE = 30  # seconds


def members(protocol: type) -> set[str]:
    return {name for each in (Runner, protocol) for name in vars(each) if not name.startswith("_")}


def open_engine(path: Path) -> BufferRunner:
    return Engine(path, device="cpu", threads=1)


def open_tuned_engine(path: Path) -> BufferRunner:
    plan = Plan(8, Setting(threads=1), 1e-3, 2e-3, 2.0, ())
    return TunedEngine(Tuning(path, {8: plan}, "a CPU"), device="cpu")


@pytest.mark.parametrize("opened", [open_engine, open_tuned_engine])
def test_both_engines_have_every_member(recogniser: Path, opened: Callable[[Path], BufferRunner]) -> None:
    engine = opened(recogniser)
    assert isinstance(engine, Runner)
    assert isinstance(engine, BufferRunner)
    assert len(members(BufferRunner)) == 17
    for name in members(BufferRunner):
        wanted = getattr(BufferRunner, name)
        found = getattr(engine, name)
        if isinstance(wanted, property):
            assert not callable(found), name
        else:
            assert list(inspect.signature(found).parameters) == list(inspect.signature(wanted).parameters)[1:], name
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted), name
    assert (engine.path, engine.device, engine.threads, engine.per_row) == (recogniser, "cpu", 1, False)
    assert engine.best_batch == (8 if isinstance(engine, TunedEngine) else None)
    assert not issubclass(TunedEngine, Engine)
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="is closed"):
        engine.run({"image": np.zeros((1, 3, 3, 1), np.uint8)})


class NumpyRunner:
    """A back end in a few lines: a function of numpy arrays in place of a graph."""

    path = None
    device, device_reason, providers, threads = "cpu", "numpy has no other", ("numpy",), 1
    per_row = False
    best_batch = None

    def __init__(
        self,
        contract: Contract | None,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        compute: Callable[[Arrays], Arrays],
    ) -> None:
        self.contract, self.compute = contract, compute
        self.inputs, self.optional_inputs, self.outputs = specs
        self.runs = 0

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        self.runs += 1
        return {name: array for name, array in self.compute(feeds).items() if outputs is None or name in outputs}

    async def arun(self, feeds: Arrays, outputs: Sequence[str] | None = None, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        return await asyncio.to_thread(self.run, feeds, outputs)

    def close(self) -> None: ...


def tell_brightness(feeds: Arrays) -> Arrays:
    bright = feeds["image"].astype(np.float32).mean(axis=(1, 2, 3)) / 255
    probabilities = np.stack([1 - bright, bright], axis=1)
    return {"probabilities": probabilities, "class_index": probabilities.argmax(axis=1)}


IMAGES = np.stack([np.full((4, 4, 1), value, np.uint8) for value in (10, 250, 90)])


def recogniser_of(compute: Callable[[Arrays], Arrays] = tell_brightness) -> NumpyRunner:
    golden = Golden({"image": IMAGES}, dict(tell_brightness({"image": IMAGES})))
    contract = Contract(kind="recogniser", name="numpy", labels=("dark", "bright"), goldens=(golden,))
    image = TensorSpec("image", "uint8", ("batch", "height", "width", 1))
    outputs = (TensorSpec("probabilities", "float32", ("batch", 2)), TensorSpec("class_index", "int64", ("batch",)))
    return NumpyRunner(contract, ((image,), (), outputs), compute)


CYCLE = np.frombuffer(b"over and ", np.uint8)


def write_cycle(feeds: Arrays) -> Arrays:
    """A text generator whose state is its place in CYCLE: reading a byte moves it on, and so does writing one."""
    prompt, count = feeds["prompt"], feeds["uniforms"].shape[1]
    lengths = feeds.get("prompt_length", np.full(len(prompt), prompt.shape[1]))
    place = feeds.get("state", np.zeros((len(prompt), 1, 1), np.float32))[:, 0, 0].astype(int) + lengths
    return {
        "bytes": CYCLE[(place[:, None] + np.arange(count)) % len(CYCLE)],
        "log_probabilities": np.full(prompt.shape, -1, np.float32),
        "next_logits": np.zeros((len(prompt), 256), np.float32),
        "state_after": ((place + count) % len(CYCLE)).astype(np.float32)[:, None, None],
    }


def writer() -> NumpyRunner:
    inputs = (TensorSpec("prompt", "uint8", ("batch", "length")), TensorSpec("uniforms", "float32", ("batch", "steps")))
    optional = (
        TensorSpec("prompt_length", "int64", ("batch_or_1",)),
        TensorSpec("temperature", "float32", ()),
        TensorSpec("top_k", "int64", ()),
        TensorSpec("top_p", "float32", ()),
        TensorSpec("state", "float32", ("batch_or_1", 1, 1)),
    )
    outputs = (
        TensorSpec("bytes", "uint8", ("batch", "steps")),
        TensorSpec("log_probabilities", "float32", ("batch", "length")),
        TensorSpec("next_logits", "float32", ("batch", 256)),
        TensorSpec("state_after", "float32", ("batch", 1, 1)),
    )
    return NumpyRunner(Contract(kind="text-generator", name="cycle"), (inputs, optional, outputs), write_cycle)


def test_a_third_back_end_classifies() -> None:
    runner: Runner = recogniser_of()
    with Classifier(runner) as model:
        assert [each.label for each in model.predict(list(IMAGES))] == ["dark", "bright", "dark"]
        assert model.good_batch == 64
        assert "Classifier('numpy', device='cpu', 2 classes)" in repr(model)


def test_a_third_back_end_is_batched() -> None:
    runner = recogniser_of()
    with Batcher(Classifier(runner), max_batch_size=3, max_wait=PATIENCE) as batcher:
        futures = [batcher.submit(image) for image in IMAGES]
        assert [each.result(PATIENCE).label for each in futures] == ["dark", "bright", "dark"]
    assert runner.runs == 2  # the batch, and the first call alone, with which its answer is compared
    with Batcher(Model(runner), max_wait=0) as batcher:
        assert batcher.run({"image": IMAGES[1:2]})["class_index"].tolist() == [1]
    runner.per_row = True
    with pytest.raises(InputError, match="max_batch_size=1"):
        Batcher(runner)
    with pytest.raises(InputError, match="a batcher takes an open model or engine, got dict"):
        Batcher({})  # type: ignore[arg-type]


def test_a_third_back_end_replays_its_golden_samples() -> None:
    report = replay(recogniser_of())
    assert report.passed
    assert len(report.comparisons) == 2

    def wrong(feeds: Arrays) -> dict[str, Any]:
        return {**tell_brightness(feeds), "class_index": np.zeros(len(feeds["image"]), np.int64)}

    with pytest.raises(CheckFailedError, match="output 'class_index'"):
        replay(recogniser_of(wrong)).raise_if_failed("numpy")


def test_a_third_back_end_writes_text() -> None:
    model = TextGenerator(writer())
    assert model.generate("over", max_bytes=9) == " and over"
    assert "".join(model.stream("over", max_bytes=60)) == model.generate("over", max_bytes=60)
    assert model.generate_batch(["", "over a"], max_bytes=4) == ["over", "nd o"]
    assert model.score("over and over") == 1.0
    assert asyncio.run(model.engine.arun({"prompt": CYCLE[None, :4], "uniforms": np.zeros((1, 2), np.float32)}))["bytes"].tobytes() == b" a"
