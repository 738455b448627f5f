"""A trained start: the trunk does what it did, for images of any colour and size, from runs and from exported files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.runtime import load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.errors import InputError
from onnxferry.train.data.images import load_images
from onnxferry.train.families import start as start_module
from onnxferry.train.families.cnn import Cnn, CnnConfig, CnnLearner, CnnOptions
from onnxferry.train.families.start import Start, find_start, load_start
from onnxferry.train.loop.loop import LoopConfig, fit
from onnxferry.train.preprocessing import Preprocessing
from onnxferry.train.presets import cnn_learner


def network_for(start: Start, channels: int = 1, size: int = 28) -> Cnn:
    half = (0.5,) * channels
    config = CnnConfig(labels=("a", "b"), channels=channels, size=size, width=start.width, blocks=start.blocks, mean=half, std=half)
    return Cnn(config)


@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_a_shipped_model_s_trunk_does_what_the_file_does(name: str) -> None:
    model, start = load(name, device="cpu"), find_start(name)
    images = load_images("digits-5k").test.images[:32]
    expected = model.run({"image": images})["features"]
    network = network_for(start)
    tensors = dict(start_module._float_tensors(find_model(name)))
    weights = {part: tensors[f"network.{part}"] for part in ("mean", "std")}
    network.load_state_dict({**network.state_dict(), **weights})
    framed = Preprocessing(model.contract.options["framing"], 28)(torch.from_numpy(images))  # type: ignore[union-attr]
    load_start(network, start, framed)
    with torch.no_grad():
        in_training = network.train()(framed)[1].numpy()
        deployed = network.eval()(framed)[1].numpy()
    np.testing.assert_allclose(in_training, expected, atol=1e-4)
    np.testing.assert_allclose(deployed, expected, atol=0.02)  # the variance of few images: n against n - 1


def test_grey_and_colour_are_adapted() -> None:
    start = find_start("fashion")
    grey, colour = network_for(start), network_for(start, channels=3)
    images = torch.rand(8, 1, 28, 28)
    load_start(grey, start, images)
    load_start(colour, start, images.repeat(1, 3, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(grey.eval()(images)[1], colour.eval()(images.repeat(1, 3, 1, 1))[1], atol=1e-4, rtol=1e-4)


def test_a_larger_first_convolution_starts_at_random_and_the_rest_is_trained() -> None:
    start = find_start("fashion")
    network = network_for(start, channels=3, size=112)
    own = network.stem[0].weight.clone()
    load_start(network, start, torch.rand(4, 3, 112, 112))
    assert torch.equal(network.stem[0].weight, own)
    assert torch.equal(network.state_dict()["stages.0.conv1.weight"], start.weights["stages.0.conv1.weight"])


def test_a_run_of_a_recogniser_is_a_start_and_is_recorded(tmp_path: Path) -> None:
    splits = load_images("digits-5k", limit=100, validation=20)
    fit(CnnLearner(splits, CnnOptions(epochs=1, batch=50), framing="fit", width=4), LoopConfig(out=tmp_path / "run", device="cpu"))
    start = find_start(tmp_path / "run")
    assert (start.width, start.blocks) == (4, (1, 2, 2))
    learner = cnn_learner(splits, "quick", figures=True, init=start)
    assert learner.config.framing == "ink"
    assert learner.described()["data"]["started from"] == "a run of train cnn"
    with pytest.raises(InputError, match="--width 8 contradicts --init"):
        cnn_learner(splits, "quick", figures=True, init=start, width=8)


def test_a_file_without_such_a_trunk_is_refused() -> None:
    with pytest.raises(InputError, match="shakespeare holds no recogniser and no encoder"):
        find_start("shakespeare")
