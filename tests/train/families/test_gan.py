"""The image generator and how it learns: shapes, the hinge game, honest quality, collapse, resuming, and who judges."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from onnxferry.runtime.errors import ArtifactError, DataError, InputError, TrainingError
from onnxferry.train import gan_judge
from onnxferry.train.cli.app import app
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.families.gan import Discriminator, GanConfig, GanLearner, GanOptions, Generator, spread, to_pixels
from onnxferry.train.families.gan_quality import frechet, judge_from_model, quality
from onnxferry.train.gan_judge import find_judge
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit
from onnxferry.train.presets import cnn_learner, gan_learner

LABELS = tuple("0123456789")


@pytest.fixture(scope="module")
def splits() -> ImageSplits:
    whole = load_images("digits-5k", limit=200, validation=60)
    return dataclasses.replace(whole, test=whole.test.take(np.arange(0, 1000, 10)))


def small(splits: ImageSplits, **options: object) -> GanLearner:
    how = dataclasses.replace(GanOptions(epochs=2, batch=20, average=0.9, discriminator_width=4), **options)  # type: ignore[arg-type]
    return GanLearner(splits, how, judge_from_model("digits"), noise=8, width=4)


@pytest.fixture(scope="module")
def run(splits: ImageSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gan")
    fit(small(splits), LoopConfig(out=out, device="cpu"))
    return out


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 64)])
def test_both_players_take_and_give_what_they_say(channels: int, size: int) -> None:
    config = GanConfig(labels=("a", "b", "c"), channels=channels, size=size, noise=7, width=4)
    label = torch.tensor([0, 2])
    with torch.no_grad():
        made = Generator(config).eval()(torch.randn(2, 7), label)
        score = Discriminator(config, 4)(made, label)
    assert made.shape == (2, channels, size, size)
    assert -1 <= float(made.min()) <= float(made.max()) <= 1
    assert score.shape == (2,)
    pixels = to_pixels(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3))
    assert pixels.flatten().tolist() == [0, 128, 255]


def test_the_class_decides_what_is_made_and_what_is_believed() -> None:
    torch.manual_seed(0)
    config = GanConfig(labels=LABELS, noise=7, width=4)
    generator, discriminator = Generator(config).eval(), Discriminator(config, 4).eval()
    noise = torch.randn(1, 7).expand(10, -1)
    with torch.no_grad():
        made = generator(noise, torch.arange(10))
        assert len({tuple(image.flatten().tolist()) for image in made}) == 10
        scores = discriminator(made[:1].expand(10, -1, -1, -1), torch.arange(10))
    assert len(set(scores.tolist())) == 10


def test_a_step_plays_the_hinge_game_and_moves_both(splits: ImageSplits) -> None:
    learner = small(splits)
    learner.setup(Fabric(accelerator="cpu"), 10)
    before = [[p.clone() for p in m.parameters()] for m in (learner.bare_generator, learner.bare_discriminator)]
    torch.manual_seed(0)
    learner.bare_generator.train()
    learner.bare_discriminator.train()
    scores: list[torch.Tensor] = []
    learner.bare_discriminator.register_forward_hook(lambda _, inputs, output: scores.append(output.detach()))
    metrics = learner.step(next(iter(learner.batches(0, 0))))
    assert set(metrics) == {"loss", "generator", "discriminator"}
    on_real, on_fake = scores[0].chunk(2)
    hinge = (1 - on_real).clamp(min=0).mean() + (1 + on_fake).clamp(min=0).mean()
    assert float(metrics["discriminator"]) == pytest.approx(float(hinge), rel=1e-5)
    assert float(metrics["generator"]) == pytest.approx(-float(scores[1].mean()), rel=1e-5)
    for module, old in zip((learner.bare_generator, learner.bare_discriminator), before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(module.parameters(), old, strict=True))
    assert all(p.requires_grad for p in learner.bare_discriminator.parameters())


def test_the_frechet_distance_is_that_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200_000, 2)) * [1.0, 2.0]
    b = rng.standard_normal((200_000, 2)) * [3.0, 2.0] + [1.0, -2.0]
    # Diagonal covariances: the squared distance of the means, and of the standard deviations.
    assert frechet(a, b) == pytest.approx(1 + 4 + (3 - 1) ** 2, rel=0.01)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-9)


def test_precision_recall_and_coverage_tell_apart_what_is_wrong() -> None:
    rng = np.random.default_rng(0)
    real = rng.standard_normal((400, 4)).astype(np.float32)
    same = quality(real, rng.standard_normal((400, 4)).astype(np.float32))
    assert min(same["precision"], same["recall"], same["coverage"]) > 0.85
    collapsed = quality(real, np.zeros((400, 4), np.float32) + 1e-3 * rng.standard_normal((400, 4)).astype(np.float32))
    assert collapsed["precision"] > 0.9
    assert collapsed["recall"] < 0.05
    assert collapsed["coverage"] < 0.2
    far = quality(real, real + 100)
    assert far["precision"] == far["recall"] == far["coverage"] == 0
    assert far["frechet"] > same["frechet"]
    with pytest.raises(InputError, match="quality needs more than 5 images of each kind, got 5 real and 400 made"):
        quality(real[:5], real)


def test_each_epoch_is_judged_and_shown(splits: ImageSplits, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines[:2]:
        assert set(line["validation"]) == {"frechet", "precision", "recall", "coverage", "agreement", "n"}
        assert set(line["train"]) == {"loss", "generator", "discriminator"}
    test = lines[-1]["test"]
    assert test["floor_frechet"] < test["frechet"]
    assert test["n"] == 100
    assert (run / "samples.png").exists()
    checkpoint = load_checkpoint(run, "gan")
    assert isinstance(checkpoint.model(), Generator)
    assert checkpoint.config["labels"] == LABELS or tuple(checkpoint.config["labels"]) == LABELS


def test_a_run_cut_off_brings_back_both_players_and_the_average(splits: ImageSplits, run: Path, tmp_path: Path, cut_off: Callable) -> None:
    cut_off(small(splits), LoopConfig(out=tmp_path, device="cpu"))
    resumed = small(splits)
    fit(resumed, LoopConfig(out=tmp_path, device="cpu", resume=True))
    whole, cut = (torch.load(folder / "last.pt", weights_only=True) for folder in (run, tmp_path))
    for part in ("generator", "discriminator", "average"):
        assert whole["modules"][part].keys() == cut["modules"][part].keys()
        assert all(torch.equal(whole["modules"][part][name], cut["modules"][part][name]) for name in whole["modules"][part])


def test_collapse_is_noticed_and_said(splits: ImageSplits, tmp_path: Path) -> None:
    learner = small(splits)
    learner.setup(Fabric(accelerator="cpu"), 10)
    generator = learner.average.module
    assert isinstance(generator, Generator)
    with torch.no_grad():
        generator.pixels.weight.mul_(100)  # so that what is made differs from noise to noise
        assert learner.show(3, tmp_path) == ""
        generator.head.weight[:, : learner.config.noise] = 0  # deaf to the noise
    assert "the generator has collapsed: its images of a class differ by 0 levels" in learner.show(3, tmp_path)
    assert learner.show(1, tmp_path) == ""  # too early to say
    assert spread([np.zeros((1, 2, 2, 1), np.uint8)]) == 0


def test_a_loss_that_is_no_number_stops(splits: ImageSplits, tmp_path: Path) -> None:
    learner = small(splits, learning_rate=float("inf"))
    with pytest.raises(TrainingError, match=r"is (nan|inf|-inf)"):
        fit(learner, LoopConfig(out=tmp_path, device="cpu"))


def folder_of(path: Path, classes: dict[str, int], size: int = 30) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path / name / f"{i}.png")
    return path


@pytest.mark.slow
def test_a_folder_of_one_s_own_gets_a_judge_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = folder_of(tmp_path / "data", {"cat": 40, "dog": 40}), tmp_path / "run"
    monkeypatch.setattr(gan_judge, "cnn_learner", lambda *a, **k: cnn_learner(*a, **{**k, "epochs": 1, "width": 4}))
    more = ["--device", "cpu", "--preset", "quick"]
    app(
        ["gan", "--data", str(data), "--size", "32", "--color", "--epochs", "1", "--batch", "10", "--width", "4", "--out", str(out), *more],
        standalone_mode=False,
    )
    assert (out / "judge" / "best.pt").exists()
    checkpoint = load_checkpoint(out, "gan")
    assert checkpoint.config["channels"] == 3
    assert tuple(checkpoint.config["labels"]) == ("cat", "dog")
    assert (out / "metrics.jsonl").read_text().count("frechet") == 3  # validation, test and its floor


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--size", "40"], InputError, "--size must be one of 28, 32, 64, got 40"),
        (["--preset", "best", "--limit", "100"], InputError, "unknown preset 'best'; expected quick or full"),
        (["--judge", "shakespeare", "--limit", "100"], ArtifactError, "is not a recogniser"),
        (["--judge", "nothing.onnx", "--limit", "100"], ArtifactError, "no such file"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, words: list[str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        app(["gan", "--out", str(tmp_path / "run"), *words], standalone_mode=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("classes", "says"), [({"cat": 5}, "at least two classes"), ({"cat": 1, "dog": 1}, "too few images")])
def test_folders_that_will_not_do(tmp_path: Path, classes: dict[str, int], says: str) -> None:
    with pytest.raises(DataError, match=says):
        app(["gan", "--data", str(folder_of(tmp_path / "data", classes)), "--out", str(tmp_path / "run")], standalone_mode=False)
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "broken" / name / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        app(["gan", "--data", str(tmp_path / "broken"), "--out", str(tmp_path / "run")], standalone_mode=False)
    assert not (tmp_path / "run").exists()


def test_the_presets_differ_and_the_shipped_judge_is_found(splits: ImageSplits, tmp_path: Path) -> None:
    judge = find_judge("", splits, tmp_path / "run", "cpu")
    features, read = judge(splits.test.images)
    assert features.shape[0] == 100
    assert float((read == splits.test.labels).mean()) > 0.95
    assert not (tmp_path / "run").exists()
    quick, full = (gan_learner(splits, preset, judge) for preset in ("quick", "full"))
    assert quick.options != full.options
    assert gan_learner(splits, "quick", judge, noise=5, epochs=7).options.epochs == 7
