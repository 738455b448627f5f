"""The class for MLServer, in an environment that has MLServer: it needs other versions of protobuf than onnx does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime import load
from onnxferry.runtime.server.deploy.mlserver import write_mlserver
from onnxferry.runtime.server.options import model_source

PROGRAM = """
import asyncio, json, numpy as np
from mlserver.errors import InferenceError
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, RequestInput

settings = ModelSettings.model_validate_json(open("digits/model-settings.json").read())
settings._source = "digits/model-settings.json"
image = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)

async def main():
    model = settings.implementation(settings)
    await model.load()
    assert [tensor.name for tensor in (await model.metadata()).inputs] == ["image"]
    given = RequestInput(name="image", shape=list(image.shape), datatype="UINT8", data=image.reshape(-1).tolist())
    answer = await model.predict(InferenceRequest(inputs=[given]))
    try:
        await model.predict(InferenceRequest(inputs=[RequestInput(name="y", shape=[1], datatype="UINT8", data=[1])]))
        raise SystemExit("no error for an unknown input")
    except InferenceError as error:
        assert "no input 'y'" in str(error)
    print(json.dumps({output.name: list(output.data) for output in answer.outputs}))

asyncio.run(main())
"""


@pytest.mark.network
@pytest.mark.slow
def test_mlserver_runs_a_model(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=300)
    install = [environment / "bin" / "python", "-m", "pip", "install", "-q", "mlserver>=1.7,<2", "onnxruntime>=1.24", "pillow>=13"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=1500)
    if done.returncode != 0 and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    write_mlserver(tmp_path, model_source("digits"))
    # The package as it is installed, without what else this environment has.
    package = tmp_path / "package" / "onnxferry"
    package.mkdir(parents=True)
    (package / "runtime").symlink_to(Path(load.__code__.co_filename).parents[1])
    (package / "__init__.py").write_text("")
    command = [environment / "bin" / "python", "-c", PROGRAM]
    environ = {**os.environ, "PYTHONPATH": str(package.parent)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=300)
    assert found.returncode == 0, found.stderr
    image = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    with load("digits", device="cpu", threads=1) as model:
        expected = model.run({"image": image})
    outputs = json.loads(found.stdout.splitlines()[-1])
    np.testing.assert_allclose(outputs["probabilities"], expected["probabilities"].reshape(-1), rtol=1e-4, atol=1e-6)
