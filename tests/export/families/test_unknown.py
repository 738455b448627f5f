"""A recogniser that learns what is of no class: its own weights stay, its file tells, and every way to predict passes it on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from onnxferry.export import export_checkpoint
from onnxferry.runtime import Classifier, load
from onnxferry.runtime.artifact.metadata import contract_from_metadata, metadata_from_contract
from onnxferry.runtime.bulk.predictor import Predictor
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.tasks.loading import load_as
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.families.unknown import REFUSED, threshold_for
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit

FEW = load_images("digits-5k", limit=1000)
NOISE = np.random.default_rng(5).integers(0, 256, (20, 60, 60, 1), np.uint8)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    fit(CnnLearner(FEW, CnnOptions(epochs=4), framing="ink", width=8), LoopConfig(out=out, device="cpu"))
    return out


@pytest.fixture(scope="module")
def run(plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unknown") / "run"
    shutil.copytree(plain_run, out)
    assert main(["train", "unknown", str(out), "--dataset", "digits-5k", "--limit", "1000", "--updates", "120", "--json"]) == 0
    return out


@pytest.fixture(scope="module")
def artifact(run: Path) -> Path:
    path = run.parent / "digits.onnx"
    assert export_checkpoint(run, path).passed
    return path


@pytest.mark.slow
def test_the_networks_own_weights_stay(plain_run: Path, run: Path) -> None:
    before, after = load_checkpoint(plain_run), load_checkpoint(run)
    for name, weight in before.weights.items():
        assert torch.equal(weight, after.weights[name]), name
    assert {name.partition(".")[0] for name in set(after.weights) - set(before.weights)} == {"unknown"}
    figures = after.metrics["unknown"]
    assert figures["validation"] <= REFUSED
    assert figures["others"] > 0.6
    assert figures["others_held_out"] == len(FEW.train) * 4 // 10
    assert after.metrics["test"] == before.metrics["test"]


@pytest.mark.slow
def test_noise_is_of_no_class_and_digits_are_known(artifact: Path) -> None:
    digits = load_images("digits-5k").test.images
    with load(artifact) as model:
        assert isinstance(model, Classifier)
        assert model.tells_unknown
        noise, known = model.predict(NOISE), model.predict(digits)
    assert not any(prediction.known for prediction in noise)
    assert "known=False" in repr(noise[0])
    assert np.mean([not prediction.known for prediction in known]) < 0.03
    assert noise[0].to_dict()["known"] is False
    assert 0.5 <= noise[0].to_dict()["unknown"] <= 1


@pytest.mark.slow
def test_the_command_line_says_none_of_the_classes(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(NOISE[0, ..., 0]).save(tmp_path / "noise.png")
    assert main(["predict", str(artifact), str(tmp_path / "noise.png")]) == 0
    assert "none of the classes" in capsys.readouterr().out
    assert main(["predict", str(artifact), str(tmp_path / "noise.png"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert (found["known"], found["sure"]) == (False, False)
    for suffix in ("jsonl", "csv"):
        assert main(["predict", str(artifact), str(tmp_path / "noise.png"), "--out", str(tmp_path / f"rows.{suffix}")]) == 0
    assert json.loads((tmp_path / "rows.jsonl").read_text())["known"] is False
    assert "unknown,known,error" in (tmp_path / "rows.csv").read_text()
    rows = Predictor(str(artifact))({"image": NOISE})
    assert rows["unknown"].shape == (20,)


@pytest.mark.slow
def test_a_threshold_that_is_none_is_refused(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    contract = contract_from_metadata({entry.key: entry.value for entry in model.metadata_props})
    assert contract is not None
    for wrong in (True, "0.5", 2):
        options = {**contract.options, "unknown_threshold": wrong}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata_from_contract(contract.replace(options=options)))
        onnx.save(model, tmp_path / "wrong.onnx")
        with pytest.raises(ArtifactError, match="unknown_threshold"):
            load(tmp_path / "wrong.onnx")


def test_a_file_without_the_head_does_not_tell() -> None:
    with load("fashion") as model:
        assert isinstance(model, Classifier)
        (prediction,) = model.predict(NOISE[:1])
    assert prediction.unknown is None
    assert prediction.known
    assert "known" not in prediction.to_dict()


@pytest.mark.slow
def test_images_of_another_set_and_runs_of_another_family_are_refused(
    plain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "leaves"
    for name in ("oak", "elm"):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(FEW.train.images[i, ..., 0] + (name == "oak")).save(folder / name / f"{i}.png")
    assert main(["train", "unknown", str(plain_run), "--data", str(folder)]) == 1
    assert "give the same --dataset or --data" in capsys.readouterr().err
    assert main(["train", "unknown", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
    few = ["--dataset", "digits-5k", "--limit", "1000"]
    assert main(["train", "unknown", str(plain_run), *few, "--others", str(folder / "oak")]) == 1
    assert "8 images can be read, expected 10 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_photographs_with_ones_own_images_of_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200)), ("others/green", (40, 200, 40))):
        (tmp_path / name).mkdir(parents=True)
        for i in range(30):
            noisy = np.clip(np.array(colour) + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / name / f"{i}.png")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("red", "blue"):
        (tmp_path / name).rename(data / name)
    small = [
        "--color",
        "--size",
        "32",
        "--width",
        "8",
        "--epochs",
        "6",
        "--preset",
        "quick",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(["train", "cnn", "--data", str(data), *small]) == 0
    others = ["--others", str(tmp_path / "others"), "--updates", "80"]
    capsys.readouterr()
    assert main(["train", "unknown", str(tmp_path / "run"), "--data", str(data), *others]) == 0
    assert "refused as unknown" in capsys.readouterr().out
    assert export_checkpoint(tmp_path / "run", tmp_path / "colours.onnx").passed
    with load_as(Classifier, tmp_path / "colours.onnx") as model:
        green = np.clip(np.array((40, 200, 40)) + rng.normal(0, 25, (10, 32, 32, 3)), 0, 255).astype(np.uint8)
        red = np.clip(np.array((200, 40, 40)) + rng.normal(0, 25, (10, 32, 32, 3)), 0, 255).astype(np.uint8)
        assert sum(not prediction.known for prediction in model.predict(green)) >= 9
        assert sum(not prediction.known for prediction in model.predict(red)) <= 2


def test_the_threshold_refuses_no_more_than_its_share() -> None:
    scores = torch.linspace(0, 1, 1001)
    threshold = threshold_for(scores)
    assert (scores > threshold).float().mean() <= REFUSED
    assert threshold_for(torch.zeros(10)) == 0.5


@pytest.mark.slow
def test_evaluate_counts_what_is_taken_to_be_of_no_class(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("0", "1"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.fromarray(NOISE[i + 3 * int(label), ..., 0]).save(tmp_path / label / f"{i}.png")
    assert main(["evaluate", str(artifact), "--data", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == 6
    assert main(["evaluate", str(artifact), "--data", str(tmp_path)]) == 0
    assert "as of no class" in capsys.readouterr().out
