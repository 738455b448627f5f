"""timm and torchvision by name, randomly initialised: the file answers as the library's own preparation and model do.

They run in an environment of their own, beside this one's packages: torchvision's binary fits one torch, and is not on every index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from onnxferry.export import export_model
from onnxferry.runtime.errors import InputError, MissingExtraError

# timm imports torchvision, whose Python files declare two operators that only its binary defines. Where that binary is for another torch,
# as the wheel of the index is beside a CPU torch, the two are declared here; no model that classifies calls them.
PROGRAM = """
import json, os, sys
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
try:
    import torchvision
except RuntimeError:
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor x) -> Tensor")
    import torchvision
import timm
import numpy as np
from PIL import Image
from safetensors.torch import save_file
from onnxferry.export import export_model
from onnxferry.runtime import load
from onnxferry.runtime.errors import OnnxFerryError

found = {}
for name in sys.argv[1:]:
    torch.manual_seed(0)
    source, _, model = name.partition(":")
    made = (timm.create_model(model) if source == "timm" else torchvision.models.get_model(model)).eval()
    save_file({key: value.clone() for key, value in made.state_dict().items()}, "w.safetensors")
    report = export_model(name, None, "m.onnx", weights="w.safetensors")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((400, 300), 2)
    if source == "timm":
        prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=made))
    else:
        prepare = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    with torch.no_grad():
        wanted = torch.softmax(made(prepare(photo)[None]), -1)[0].numpy()
    with load("m.onnx", device="cpu") as ours:
        answer = ours.predict_one(photo)
        difference = float(np.abs(answer.probabilities - wanted).max() / wanted.max())
        found[name] = {"passed": report.passed, "difference": difference, "labels": len(ours.labels), "license": ours.contract.license}
def refused(name, **options):
    try:
        export_model(name, None, "no.onnx", **options)
    except OnnxFerryError as error:
        return str(error)


os.environ["HF_HUB_OFFLINE"] = "1"
found["words"] = [refused("timm:no_such_model"), refused("torchvision:no_such_model"), refused("timm:test_resnet", weights="no.pt")]
print(json.dumps(found))
"""

NAMES = ("timm:test_resnet", "timm:test_vit", "timm:test_efficientnet", "torchvision:squeezenet1_1")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with timm and torchvision alone. Skips where they cannot be installed."""
    folder = tmp_path_factory.mktemp("packages")
    minor = int(torch.__version__.split(".")[1])
    wanted = ["timm>=1.0.9,<2", f"torchvision==0.{minor + 15}.*"]  # the one of this torch
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--target", str(folder), *wanted],
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
        if os.environ.get("CI"):
            pytest.fail(f"{wanted} could not be installed: {result.stderr}")
        pytest.skip(f"{wanted} could not be installed: {reason}")
    return folder


@pytest.mark.network
@pytest.mark.slow
def test_named_models_answer_as_their_library(packages: Path, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *NAMES], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    timm_words, torchvision_words, weights_words = found.pop("words")
    assert "has no model 'no_such_model'" in timm_words
    assert "classifies with no 'no_such_model'" in torchvision_words
    assert "no.pt" in weights_words
    assert set(found) == set(NAMES)
    for name, each in found.items():
        assert each["passed"], name
        # Of the largest probability: the library rounds to whole levels between resizing and the model.
        assert each["difference"] < 0.02, (name, each)
    assert found["torchvision:squeezenet1_1"]["labels"] == 1000


def test_without_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError) as caught:
        export_model("timm:resnet18", None, tmp_path / "m.onnx")
    assert (caught.value.package, caught.value.extra) == ("timm", "timm")


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dynamic_shapes does not apply"):
        export_model("timm:resnet18", None, tmp_path / "m.onnx", dynamic_shapes={"x": {0: "batch"}})
