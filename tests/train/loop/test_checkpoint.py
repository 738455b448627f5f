"""Checkpoints rebuild their model; anything that is not one is refused in one line, and runs no code."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from onnxferry.runtime.errors import CheckpointError
from onnxferry.train.families.autoencoder import Autoencoder, AutoencoderConfig
from onnxferry.train.families.cnn import Cnn, CnnConfig
from onnxferry.train.families.detector import DetectorConfig, Network
from onnxferry.train.families.gan import GanConfig, Generator
from onnxferry.train.families.rnn import Rnn, RnnConfig
from onnxferry.train.families.seq2seq import Seq2Seq, Seq2SeqConfig
from onnxferry.train.families.text_classifier import TextClassifierConfig, TextNetwork
from onnxferry.train.loop import checkpoint as module
from onnxferry.train.loop.checkpoint import Checkpoint, load_checkpoint


@pytest.fixture
def made(tmp_path: Path) -> tuple[Cnn, Path]:
    config = CnnConfig(labels=("a", "b"), width=4, blocks=(1, 1, 1))
    network = Cnn(config).eval()
    path = tmp_path / "best.pt"
    Checkpoint(family="cnn", config=dataclasses.asdict(config), weights=network.state_dict(), metrics={"accuracy": 0.5}).save(path)
    return network, path


def test_round_trip_rebuilds_the_same_function(made: tuple[Cnn, Path]) -> None:
    network, path = made
    x = torch.rand(3, 1, 28, 28)
    for given in (path, path.parent):
        read = load_checkpoint(given, family="cnn")
        with torch.inference_mode():
            assert torch.equal(read.model()(x)[0], network(x)[0])
        assert read.metrics == {"accuracy": 0.5}
    assert [p.name for p in path.parent.iterdir()] == ["best.pt"]


def test_networks_are_rebuilt_without_what_only_training_needs(tmp_path: Path) -> None:
    small: dict[str, tuple[Any, Any]] = {
        "cnn": (Cnn, CnnConfig(labels=("a", "b"), width=4)),
        "rnn": (Rnn, RnnConfig(depth=1, width=4, embedding=2)),
        "ae": (Autoencoder, AutoencoderConfig(width=4, latent=2)),
        "gan": (Generator, GanConfig(labels=("a", "b"), width=4, noise=2)),
        "detector": (Network, DetectorConfig(labels=("a", "b"), width=4, blocks=(1, 1))),
        "seq2seq": (Seq2Seq, Seq2SeqConfig(embedding=2, encoder=4, decoder=4, attention=2)),
        "text-classifier": (TextNetwork, TextClassifierConfig(labels=("a", "b"), width=4, embedding=2, buckets=64, linear_buckets=64)),
    }
    for family, (network, config) in small.items():
        Checkpoint(family, dataclasses.asdict(config), network(config).state_dict()).save(tmp_path / f"{family}.pt")
    assert set(small) == set(module.FAMILIES)
    child = subprocess.run([sys.executable, "-c", REBUILD, *map(str, tmp_path.iterdir())], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert sorted(child.stdout.split()) == ["Autoencoder", "Cnn", "Generator", "Network", "Rnn", "Seq2Seq", "TextNetwork"]


REBUILD = """
import sys
for package in ("lightning_fabric", "mlxtend", "matplotlib", "sklearn", "pandas"):
    sys.modules[package] = None  # makes its import an ImportError
from onnxferry.train.loop.checkpoint import load_checkpoint
for path in sys.argv[1:]:
    print(type(load_checkpoint(path).model()).__name__)
