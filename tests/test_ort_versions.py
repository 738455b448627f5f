"""The oldest ONNX Runtimes that are promised and the newest that there is, in environments that hold no torch, no onnx, and of ours
only the wheel.

An artifact's promise is to any caller: the bare onnxruntime API runs each file from 1.20 on; our own runtime wants 1.24.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import block

from onnxferry.export import ExportError, convert_file, export_checkpoint, export_model, wrap_file
from onnxferry.runtime import Contract, Engine
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.train.families.cnn import Cnn, CnnConfig
from onnxferry.train.families.rnn import Rnn, RnnConfig
from onnxferry.train.loop.checkpoint import Checkpoint

ROOT = Path(__file__).parents[1]
OLDEST = "1.24"  # for our runtime
OLDEST_BARE = "1.20"  # for an artifact without it
NEWEST_TRIED = "1.32"  # the newest that these tests have passed with; a later one is taken where the package index has it

pytestmark = [pytest.mark.network, pytest.mark.slow]

# Not one line of ours: what a stranger writes who has onnxruntime and the file.
BARE = """
import json, sys
import numpy as np, onnxruntime
model, feeds, answers = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
assert session.get_providers() == ["CPUExecutionProvider"]
given = {}
with np.load(feeds) as arrays:
    for sample in sorted({key.split("/")[0] for key in arrays.files}):
        inputs = {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(sample + "/")}
        for output, value in zip(session.get_outputs(), session.run(None, inputs)):
            given[f"{sample}/{output.name}"] = value
