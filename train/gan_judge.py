"""Which recogniser measures a GAN's images: one that is named, the shipped one for the data set, or one trained for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from onnxferry.runtime.artifact.zoo import zoo_names
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import CNN
from onnxferry.train.data.images import ImageSplits
from onnxferry.train.families.cnn import Cnn
from onnxferry.train.families.gan_quality import Judge, judge_from_model, judge_from_network
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import InterruptedTrainingError, LoopConfig, Observer, fit
from onnxferry.train.presets import cnn_learner

SHIPPED = {"mnist": "digits", "digits-5k": "digits", "fashion-mnist": "fashion"}
"""Data set to the shipped recogniser in whose features its images are measured."""


def find_judge(
    name: str, splits: ImageSplits, out: Path, device: str, progress: Callable[[int], AbstractContextManager[Observer]] | None = None
) -> Judge:
    """The recogniser ``name`` (a file, or a shipped model), the shipped one for this set, or a small one trained into ``out``/judge.

    ``progress``: from the number of epochs, an observer of that training.
    """
    chosen = name or SHIPPED.get(splits.name, "")
    if name or chosen in zoo_names():
        return judge_from_model(chosen)
    folder = out / "judge"
    if not (folder / "best.pt").exists() or "test" not in load_checkpoint(folder, CNN.name).metrics:
        resume = (folder / "last.pt").exists()
        learner = cnn_learner(splits, "quick", figures=False, epochs=8 if len(splits.train) > 10_000 else None)
        config = LoopConfig(out=folder, command="the judge of train gan", device=device, resume=resume)
        try:
            with progress(learner.epochs) if progress else nullcontext(Observer()) as observer:
                fit(learner, config, observer)
        except InterruptedTrainingError as error:
            words = "stopped while the judge was trained; everything is saved: continue with the same command as before, without --resume"
            raise InterruptedTrainingError(words, error.exit_code - 128) from error
    checkpoint = load_checkpoint(folder, CNN.name)
    network = checkpoint.model()
    if not isinstance(network, Cnn):
        raise InputError(f"{folder} holds no recogniser; name another --out")
    return judge_from_network(network)