"""


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("boom.txt",))


def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"onnxferry": "checkpoint", "weights": Bomb()}, "bomb.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint("bomb.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"plain\.pt"):
        load_checkpoint("plain.pt")
    assert not Path("boom.txt").exists()


def test_truncated_empty_foreign_and_missing_files(made: tuple[Cnn, Path], tmp_path: Path) -> None:
    path = made[1]
    whole = path.read_bytes()
    for name, content in {"cut.pt": whole[: len(whole) // 2], "empty.pt": b"", "text.pt": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of onnxferry's"):
        load_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "nowhere.pt")


def test_other_family_newer_schema_and_zip_bomb(made: tuple[Cnn, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made[1]
    with pytest.raises(CheckpointError, match="'cnn', not 'rnn'"):
        load_checkpoint(path, family="rnn")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "schema": 99}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="schema 99"):
        load_checkpoint(tmp_path / "newer.pt")
    torch.save({**content, "config": {**content["config"], "width": 8}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(tmp_path / "odd.pt").model()
    with zipfile.ZipFile(tmp_path / "big.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big/data.pkl", b"\0" * 100_000)
    monkeypatch.setattr(module, "MAX_BYTES", 50_000)
    with pytest.raises(CheckpointError, match="unpacks to"):
        load_checkpoint(tmp_path / "big.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": True}, "schema True"),
        ({"schema": "1"}, "schema 1"),
        ({"family": ["cnn"]}, r"unknown family \['cnn'\]"),
        ({"config": ["a", "b"]}, "config of the type list, expected plain values by name"),
        ({"config": {1: "a"}}, "config of the type dict, expected plain values by name"),
        ({"config": {"labels": torch.zeros(2)}}, "config that are no plain values"),
        ({"metrics": 0.5}, "metrics of the type float"),
        ({"metrics": {"accuracy": torch.tensor(0.5)}}, "metrics that are no plain values"),
        ({"data": "digits"}, "data of the type str"),
        ({"provenance": None}, "provenance of the type NoneType"),
        ({"examples": 3}, "examples of the type int, expected tensors by name"),
        ({"examples": {"image": [[0]]}}, "a list as examples 'image'"),
        ({"weights": [torch.zeros(2)]}, "weights of the type list"),
        ({"weights": {"head.weight": 1}}, "a int as weights 'head.weight'"),
    ],
)
def test_parts_of_a_wrong_type_are_one_clear_error(made: tuple[Cnn, Path], tmp_path: Path, change: dict[str, object], words: str) -> None:
    torch.save({**torch.load(made[1], weights_only=True), **change}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(tmp_path / "odd.pt")
    assert str(caught.value).startswith("odd.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, r"labels = None, expected tuple\[str, ...\]"),
        ({"labels": ["a", 2]}, "labels = .*, expected"),
        ({"width": "4"}, "width = '4', expected int"),
        ({"width": True}, "width = True, expected int"),
        ({"width": -4}, "makes no network"),
        ({"dropout": "none"}, "dropout = 'none', expected float"),
        ({"dropout": 7.0}, "makes no network"),
        ({"blocks": [1, 1]}, r"blocks = \[1, 1\], expected tuple\[int, int, int\]"),
        ({"framing": "sideways"}, "makes no network .unknown framing 'sideways'"),
        ({"mean": []}, "makes no network|do not fit"),
        ({"attention": 3}, "has 'attention', which this version does not know: pip install -U"),
    ],
)
def test_a_damaged_configuration_is_one_clear_error(made: tuple[Cnn, Path], tmp_path: Path, change: dict[str, object], words: str) -> None:
    content = torch.load(made[1], weights_only=True)
    torch.save({**content, "config": {**content["config"], **change}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "odd.pt").model()


@pytest.mark.parametrize(("family", "config"), [("cnn", {}), ("gan", {}), ("rnn", {"cell": "tape"}), ("ae", {"latent": 0})])
def test_every_family_refuses_a_configuration_that_makes_no_network(family: str, config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint's configuration"):
        Checkpoint(family, config, {}).model()


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ({}, "no examples 'image'"),
        ({"image": torch.zeros(2, 9, 9, 1)}, r"torch.float32 \(2, 9, 9, 1\), not torch.uint8 \(n, any, any, 1\)"),
        ({"image": torch.zeros(9, 9, dtype=torch.uint8)}, r"\(9, 9\), not"),
        ({"image": torch.zeros(2, 9, 9, 3, dtype=torch.uint8)}, r"\(2, 9, 9, 3\), not"),
        ({"image": torch.zeros(0, 9, 9, 1, dtype=torch.uint8)}, "not .*, n >= 1"),
        ({"image": torch.zeros(2, 0, 9, 1, dtype=torch.uint8)}, r"\(2, 0, 9, 1\), not"),
    ],
)
def test_examples_of_another_shape_are_one_clear_error(examples: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        Checkpoint("cnn", {}, {}, examples=examples).example("image", torch.uint8, None, None, 1)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("cnn", {"labels": ("a",), "width": 10**6}),
        ("cnn", {"labels": ("a",), "blocks": (10**6, 1, 1)}),
        ("rnn", {"width": 10**6}),
        ("rnn", {"depth": 10**6, "width": 4}),
        ("ae", {"width": 10**6}),
        ("gan", {"labels": ("a",), "width": 10**6}),
    ],
)
def test_a_configuration_of_a_huge_network_takes_no_memory_and_no_time(family: str, config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="do not fit its own configuration"):
        Checkpoint(family, config, {"a": torch.zeros(1)}).model()


def test_a_rebuilt_network_has_its_own_weights_in_the_networks_type(made: tuple[Cnn, Path]) -> None:
    read = load_checkpoint(made[1])
    halves = dataclasses.replace(
        read, weights={name: weight.half() if weight.is_floating_point() else weight for name, weight in read.weights.items()}
    )
    assert {p.dtype for p in halves.model().parameters()} == {torch.float32}
    network = read.model()
    with torch.no_grad():
        next(network.parameters()).zero_()
    assert torch.equal(next(read.model().parameters()), next(made[0].parameters()))


@pytest.mark.parametrize("part", ["weights", "examples"])
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(1).expand(2**40), "out of a storage of 4"),
        (torch.zeros(2**20, device="meta"), "on meta"),
        (torch.zeros(4).to_sparse(), "torch.sparse_coo"),
    ],
)
def test_tensors_without_memory_of_their_size_are_refused(
    made: tuple[Cnn, Path], tmp_path: Path, part: str, tensor: torch.Tensor, words: str
) -> None:
    torch.save({**torch.load(made[1], weights_only=True), part: {"image": tensor}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, 9, 9, 1, dtype=torch.uint8).to_sparse(), torch.zeros(2, 9, 9, 1, dtype=torch.uint8, device="meta")]
)
def test_an_example_on_another_device_or_sparse_is_one_clear_error(tensor: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"the checkpoint's examples 'image' are torch.* on"):
        Checkpoint("cnn", {}, {}, examples={"image": tensor}).example("image", torch.uint8, None, None, 1)