np.savez(answers, **given)
print(json.dumps({"onnxruntime": onnxruntime.__version__, "inputs": [i.name for i in session.get_inputs()]}))
"""


def run(*command: str | Path, cwd: Path, may_fail: bool = False) -> str:
    # Without PYTHON* variables of this environment, which could show the other one our packages.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode in ((0, 1) if may_fail else (0,)), f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def environment(base: Path, *packages: str | Path) -> Path:
    """The Python of a new environment with these packages. Skips the test where they cannot be installed."""
    venv.create(base / "venv", with_pip=True, symlinks=os.name != "nt")
    python = base / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    result = subprocess.run([str(part) for part in install], cwd=base, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
        if os.environ.get("CI"):
            pytest.fail(f"{packages} could not be installed: {result.stderr}")
        pytest.skip(f"{packages} could not be installed: {reason}")
    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the oldest ONNX Runtime that loads artifacts, and nothing of ours."""
    return environment(tmp_path_factory.mktemp("bare"), f"onnxruntime=={OLDEST_BARE}.*", "numpy<3")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("wheel")
    tree = base / "tree"
    tree.mkdir()
    for name in ("runtime", "train", "export", "demo", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", base, tree, cwd=base)
    (built,) = base.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def old(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the oldest ONNX Runtime that our runtime takes, and our wheel with what it requires itself."""
    return environment(tmp_path_factory.mktemp("old"), wheel, f"onnxruntime=={OLDEST}.*")


@pytest.fixture(scope="module")
def newest(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the newest ONNX Runtime that the package index has, and our wheel."""
    return environment(tmp_path_factory.mktemp("newest"), wheel, f"onnxruntime>={NEWEST_TRIED}")


class Small(torch.nn.Module):
    """A user's own model: two inputs, two outputs, a dynamic batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(6, 8, batch_first=True)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, steps: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, last = self.gru(steps)
        return torch.softmax(self.head(hidden) * scale, dim=-1), last


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What today's exporters write, and everything that is shipped. Weights by chance: versions differ in operators, not in those."""
    folder = tmp_path_factory.mktemp("artifacts")
    rng = np.random.default_rng(0)
    files = {}
    for framing, channels, size in (("ink", 1, 28), ("fit", 3, 32)):
        torch.manual_seed(0)
        config = CnnConfig(
            labels=("a", "b", "c"), framing=framing, channels=channels, size=size, width=8, mean=(0.5,) * channels, std=(0.3,) * channels
        )
        images = rng.integers(0, 256, (6, 30, 41, channels), dtype=np.uint8)
        checkpoint = folder / f"{framing}.pt"
        Checkpoint(
            family="cnn",
            config=dataclasses.asdict(config),
            weights=Cnn(config).state_dict(),
            examples={"image": torch.from_numpy(images)},
        ).save(checkpoint)
        files[framing] = folder / f"{framing}.onnx"
        export_checkpoint(checkpoint, files[framing])
    for cell in ("lstm", "gru"):
        torch.manual_seed(0)
        text_config = RnnConfig(cell=cell, width=16, embedding=8)
        text = np.frombuffer(b"The sea was calm, and the ferry left on time.\n" * 20, np.uint8)
        Checkpoint(
            family="rnn",
            config=dataclasses.asdict(text_config),
            weights=Rnn(text_config).state_dict(),
            examples={"text": torch.from_numpy(text.copy())},
        ).save(folder / f"{cell}.pt")
        files[cell] = folder / f"{cell}.onnx"
        export_checkpoint(folder / f"{cell}.pt", files[cell])
    files["own"] = folder / "own.onnx"
    export_model(Small().eval(), (torch.randn(2, 5, 6), torch.tensor(1.5)), files["own"], dynamic_shapes={"steps": {0: "batch", 1: "time"}})
    for path in sorted((ROOT / "runtime" / "zoo").rglob("*.onnx")):
        # Variants promise the runtime that their certificate names. All load in old ones too but this: its products of 8-bit weights
        # (MatMulNBits) came later.
        if path.stem != "shakespeare.int8":
            files[f"zoo/{path.stem}"] = path
    return files


def contract_of(path: Path) -> Contract:
    with Engine(path, device="cpu") as engine:
        assert engine.contract is not None
        return engine.contract


def test_environment_is_what_it_says(old: Path, tmp_path: Path) -> None:
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxferry")
    program = f"import importlib.util as u, json; print(json.dumps([n for n in {packages} if u.find_spec(n)]))"
    assert json.loads(run(old, "-c", program, cwd=tmp_path)) == ["onnxruntime", "onnxferry"]
    version = run(old, "-c", "import onnxruntime; print(onnxruntime.__version__)", cwd=tmp_path)
    assert version.startswith(f"{OLDEST}.")


def test_bare_onnxruntime_loads_and_runs_every_artifact(bare: Path, artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    for name, path in artifacts.items():
        contract = contract_of(path)
        feeds, answers = tmp_path / "feeds.npz", tmp_path / "answers.npz"
        np.savez(
            feeds,
            **{
                f"{i}/{key}": value
                for i, golden in enumerate(contract.goldens)
                for key, value in (contract.defaults | golden.inputs).items()
            },
        )
        found = json.loads(run(bare, "-c", BARE, path, feeds, answers, cwd=tmp_path))
        assert found["onnxruntime"].startswith(f"{OLDEST_BARE}.")
        with np.load(answers) as arrays:
            given = [
                {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{i}/")} for i in range(len(contract.goldens))
            ]
        replies = iter(given)
        replay_goldens(lambda _, replies=replies: next(replies), contract).raise_if_failed(name)


def test_a_converted_file_runs_there_before_it_is_written(bare: Path, tmp_path: Path) -> None:
    """LayerNormalization, Gelu and a mean with computed axes, of operator set 20 and the format of today, for the oldest runtime."""
    file = block(tmp_path / "model.onnx", opset=23)
    with pytest.raises(ExportError, match="Opset 23 is under development"):
        convert_file(file, tmp_path / "same.onnx", opset=23, python=bare)
    assert convert_file(file, tmp_path / "older.onnx", target=f"ort>={OLDEST_BARE}", python=bare).fixes[0] == "operator set 23, now 21"
    report = wrap_file(tmp_path / "older.onnx", tmp_path / "ours.onnx", python=bare)
    assert report.passed
    assert contract_of(tmp_path / "ours.onnx").provenance["reference"].startswith(f"ONNX Runtime {OLDEST_BARE}.")


def test_our_runtime_checks_every_artifact_there(old: Path, artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    """An 8-bit variant is certified for a newer ONNX Runtime. Its kernels for some CPUs are less exact here, which a check has to say."""
    for path in artifacts.values():
        certified = describe(path).contract.certificate  # type: ignore[union-attr]
        command = (old, "-m", "onnxferry.runtime", "check", path, "--device", "cpu", "--json")
        document = json.loads(run(*command, cwd=tmp_path, may_fail=bool(certified)))
        failed = [row for row in document["comparisons"] if not row["passed"]]
        assert document["passed"] is not bool(failed)
        assert not failed or (certified and any("its certificate allows" in row["problem"] for row in failed))


def test_our_runtime_predicts_there_without_torch(old: Path, artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (50, 80), dtype=np.uint8)).save(tmp_path / "a.png")
    command = [old, "-m", "onnxferry.runtime", "predict", artifacts["ink"], "a.png", "--device", "cpu", "--json"]
    there = json.loads(run(*command, cwd=tmp_path))
    here = json.loads(run(sys.executable, *command[1:], cwd=tmp_path))
    (one,), (other,) = there["predictions"], here["predictions"]
    assert one["label"] == other["label"]
    assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


ANSWERS = """
import json, sys
import numpy as np, onnxruntime
from onnxferry.runtime import Classifier, TextGenerator, check_file, load
from onnxferry.runtime.engine.replay import replay_goldens

rng = np.random.default_rng(3)
names, paths = sys.argv[2::2], sys.argv[3::2]
passed, answers = {}, {}
for name, path in zip(names, paths):
    with load(path, device="cpu") as model:
        if model.engine.contract.goldens:
            passed[name] = replay_goldens(model.engine.run, model.engine.contract).passed
        if isinstance(model, Classifier):
            images = rng.integers(0, 256, (4, 40, 33, model.channels), np.uint8)
            answers[name] = np.stack([each.probabilities for each in model.predict(images)])
        elif isinstance(model, TextGenerator):
            answers[name] = np.float64([model.score("The sea was calm.")])
np.savez(sys.argv[1], **answers)
print(json.dumps({
    "onnxruntime": onnxruntime.__version__, "passed": passed, "confined": check_file(paths[0]).report.passed,
}))
"""


def test_the_newest_answers_as_the_one_here(newest: Path, artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    """What a release computes in another way, refuses or warns of shows here first."""
    words = [word for pair in artifacts.items() for word in map(str, pair)]
    found = {}
    for place, python in (("there", newest), ("here", Path(sys.executable))):
        found[place] = json.loads(run(python, "-W", "error", "-c", ANSWERS, tmp_path / f"{place}.npz", *words, cwd=tmp_path))
        assert set(found[place]["passed"].values()) == {True}
        assert found[place]["confined"] is True
    assert found["there"]["passed"].keys() == found["here"]["passed"].keys()
    version = found["there"]["onnxruntime"]
    assert tuple(map(int, version.split(".")[:2])) >= tuple(map(int, NEWEST_TRIED.split(".")))
    with np.load(tmp_path / "there.npz") as there, np.load(tmp_path / "here.npz") as here:
        assert there.files == here.files
        assert len(here.files) > 6
        for name in here.files:
            np.testing.assert_allclose(there[name], here[name], atol=1e-5, rtol=0, err_msg=f"{name} in ONNX Runtime {version}")


def test_errors_of_the_newest_are_told_as_here(newest: Path, artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    """They are recognised by their words, which a release may change."""
    (tmp_path / "broken.onnx").write_bytes(artifacts["own"].read_bytes()[:-100])
    program = """
import sys
import numpy as np
from onnxferry.runtime import errors, load
feeds = {"steps": np.zeros((1, 20000, 6), "f4"), "scale": np.float32(1)}
with load(sys.argv[1], device="cpu") as model:
    for call in (
        lambda: model.run(feeds, timeout=1e-3),
        lambda: model.run({**feeds, "steps": np.zeros((1, 2, 5), "f4")}),
        lambda: load("broken.onnx", device="cpu"),
    ):
        try:
            call()
        except errors.OnnxFerryError as error:
            print(type(error).__name__, error)
"""
    there, here = (run(python, "-c", program, artifacts["own"], cwd=tmp_path) for python in (newest, Path(sys.executable)))
    assert len(here.splitlines()) == 3
    assert there == here


def test_the_newest_leaves_nothing_behind_either(newest: Path, artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    """Telemetry on Linux came with 1.29, on by default: a release could turn it on in another way."""
    home = tmp_path / "home"
    home.mkdir()
    unset = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "ONNXFERRY_CACHE", "TF_BUILD", "GITHUB_ACTIONS")
    places = {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset and not name.startswith("PYTHON")}
    program = "import sys; from onnxferry.runtime import check_file, load; load(sys.argv[1], device='cpu'); check_file(sys.argv[1])"
    subprocess.run([newest, "-c", program, artifacts["own"]], env=inherited | places, check=True, timeout=120, cwd=tmp_path)
    assert list(home.rglob("*")) == []
