"""Bulk prediction on a real Ray cluster of several nodes on this machine: the same rows as without, also where a node is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.bulk.job import BulkOptions, predict_to_file
from onnxferry.runtime.errors import InputError, MissingExtraError

IMAGES = 120


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:03d}.png" for number in range(IMAGES)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(path)
    paths[7].write_bytes(b"no image")
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing and two nodes of two CPUs, processes each."""
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    utils = pytest.importorskip("ray.cluster_utils", reason="this Ray has no cluster_utils")
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def test_the_rows_are_those_of_one_process_also_where_a_node_dies(cluster, images: list[str], tmp_path: Path) -> None:
    wanted = predict_to_file(images, tmp_path / "plain.jsonl", BulkOptions("digits", processes=1, part=10, device="cpu", threads=1))
    made, nodes = cluster
    killed: list[int] = []

    def progress(rows: int) -> None:
        if rows and not killed:
            killed.append(rows)
            made.remove_node(nodes[0], allow_graceful=False)

    asked = BulkOptions("digits", part=10, device="cpu", on_ray=True)
    found = predict_to_file(images, tmp_path / "ray.jsonl", asked, progress)
    assert killed
    assert (found.rows, found.errors) == (wanted.rows, wanted.errors) == (IMAGES, 1)
    assert (tmp_path / "ray.jsonl").read_text() == (tmp_path / "plain.jsonl").read_text()


def test_more_actors_than_cpus_are_refused_instead_of_waiting_for_ever(cluster, images: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fewer than the 50 processes"):
        predict_to_file(images * 5, tmp_path / "ray.jsonl", BulkOptions("digits", processes=50, part=10, on_ray=True))
    assert not list(tmp_path.iterdir())


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, images: list[str], tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="ray"):
        predict_to_file(images, tmp_path / "ray.jsonl", BulkOptions("digits", on_ray=True))
    assert not list(tmp_path.iterdir())


def test_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxferry", "predict", "digits", "x.png", "--on"]
    for more, words in ((["ray"], "--on goes with --out FILE"), (["spark", "--out", "x.csv"], "--on takes ray")):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 1
        assert words in done.stderr
