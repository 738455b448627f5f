"""Checkpoints rebuild their model; anything that is not one is refused in one line, and runs no code."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from onnxferry.runtime.errors import CheckpointError
from onnxferry.train import checkpoint as module
from onnxferry.train.checkpoint import Checkpoint, load_checkpoint
from onnxferry.train.cnn import Cnn, CnnConfig


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
