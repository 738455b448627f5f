"""The autoencoder and how it learns: shapes, the plain and the variational loss, PCA beside it, resuming, and what starts from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onnxferry.runtime.errors import CheckpointError, InputError
from onnxferry.train.cli.app import app
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.families.autoencoder import Autoencoder, AutoencoderConfig, AutoencoderLearner, AutoencoderOptions
from onnxferry.train.families.cnn import Cnn, CnnLearner, CnnOptions
from onnxferry.train.families.pca import fit_pca
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit
from onnxferry.train.presets import ae_learner


@pytest.fixture(scope="module")
def splits() -> ImageSplits:
    whole = load_images("digits-5k", limit=300, validation=100)
    return dataclasses.replace(whole, test=whole.test.take(np.arange(0, 1000, 10)))


def small(splits: ImageSplits, *, variational: bool = False, **options: object) -> AutoencoderLearner:
    how = dataclasses.replace(AutoencoderOptions(epochs=2, batch=30, average=0.9), **options)  # type: ignore[arg-type]
    return AutoencoderLearner(splits, how, latent=8, width=4, variational=variational)


@pytest.fixture(scope="module")
def run(splits: ImageSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ae")
    fit(small(splits), LoopConfig(out=out, device="cpu"))
    return out


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 64), (1, 96)])
def test_what_comes_back_has_the_shape_of_what_went_in(channels: int, size: int, variational: bool) -> None:
    half = (0.5,) * channels
    config = AutoencoderConfig(channels=channels, size=size, latent=5, width=4, variational=variational, mean=half, std=half)
    network = Autoencoder(config).eval()
    images = torch.rand(3, channels, size, size)
    with torch.no_grad():
        made, latent, log_variance = network(images)
    assert made.shape == images.shape
    assert latent.shape == (3, 5)
    assert (log_variance is not None) == variational
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    network.train()
    torch.manual_seed(0)
    first, second = network(images)[0], network(images)[0]
    assert torch.equal(first, second) != variational  # only a variational one draws its latents


def test_the_divergence_is_kingma_and_welling_s(splits: ImageSplits) -> None:
    from lightning_fabric import Fabric

    learner = small(splits, variational=True, kl=0.5)
    learner.setup(Fabric(accelerator="cpu"), 10)
    torch.manual_seed(0)
    batch = learner.images[:30]
    learner.network.train()
    torch.manual_seed(1)
    with torch.no_grad():
        made, mean, log_variance = learner.network(batch.float() / 255)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = float(torch.distributions.kl_divergence(normal, standard).sum(dim=1).mean())
    error = float(((made - batch.float() / 255) ** 2).sum(dim=(1, 2, 3)).mean())
    torch.manual_seed(1)
    metrics = learner.step(batch)
    assert float(metrics["kl"]) == pytest.approx(divergence, rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(error + 0.5 * divergence, rel=1e-4)


def test_pca_is_the_best_linear_map() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (60, 1, 6, 6), dtype=np.uint8))
    flat = images.flatten(1).double().numpy() / 255
    centred = flat - flat.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    for count in (1, 5, 36):
        assert fit_pca(images, count).mse(images) == pytest.approx((singular[count:] ** 2).sum() / flat.size, abs=1e-12)
    # Few images of many numbers: the randomised method, exact where the components cover all there is.
    large = torch.from_numpy(rng.integers(0, 256, (12, 3, 40, 40), dtype=np.uint8))
    assert fit_pca(large, 64).mse(large) == pytest.approx(0.0, abs=1e-10)


def test_the_report_has_pca_beside_it_and_images_of_what_became_of_them(splits: ImageSplits, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["validation"]["mse"] > lines[1]["validation"]["mse"]
    test = lines[-1]["test"]
    assert test["of_pca"] == pytest.approx(test["mse"] / test["pca_mse"])
    assert test["n"] == 100
    with Image.open(run / "reconstructions.png") as image:
        assert image.size == (2 * (10 * 29 + 1), 2 * (4 * 29 + 1))
    metrics = load_checkpoint(run, "ae").metrics
    assert 0 < metrics["anomaly_threshold"] < 0.5
    assert metrics["anomaly_quantile"] == 0.99


def test_denoising_asks_for_the_clean_image(splits: ImageSplits) -> None:
    from lightning_fabric import Fabric

    learner = small(splits, denoise=0.5)
    learner.setup(Fabric(accelerator="cpu"), 10)
    seen: list[torch.Tensor] = []
    learner.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = learner.images[:200]
    metrics = learner.step(batch)
    assert float((seen[0] - batch.float() / 255).std()) == pytest.approx(0.5, abs=0.01)
    assert float(metrics["mse"]) < 0.5  # against the clean image: the noise alone would add 0.25


def test_a_run_cut_off_continues_bit_for_bit(splits: ImageSplits, run: Path, tmp_path: Path, cut_off: Callable) -> None:
    cut_off(small(splits), LoopConfig(out=tmp_path, device="cpu"))
    fit(small(splits), LoopConfig(out=tmp_path, device="cpu", resume=True))
    one, other = load_checkpoint(run, "ae"), load_checkpoint(tmp_path, "ae")
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_recogniser_starts_from_the_encoder(splits: ImageSplits, run: Path) -> None:
    from lightning_fabric import Fabric

    encoder = load_checkpoint(run, "ae")
    learner = CnnLearner(splits, CnnOptions(epochs=1), framing="ink", init=encoder)
    learner.setup(Fabric(accelerator="cpu"), 10)
    assert learner.config.framing == "fit"
    assert learner.config.width == 4
    network = learner.average.module
    assert isinstance(network, Cnn)
    source = encoder.model()
    assert isinstance(source, Autoencoder)
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        mine = network.eval().stages(network.stem((images - network.mean) / network.std))
        theirs = source.encoder.stages(source.encoder.stem((images - source.encoder.mean) / source.encoder.std))
    assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_few_labels_with_and_without_the_encoder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxferry.train.few_labels.STEPS", 8)
    words = ["cnn", "--init", str(run), "--few-labels", "2,5", "--out", str(tmp_path / "few"), "--device", "cpu", "--json"]
    app(words, standalone_mode=False)
    rows = json.loads((tmp_path / "few" / "few_labels.json").read_text())["rows"]
    assert [row["labels_a_class"] for row in rows] == [2, 5]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("with", "without"))
    assert json.loads(capsys.readouterr().out)["rows"] == rows


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda splits: ae_learner(splits, "quick", latent=0), "latent must be from 1 to the image's own 784 numbers, got 0"),
        (lambda splits: ae_learner(splits, "quick", latent=785), "latent must be from 1 to the image's own 784 numbers, got 785"),
        (lambda splits: ae_learner(splits, "quick", learning_rate=0.0), "learning_rate must be above 0, got 0.0"),
        (lambda splits: ae_learner(splits, "best"), "unknown preset 'best'; expected quick or full"),
        (lambda splits: ae_learner(splits, "quick", denoise=-1.0), "denoise must be at least 0"),
        (lambda splits: AutoencoderConfig(size=30), "a multiple of 4, from 8 to 96, got 30"),
    ],
)
def test_options_that_make_no_sense(splits: ImageSplits, make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(splits)


def test_a_start_that_is_none_is_refused(run: Path, tmp_path: Path) -> None:
    encoder = load_checkpoint(run, "ae")
    dataclasses.replace(encoder, family="gan").save(tmp_path / "gan.pt")
    with pytest.raises(CheckpointError, match=r"of the family 'gan': give one of train cnn or train ae"):
        app(["cnn", "--init", str(tmp_path / "gan.pt"), "--out", str(tmp_path / "x")], standalone_mode=False)
    with pytest.raises(InputError, match="--width 32 contradicts --init: a run of train ae has the width 4; leave out one of them"):
        app(["cnn", "--init", str(run), "--width", "32", "--out", str(tmp_path / "x")], standalone_mode=False)
    with pytest.raises(InputError, match="--framing ink contradicts --init"):
        app(["cnn", "--init", str(run), "--framing", "ink", "--out", str(tmp_path / "x")], standalone_mode=False)
    with pytest.raises(InputError, match="give one with --init"):
        app(["cnn", "--few-labels", "10", "--out", str(tmp_path / "x")], standalone_mode=False)
    with pytest.raises(InputError, match="takes whole numbers separated by commas, got 'ten'"):
        app(["cnn", "--init", str(run), "--few-labels", "ten", "--out", str(tmp_path / "x")], standalone_mode=False)
    assert not (tmp_path / "x").exists()


def test_with_few_images_it_starts_as_pca_and_learns_from_there(splits: ImageSplits, tmp_path: Path) -> None:
    from lightning_fabric import Fabric

    learner = ae_learner(splits, "quick", latent=8, width=4)
    assert learner.config.linear
    learner.setup(Fabric(accelerator="cpu"), 10)
    at_first = learner.test()
    assert 0.95 < at_first["of_pca"] <= 1.0  # pixels are kept within 0 … 1, which PCA does not do
    learner.network.eval()
    latents = learner.network(learner.images.float() / 255)[1].detach()
    assert torch.allclose(latents.std(dim=0, correction=0), torch.ones(8), atol=1e-2)


def test_fewer_images_than_latents_make_no_difference(splits: ImageSplits) -> None:
    from lightning_fabric import Fabric

    few = dataclasses.replace(splits, train=splits.train.take(np.arange(0, 300, 30)))
    learner = ae_learner(few, "quick", latent=32, width=4)
    learner.setup(Fabric(accelerator="cpu"), 10)
    assert np.isfinite(learner.step(next(iter(learner.batches(0, 0))))["loss"].item())
