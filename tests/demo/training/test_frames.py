"""What a run has shown, read; and the record that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.training.frames import FILE, RECORDED, WATCHED, read_frames
from onnxferry.runtime import Classifier, load
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.files import read_npz


def test_the_record_that_ships_is_of_the_file_that_ships_with_it() -> None:
    frames = read_frames(RECORDED)
    assert frames is not None
    assert frames.state == "done"
    assert len(frames) == len(frames.loss) == len(frames.kernels) == len(frames.wrong)
    assert frames.accuracy[-1] > frames.accuracy[0] + 0.3
    assert np.abs(frames.kernels[-1].astype(float) - frames.kernels[0]).max() > 0.05
    assert frames.record["parity"]["passed"]
    with load(RECORDED / FILE) as model:
        assert isinstance(model, Classifier)
        assert replay(model.engine).passed
        examples = read_npz(zoo_model("digits").path.with_name("examples.npz"))
        right = np.array([each.index for each in model.predict(examples["images"])]) == examples["labels"]
        # Sixty easy digits: fewer than the test images that the record counts are read wrongly, give or take six.
        assert right[examples["predicted"] == examples["labels"]].mean() > frames.record["test"]["accuracy"] - 0.1
    image, label, said = frames.mistakes(0)[0]
    assert image.shape == (28, 28)
    assert label != said
    assert sum(path.stat().st_size for path in RECORDED.iterdir()) < 400_000


def test_nothing_yet_and_damage(tmp_path: Path) -> None:
    assert read_frames(tmp_path) is None
    (tmp_path / WATCHED).write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="train again"):
        read_frames(tmp_path)
    np.savez(tmp_path / WATCHED, record=np.array("{}"))
    with pytest.raises(ArtifactError, match="train again"):
        read_frames(tmp_path)
