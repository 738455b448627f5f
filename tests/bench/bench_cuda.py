"""On one NVIDIA GPU: the shipped families against PyTorch, eager and compiled with CUDA graphs. Prints JSON; says why where there is none.

    python tests/bench/bench_cuda.py                    # --rounds, --batch

Networks of the shipped configurations with weights by chance, exported and proved by ``export_checkpoint``; both sides compute the whole
task, uint8 or noise in, answer out. ``device``: inputs lie on the GPU, 16 of them in turn, milliseconds between two CUDA events around a
round, by torch on its own stream. Ours are ``run_dlpack`` on that stream, and ``run_dlpack`` of an engine with ``cuda_graph`` (its copies
in and out included). ``host``: pictures a second, uint8 in host memory (pinned for torch) to answers in host memory, batch 256.
TF32 is off on both sides. Answers are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from onnxferry.export import export_checkpoint
from onnxferry.runtime import Engine, hardware, ort
from onnxferry.runtime.placement import PlacementWarning
from onnxferry.train.autoencoder import Autoencoder, AutoencoderConfig, EncoderTask
from onnxferry.train.checkpoint import Checkpoint
from onnxferry.train.cnn import Cnn, CnnConfig, Recogniser
from onnxferry.train.gan import GanConfig, Generator, GeneratorTask

TURNS = 16
LABELS = tuple("0123456789")


def families(folder: Path) -> Iterator[tuple[str, torch.nn.Module, Path, Callable[[int, int], dict[str, np.ndarray]]]]:
    """Name, the whole task in torch, its artifact, and feeds by batch and seed."""

    def pictures(batch: int, seed: int) -> dict[str, np.ndarray]:
        return {"image": np.random.default_rng(seed).integers(0, 256, (batch, 28, 28, 1), dtype=np.uint8)}

    def noise(batch: int, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {"noise": rng.standard_normal((batch, 64), dtype=np.float32), "label": rng.integers(0, 10, batch)}

    torch.manual_seed(0)
    examples = {"image": torch.from_numpy(pictures(6, 0)["image"])}
    cnn_config, ae_config, gan_config = CnnConfig(labels=LABELS), AutoencoderConfig(), GanConfig(labels=LABELS)
    cnn, autoencoder, generator = Cnn(cnn_config).eval(), Autoencoder(ae_config).eval(), Generator(gan_config).eval()
    for name, family, config, network, task, feeds, given in (
        ("recogniser", "cnn", cnn_config, cnn, Recogniser(cnn), pictures, examples),
        ("gan", "gan", gan_config, generator, GeneratorTask(generator), noise, {}),
        ("autoencoder", "ae", ae_config, autoencoder, EncoderTask(autoencoder), pictures, examples),
    ):
        checkpoint, artifact = folder / f"{name}.pt", folder / f"{name}.onnx"
        weights = network.state_dict()
        Checkpoint(family=family, config=dataclasses.asdict(config), weights=weights, examples=given).save(checkpoint)
        export_checkpoint(checkpoint, artifact)
        yield name, task.eval().cuda(), artifact, feeds


def milliseconds(ways: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Median over interleaved rounds of the time between two events around one call of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 3 * TURNS):
        for name, call in ways.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record()
            call(turn % TURNS)
            end.record()
            torch.cuda.synchronize()
            if turn >= 3 * TURNS:  # before: compiling, recording, plans
                times[name].append(begin.elapsed_time(end))
    return {name: round(statistics.median(each), 4) for name, each in times.items()}


def on_device(task: torch.nn.Module, artifact: Path, feeds: Callable, batch: int, rounds: int) -> dict[str, float]:
    inputs = [{name: torch.from_numpy(array).cuda() for name, array in feeds(batch, turn).items()} for turn in range(TURNS)]
    compiled = torch.compile(task, mode="reduce-overhead")
    stream = torch.cuda.current_stream().cuda_stream
    engine = Engine(artifact, device="cuda", cuda_stream=stream)
    recorded = Engine(artifact, device="cuda", cuda_graph=True)

    @torch.inference_mode()
    def eager(turn: int) -> object:
        return task(*inputs[turn].values())

    @torch.inference_mode()
    def fast(turn: int) -> object:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs[turn].values())

    ways = {
        "ours": lambda turn: engine.run_dlpack(inputs[turn]),
        "ours, CUDA graph": lambda turn: recorded.run_dlpack(inputs[turn]),
        "torch eager": eager,
        "torch compiled, CUDA graphs": fast,
    }
    names = [spec.name for spec in engine.outputs]
    for turn in range(TURNS):
        result = eager(turn)
        expected = dict(zip(names, result if isinstance(result, tuple) else (result,), strict=True))
        for way in ("ours", "ours, CUDA graph"):
            compare({name: array.numpy() for name, array in ways[way](turn).items()}, expected, way)
    result = milliseconds(ways, rounds)
    best = min(result["ours"], result["ours, CUDA graph"])
    result["ratio to torch compiled"] = round(result["torch compiled, CUDA graphs"] / best, 3)
    result["ratio to torch eager"] = round(result["torch eager"] / best, 3)
    return result


def from_host(task: torch.nn.Module, artifact: Path, feeds: Callable, batch: int, rounds: int) -> dict[str, float]:
    arrays = [feeds(batch, turn) for turn in range(TURNS)]
    pinned = [{name: torch.from_numpy(array).pin_memory() for name, array in each.items()} for each in arrays]
    compiled = torch.compile(task, mode="reduce-overhead")
    engine, recorded = Engine(artifact, device="cuda"), Engine(artifact, device="cuda", cuda_graph=True)

    def through(network: Callable) -> Callable[[int], object]:
        @torch.inference_mode()
        def call(turn: int) -> object:
            torch.compiler.cudagraph_mark_step_begin()
            result = network(*(tensor.cuda(non_blocking=True) for tensor in pinned[turn].values()))
            return [tensor.cpu() for tensor in (result if isinstance(result, tuple) else (result,))]

        return call

    ways: dict[str, Callable[[int], object]] = {
        "ours": lambda turn: engine.run(arrays[turn]),
        "ours, CUDA graph": lambda turn: recorded.run(arrays[turn]),
        "torch eager": through(task),
        "torch compiled, CUDA graphs": through(compiled),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 3 * TURNS):
        for name, call in ways.items():
            started = time.perf_counter()
            call(turn % TURNS)  # ends with the answers in host memory
            if turn >= 3 * TURNS:
                times[name].append(time.perf_counter() - started)
    result = {name: round(batch / statistics.median(each)) for name, each in times.items()}
    ours = max(result["ours"], result["ours, CUDA graph"])
    result["ratio to the better torch"] = round(ours / max(result["torch eager"], result["torch compiled, CUDA graphs"]), 3)
    return result


def compare(actual: dict[str, np.ndarray], expected: dict[str, torch.Tensor], way: str) -> None:
    """Raises where the answers are not the same: then there is nothing to time."""
    for name, tensor in expected.items():
        value = tensor.cpu().numpy()
        if value.dtype.kind in "iu":
            near = np.abs(actual[name].astype(int) - value.astype(int)) <= (1 if value.dtype == np.uint8 else 0)
            if near.mean() < 0.99:
                raise SystemExit(f"{way}: {name} differs from torch's in {1 - near.mean():.2%} of its elements")
        elif not np.allclose(actual[name], value, rtol=1e-3, atol=1e-4):
            raise SystemExit(f"{way}: {name} differs from torch's by {np.abs(actual[name] - value).max():.3g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 256])
    arguments = parser.parse_args()
    problem = "no NVIDIA GPU was found" if hardware.cuda_devices() == 0 else ort.cuda_problem()
    if problem is None and not torch.cuda.is_available():
        problem = f"torch {torch.__version__} was built without CUDA, or finds no GPU"
    if problem is not None:
        print(f"nothing was measured: {problem}", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    warnings.simplefilter("ignore", PlacementWarning)  # `onnxferry inspect --placement` shows it
    figures: dict[str, object] = {
        "card": torch.cuda.get_device_name(),
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "cuda": torch.version.cuda},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, task, artifact, feeds in families(Path(folder)):
            measured = {f"device, batch {n}, ms": on_device(task, artifact, feeds, n, arguments.rounds) for n in arguments.batch}
            if name != "gan":
                measured["host, batch 256, pictures a second"] = from_host(task, artifact, feeds, 256, arguments.rounds)
            figures[name] = measured
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
