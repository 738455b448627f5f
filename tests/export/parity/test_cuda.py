"""On a GPU: every shipped model, in float32 and in float16, against PyTorch on CUDA, PyTorch on the CPU and ONNX Runtime on the CPU.

Golden samples in float32, other batch sizes, DLPack, CUDA graphs and page-locked memory are in
tests/runtime/engine/cuda/test_cuda.py; how near
float16 is without a GPU in test_half.py. PyTorch's own float16 (autocast) is no reference: it frames and resamples in half precision
too. The text generator has no float16: see ``candidates_for``.

Tolerances. FLOAT is that of test_cuda.py: sums in another order by other algorithms, TF32 off on both sides, some 1e-6 of the largest
term in a layer, with room for a dozen layers. HALF, a share of an output's largest number, is that of test_half.py, 0.3 %: 2^-12 of
each number in each of a dozen layers; tensor cores sum products of halves in float32, as the CPU does, so that a GPU adds nothing
of that size. A pixel may round to its neighbour (float16: to the next but one, where it was steep), and in float16 one decision of
64 may turn, where two classes were within that share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxferry.export.bench.workloads import bench_model, make_job
from onnxferry.export.optimize.rewrites.float16 import count_float16, float16
from onnxferry.runtime.artifact.contract import Tolerance
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.machine import nvidia
from scoreboard.models import image_rows
from scoreboard.rebuilt import rebuild, rebuild_text

MISSING = "no NVIDIA GPU here" if nvidia.cuda_devices() == 0 else ort.cuda_problem()
TORCH_MISSING = None if torch.cuda.is_available() else f"torch {torch.__version__} was built without CUDA, or finds no GPU"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING is not None, reason=f"CUDA cannot be used: {MISSING}"),
    pytest.mark.filterwarnings(
        "ignore::onnxferry.runtime.engine.placement.PlacementWarning"
    ),  # sums about shapes stay on the CPU on purpose
]
needs_torch = pytest.mark.skipif(TORCH_MISSING is not None, reason=f"PyTorch cannot use CUDA: {TORCH_MISSING}")

FLOAT = Tolerance(rtol=1e-3, atol=1e-4)
HALF = 3e-3
BATCH = 64
DEVICE = "cuda"
IMAGES = image_rows()

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def by_torch(path: Path, feeds: Arrays, device: str) -> dict[str, np.ndarray]:
    """The answers of the network that the file was exported from."""
    rebuilt = rebuild(path)
    module = rebuilt.module.to(device)
    with torch.inference_mode():
        made = module(*(torch.from_numpy(np.array(feeds[name])).to(device) for name in rebuilt.inputs))
    return dict(zip(rebuilt.outputs, (tensor.cpu().numpy() for tensor in (made if isinstance(made, tuple) else (made,))), strict=True))


def assert_near(actual: Arrays, expected: Arrays, half: bool) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape), name
        off = np.abs(actual[name].astype(np.float64) - value)
        if value.dtype.kind == "f":
            allowed = HALF * np.abs(value).max() if half else FLOAT.atol + FLOAT.rtol * np.abs(value)
            assert (off <= allowed).all(), f"{name}: {off.max():.3g}"
        elif value.dtype == np.uint8:
            assert off.max() <= (2 if half else 1), name
            assert off.mean() <= 0.05, name
        else:
            assert (off > 0).sum() <= (len(value) // BATCH if half else 0), name


@needs_torch
@pytest.mark.parametrize("name", IMAGES)
def test_float32_is_pytorchs(name: str) -> None:
    model = bench_model(name)
    job = make_job(model, BATCH, count=1)
    with Engine(model.path, device=DEVICE) as engine:
        ours = engine.run(job.feeds[0])
    assert_near(ours, by_torch(model.path, job.feeds[0], DEVICE), half=False)
    assert_near(ours, by_torch(model.path, job.feeds[0], "cpu"), half=False)


@needs_torch
def test_text_is_read_as_by_pytorch() -> None:
    """Random bytes, which are as unlikely as can be. What is written hangs on draws: test_cuda.py replays the golden samples."""
    model = bench_model("shakespeare")
    prompt = np.random.default_rng(0).integers(32, 127, (BATCH, 40), dtype=np.uint8)
    with Engine(model.path, device=DEVICE) as engine:
        feeds = {"prompt": prompt, "uniforms": np.zeros((BATCH, 0), np.float32)}
        ours = engine.run(feeds, ["log_probabilities", "next_logits"])
    network, start = rebuild_text(model.path)
    for device in (DEVICE, "cpu"):
        network, start = network.to(device), start.to(device).expand(BATCH, -1, -1)
        with torch.inference_mode():
            bytes_ = torch.from_numpy(prompt.astype(np.int64)).to(device).T  # (length, batch)
            logits, after = network(bytes_, start)
            predicted = torch.cat([network.logits_of(start)[None], logits[:-1]]).log_softmax(dim=2)
            read = predicted.gather(2, bytes_[:, :, None])[:, :, 0].T
        theirs = {"log_probabilities": read.cpu().numpy(), "next_logits": network.logits_of(after).cpu().numpy()}
        assert_near(ours, theirs, half=False)


@pytest.mark.parametrize("name", IMAGES)
def test_float16_is_near_the_golden_samples_and_the_cpu(name: str) -> None:
    model = bench_model(name)
    job = make_job(model, BATCH, count=1)
    half = float16(onnx.load(model.path))
    assert count_float16(half) > 0
    with Engine(half.SerializeToString(), device=DEVICE) as engine:
        assert engine.device == DEVICE
        assert_near(engine.run(job.feeds[0]), job.answers[0], half=True)
        assert job.contract is not None
        assert job.contract.goldens
        for golden in job.contract.goldens:
            assert_near(engine.run(golden.inputs), golden.outputs, half=True)


@needs_torch
@pytest.mark.parametrize("name", IMAGES)
def test_float16_is_near_pytorch(name: str) -> None:
    model = bench_model(name)
    feeds = make_job(model, BATCH, count=1).feeds[0]
    with Engine(float16(onnx.load(model.path)).SerializeToString(), device=DEVICE) as engine:
        ours = engine.run(feeds)
    assert_near(ours, by_torch(model.path, feeds, DEVICE), half=True)
