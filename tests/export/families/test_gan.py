"""An image generator becomes one file: noise and labels in, uint8 images out, and used through the runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onnxferry.export import export_checkpoint
from onnxferry.runtime import ImageGenerator, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import CheckpointError, InputError
from onnxferry.runtime.tasks.image_generator import great_circle
from onnxferry.train.families.gan import GanConfig, Generator, GeneratorTask
from onnxferry.train.loop.checkpoint import Checkpoint, load_checkpoint

LABELS = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import dataclasses

    torch.manual_seed(0)
    config = GanConfig(labels=LABELS, noise=8, width=8)
    network = Generator(config).train()
    for _ in range(20):  # running statistics of its own
        network(torch.randn(64, 8), torch.randint(3, (64,)))
    out = tmp_path_factory.mktemp("run")
    Checkpoint(
        family="gan",
        config=dataclasses.asdict(config),
        weights=network.state_dict(),
        examples={"noise": torch.randn(16, 8), "label": torch.arange(16) % 3},
        provenance={"command": "onnxferry train gan --data /home/somebody/secret"},
    ).save(out / "best.pt")
    return out


@pytest.fixture(scope="module")
def artifact(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "animals.onnx"
    report = export_checkpoint(run, path)
    assert report.passed
    return path


@pytest.fixture
def model(artifact: Path):
    with load(artifact, device="cpu") as opened:
        assert isinstance(opened, ImageGenerator)
        yield opened


def test_the_images_are_pytorch_s(run: Path, model: ImageGenerator) -> None:
    rng = np.random.default_rng(3)
    noise, label = rng.standard_normal((500, 8), dtype=np.float32), rng.integers(0, 3, 500)
    with torch.inference_mode():
        expected = GeneratorTask(load_checkpoint(run).model()).eval()(torch.from_numpy(noise), torch.from_numpy(label)).numpy()  # type: ignore[arg-type]
    difference = np.abs(model.make(noise, label).astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 1e-4 * difference.size


def test_the_file_tests_itself_and_tells_no_paths(artifact: Path, model: ImageGenerator) -> None:
    assert model.contract is not None
    assert replay_goldens(model.run, model.contract).passed
    assert len(model.contract.goldens) == 2
    raw = artifact.read_bytes()
    for leak in (b"/home", b"secret/", str(artifact.parent).encode(), b"site-packages", b".py"):
        assert leak not in raw


def test_fewer_images_than_classes_are_the_first_ones(model: ImageGenerator) -> None:
    np.testing.assert_array_equal(model.sample(2), model.sample(30)[:2])


def test_a_sample_is_a_function_of_its_arguments(model: ImageGenerator) -> None:
    whole = model.sample(300, seed=5)
    assert whole.shape == (300, 28, 28)
    assert whole.dtype == np.uint8
    assert np.array_equal(model.sample(7, seed=5), whole[:7])
    assert not np.array_equal(model.sample(7, seed=6), whole[:7])
    noise = np.random.Generator(np.random.PCG64(5)).standard_normal((300, 8), dtype=np.float32)
    expected = np.concatenate([model.make(noise[i : i + 50], np.arange(i, i + 50) % 3) for i in range(0, 300, 50)])[..., 0]
    assert np.abs(whole.astype(int) - expected).max() <= 1  # batches of other sizes round alike but for a level
    batches = list(model.sample_each(600, "bee", seed=1))
    assert [len(batch) for batch in batches] == [256, 256, 88]


@pytest.mark.parametrize("labels", [["cat", 1], [2, "bee"], np.array([2, 1], np.int16), (np.uint8(2), np.int64(1))])
def test_labels_are_names_or_indices_and_are_used_again(model: ImageGenerator, labels: object) -> None:
    assert model.class_indices(labels).tolist() == [2, 1]
    assert np.array_equal(model.sample(5, labels, seed=0), model.sample(5, [2, 1, 2, 1, 2], seed=0))


def test_a_walk_goes_from_one_seed_to_the_other(model: ImageGenerator) -> None:
    strip = model.walk(1, 2, steps=9, label="cat")
    assert strip.shape == (9, 28, 28)
    for end, seed in ((0, 1), (-1, 2)):
        assert np.abs(strip[end].astype(int) - model.sample(1, "cat", seed=seed)[0]).max() <= 1
    a, b = np.array([3.0, 0, 0], np.float32), np.array([0, 3.0, 0], np.float32)
    points = great_circle(a, b, np.linspace(0, 1, 5))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 3, rtol=1e-6)
    np.testing.assert_allclose(points[2], [3 / np.sqrt(2)] * 2 + [0], rtol=1e-6)
    np.testing.assert_allclose(great_circle(a, a, np.linspace(0, 1, 3)), [a, a, a])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.sample(0), "n must be a whole number >= 1, got 0"),
        (lambda m: m.sample(2.5), "n must be a whole number >= 1, got 2.5"),
        (lambda m: m.sample(3, "cot"), "no class 'cot'; did you mean 'cat'"),
        (lambda m: m.sample(3, 3), "class indices are 0 to 2, got 3"),
        (lambda m: m.sample(3, -1), "class indices are 0 to 2, got -1"),
        (lambda m: m.sample(3, [1.5]), "a class's name or index, got 1.5"),
        (lambda m: m.sample(3, []), "labels is empty"),
        (lambda m: m.sample(1, [0, 1]), "2 labels for 1 images"),
        (lambda m: m.sample(1, seed=-1), "seed must be a whole number >= 0"),
        (lambda m: m.make(np.zeros((2, 9), np.float32), np.zeros(2, int)), r"noise must be float32 \(n, 8\), got float32 \(2, 9\)"),
        (lambda m: m.make(np.zeros((1, 8), np.float32), np.array([9])), "class indices must be 0 to 2, got 9"),
        (lambda m: m.walk(0, 1, steps=1), "steps must be a whole number >= 2"),
        (lambda m: m.walk(0, 1, label=[0, 1]), "a walk stays in one class"),
    ],
)
def test_what_does_not_fit_is_said(model: ImageGenerator, call, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(model)


def test_the_command_writes_grids_strips_and_arrays(
    artifact: Path, model: ImageGenerator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, array = tmp_path / "grid.png", tmp_path / "all.npy"
    words = [
        "sample",
        str(artifact),
        "-n",
        "12",
        "--label",
        "cat",
        "--label",
        "0",
        "--grid",
        str(grid),
        "--out",
        str(array),
        "--columns",
        "4",
    ]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["labels"] == ["cat", "ant"]
    assert said["n"] == 12
    made = np.load(array)
    assert np.array_equal(made, model.sample(12, ["cat", "ant"]))
    with Image.open(grid) as image:
        assert image.size == (2 * (4 * 29 + 1), 2 * (3 * 29 + 1))
        assert np.array_equal(np.asarray(image)[2:58:2, 2:58:2], made[0])
    assert main(["sample", str(artifact), "--walk", "3", "-n", "5", "--label", "1", "--grid", str(grid), "--columns", "5"]) == 0
    with Image.open(grid) as image:
        assert image.size == (2 * (5 * 29 + 1), 2 * (29 + 1))
    assert "5 images of 28 x 28" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say where the images go: --grid FILE.png, or --out FILE.npy"),
        (["--grid", "x.jpg"], "an image is written as .png"),
        (["--out", "x.png"], "an array is written as .npy"),
        (["-n", "20000", "--grid", "x.png"], "a grid holds at most 10000 images"),
        (["-n", "0", "--grid", "x.png"], "-n"),
        (["--label", "dog", "--grid", "x.png"], "no class 'dog'"),
        (["--label", "7", "--grid", "x.png"], "class indices are 0 to 2, got 7"),
    ],
)
def test_the_command_says_what_it_cannot_do(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(artifact), *words]) != 0
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["sample", "digits", "--grid", "x.png"]) == 1
    assert "digits is not an image generator, its contract says recogniser" in capsys.readouterr().err


def test_many_images_take_flat_memory(artifact: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import resource, sys; from onnxferry.runtime import load; m = load(sys.argv[1], device='cpu', threads=1); "
        "def_ = list(map(len, m.sample_each(512))); a = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "n = sum(map(len, m.sample_each(20000))); b = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; print(n, b - a)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, timeout=300, check=True)
    made, grown = map(int, result.stdout.split())
    assert made == 20000
    assert grown < 8_000  # kB; 20,000 images take 15,680


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise": torch.randn(16, 9)}, r"'noise' are torch.float32 \(16, 9\), not torch.float32 \(n, 8\)"),
        ({"label": torch.arange(15) % 3}, "not noise and labels of 3 classes"),
        ({"label": torch.arange(16)}, "not noise and labels of 3 classes"),
        ({"label": torch.zeros(16)}, "'label' are torch.float32"),
    ],
)
def test_damaged_examples_are_one_clear_error(run: Path, tmp_path: Path, change: dict[str, torch.Tensor], words: str) -> None:
    content = torch.load(run / "best.pt", weights_only=True)
    torch.save({**content, "examples": {**content["examples"], **change}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=words):
        export_checkpoint(tmp_path / "odd.pt", tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()
