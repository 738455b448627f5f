"""An autoencoder becomes two files under one name: proved, self-testing, and used through the runtime."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from onnxferry.export import export_checkpoint
from onnxferry.export.graphs import cleanup
from onnxferry.runtime import Autoencoder, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import ArtifactError, CheckpointError, InputError, ParityError
from onnxferry.runtime.tasks import autoencoder as latents
from onnxferry.train.data.images import load_images
from onnxferry.train.families import autoencoder
from onnxferry.train.families.autoencoder import AutoencoderLearner, AutoencoderOptions, DecoderTask, EncoderTask
from onnxferry.train.loop.checkpoint import Checkpoint, load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit


def trained(out: Path, *, variational: bool = False, seed: int = 0) -> Path:
    splits = load_images("digits-5k", limit=200, validation=50)
    options = AutoencoderOptions(epochs=2, batch=20, average=0.9)
    learner = AutoencoderLearner(splits, options, latent=6, width=8, variational=variational, seed=seed)
    fit(learner, LoopConfig(out=out, command="onnxferry train ae --data /home/somebody/secret", device="cpu"))
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def artifact(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "latents.onnx"
    report = export_checkpoint(run, path)
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 5
    assert sorted(p.name for p in path.parent.iterdir()) == ["latents.decoder.onnx", "latents.onnx"]
    return path


@pytest.fixture
def model(artifact: Path):
    with load(artifact, device="cpu") as opened:
        assert isinstance(opened, Autoencoder)
        yield opened


def test_both_files_do_what_pytorch_does_on_held_out_digits(run: Path, model: Autoencoder) -> None:
    images = load_images("digits-5k").test.images
    network = load_checkpoint(run).model()
    with torch.inference_mode():
        made, latent, score = (t.numpy() for t in EncoderTask(network).eval()(torch.from_numpy(images.copy())))  # type: ignore[arg-type]
        decoded = DecoderTask(network).eval()(torch.from_numpy(latent)).numpy()  # type: ignore[arg-type]
    np.testing.assert_allclose(model.encode(images), latent, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.anomaly_score(images), score, rtol=1e-4, atol=1e-6)
    for ours, theirs in ((model.reconstruct(images), made[..., 0]), (model.decode(latent), decoded[..., 0])):
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 1e-4 * difference.size


def test_shapes_and_a_score_that_is_the_error(model: Autoencoder) -> None:
    images = load_images("digits-5k").test.images[:3]
    assert model.reconstruct(images[0]).shape == (1, 28, 28)
    assert model.encode(images).shape == (3, 6)
    assert model.encode([]).shape == (0, 6)
    assert model.decode(np.zeros((0, 6), np.float32)).shape == (0, 28, 28)
    error = ((model.reconstruct(images).astype(float) - images[..., 0]) ** 2).mean(axis=(1, 2)) / 255**2
    np.testing.assert_allclose(model.anomaly_score(images), error, atol=2e-4)  # but for the rounding to levels
    np.testing.assert_array_equal(model.decode(model.encode(images)), model.reconstruct(images))
    mixed = [images[0], np.zeros((50, 40), np.uint8), np.zeros((9, 9, 3), np.uint8)]
    assert model.reconstruct(mixed).shape == (3, 28, 28)
    assert model.anomaly_score(255 - images).min() > model.threshold > float(np.median(model.anomaly_score(images)))


def test_the_files_test_themselves_and_tell_no_paths(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(artifact), "--json"]) == 0
    names = {c["output"] for c in json.loads(capsys.readouterr().out)["comparisons"]}
    assert names == {"reconstruction", "latent", "anomaly_score", "decoder: image"}
    for file in (artifact, artifact.with_name("latents.decoder.onnx")):
        raw = file.read_bytes()
        for leak in (b"/home", b"secret/", str(artifact.parent).encode(), b"site-packages", b".py"):
            assert leak not in raw
        with load(file) as opened:
            assert opened.contract is not None
            assert replay_goldens(opened.run, opened.contract).passed


def test_a_variational_one_gives_its_means(tmp_path: Path) -> None:
    path = tmp_path / "v.onnx"
    export_checkpoint(trained(tmp_path / "run", variational=True), path, golden=False)
    with load(path) as model:
        assert isinstance(model, Autoencoder)
        assert model.contract is not None
        assert not model.contract.goldens
        assert model.contract.options["variational"] is True
        image = load_images("digits-5k").test.images[:1]
        assert np.array_equal(model.encode(image), model.encode(image))
        assert model.encode(image).shape == (1, 6)


def test_the_command_writes_pairs_and_scores(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = load_images("digits-5k").test.images
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "digit.png")
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    out = tmp_path / "pairs.png"
    assert main(["reconstruct", str(artifact), str(tmp_path / "digit.png"), str(tmp_path / "white.png"), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Path(r["image"]).name for r in said["results"]] == ["digit.png", "white.png"]
    assert said["results"][1]["strange"] is True
    assert [r["resampled"] for r in said["results"]] == [False, True]
    assert len(said["results"][0]["latent"]) == 6
    with Image.open(out) as image:
        pairs = np.asarray(image)
    assert pairs.shape == (2 * 59, 2 * 59)
    assert np.array_equal(pairs[2:58:2, 2:58:2], images[0, ..., 0])  # the original stands above

    assert main(["reconstruct", str(artifact), str(tmp_path / "white.png"), str(tmp_path / "none.png")]) == 1
    captured = capsys.readouterr()
    assert "strange" in captured.out
    assert "1 of 1 were not 28 x 28: their centred squares were resampled in the graph" in captured.err
    assert "no such image" in captured.err
    assert main(["reconstruct", str(artifact), str(tmp_path / "digit.png"), "--out", str(tmp_path / "pairs.jpg")]) == 1
    assert "an image is written as .png" in capsys.readouterr().err


def test_what_does_not_fit_is_said(
    artifact: Path, run: Path, model: Autoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"latents must be float32 \(n, 6\), got float32 \(2, 7\)"):
        model.decode(np.zeros((2, 7), np.float32))
    with pytest.raises(InputError, match="finite"):
        model.decode(np.full((1, 6), np.nan, np.float32))
    with pytest.raises(InputError, match=r"no classes: leave with_labels \(--with-labels\) out"):
        export_checkpoint(run, tmp_path / "x.onnx", with_labels=True)
    assert main(["reconstruct", "digits", "x.png"]) == 1
    assert "digits is not an autoencoder's encoder, its contract says recogniser" in capsys.readouterr().err
    assert main(["predict", str(artifact), "x.png"]) == 1
    assert "is not a recogniser, its contract says encoder" in capsys.readouterr().err

    alone = tmp_path / "alone.onnx"
    shutil.copy(artifact, alone)
    with load(alone) as without:
        assert isinstance(without, Autoencoder)
        assert without.encode(np.zeros((28, 28), np.uint8)).shape == (1, 6)
        with pytest.raises(ArtifactError, match=r"the decoder's file is missing, expected .*alone\.decoder\.onnx"):
            without.decode(np.zeros((1, 6), np.float32))
    export_checkpoint(trained(tmp_path / "other", seed=5), tmp_path / "other.onnx")
    shutil.copy(tmp_path / "other.decoder.onnx", tmp_path / "alone.decoder.onnx")
    with pytest.raises(ArtifactError, match="belongs to another encoder"):
        load(alone)
    decoder = artifact.with_name(artifact.name.replace(".onnx", ".decoder.onnx"))
    with Engine(artifact, device="cpu") as one, Engine(decoder, device="cpu") as two:
        latents._check_decoder(one, two, 6, (28, 28, 1))
        with pytest.raises(ArtifactError, match=r"draws no images of \(14, 14, 1\)"):
            latents._check_decoder(one, two, 6, (14, 14, 1))


def test_a_graph_that_differs_leaves_the_older_files(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latents.onnx").write_bytes(b"older")
    (tmp_path / "latents.decoder.onnx").write_bytes(b"older")
    clean = cleanup.clean

    def spoiled(model: onnx.ModelProto, *rest: object) -> onnx.ModelProto:
        model = clean(model, *rest)  # type: ignore[arg-type]
        for tensor in model.graph.initializer if model.graph.input[0].name == "latent" else ():
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.ndim == 1:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array + np.float32(0.1), tensor.name))
        return model

    monkeypatch.setattr(cleanup, "clean", spoiled)
    with pytest.raises(ParityError, match="image"):
        export_checkpoint(run, tmp_path / "latents.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latents.decoder.onnx", "latents.onnx"]
    assert (tmp_path / "latents.onnx").read_bytes() == (tmp_path / "latents.decoder.onnx").read_bytes() == b"older"


def test_pixels_a_level_apart_are_counted() -> None:
    from onnxferry.export.parity.compare import _Comparer
    from onnxferry.export.parity.report import OutputParity, ParityReport
    from onnxferry.export.parity.tolerances import PIXEL_SHARE

    judge = _Comparer.__new__(_Comparer)
    judge.report = ParityReport()
    entry = OutputParity("image", "uint8", 0.0, 1.0, "given", elements=100_000, differing=int(100_000 * PIXEL_SHARE))
    judge.report.outputs["image"] = entry
    assert judge._images() == []
    entry.differing += 1
    assert "11 of 100000 elements of 'image' are a level apart" in judge._images()[0].message
    judge.report.outputs["image"] = dataclasses.replace(entry, dtype="float32")
    assert judge._images() == []


@pytest.mark.parametrize("metrics", [{}, {"anomaly_threshold": "0.1", "anomaly_quantile": 0.99}])
def test_metrics_without_a_threshold_are_one_clear_error(tmp_path: Path, metrics: dict[str, object]) -> None:
    config = autoencoder.AutoencoderConfig(width=4, latent=4)
    weights = autoencoder.Autoencoder(config).state_dict()
    examples = {"image": torch.zeros(3, 28, 28, 1, dtype=torch.uint8)}
    Checkpoint("ae", dataclasses.asdict(config), weights, metrics, examples=examples).save(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="metrics have no number 'anomaly_threshold'"):
        export_checkpoint(tmp_path, tmp_path / "odd.onnx")
