"""On one NVIDIA GPU: three shipped models against PyTorch, eager and compiled with CUDA graphs. Prints JSON; says why where there is none.

    python tests/bench/bench_cuda.py                    # --rounds, --batch

The recogniser, the image generator and the autoencoder's encoder, beside the networks that they were exported from; both sides compute
the whole task, uint8 or noise in, answer out. ``device``: inputs lie on the GPU, 16 of them in turn, milliseconds between two CUDA
events around a round, on one stream of torch's. Ours are ``run_dlpack`` on that stream, as it is and with ``cuda_graph`` (its copies
in and out included: torch's answer is its graph's own memory, which the next run overwrites). ``host``: images a second at batch
256, from uint8 in host memory to answers in host memory; where it says so, and always for torch, the images lie in page-locked
memory. float32 is without TF32 on both sides; float16 is our variant beside torch's autocast. Everybody's answers, to all 16 inputs,
are held to the plain file's on the CPU before anything is timed: in float32 nobody may differ, in float16 who differs by more than
``onnxferry bench`` allows is left out and named, and so is what torch cannot compile here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from onnxferry.export.bench.correctness import compare_answers
from onnxferry.export.bench.workloads import BenchModel, Job, bench_model, make_job
from onnxferry.export.optimize.rewrites.float16 import float16
from onnxferry.runtime import Engine
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.placement import PlacementWarning
from onnxferry.runtime.machine import nvidia
from onnxferry.runtime.tuning.bound_run import BoundRun
from scoreboard.rebuilt import rebuild

MODELS = ("digits", "digits-gan", "digits-ae")
TURNS = 16
HOST_BATCH = 256
EAGER, COMPILED = "torch, eager", "torch, compiled with CUDA graphs"
HALF = ", float16"  # ends the names of those that compute in it

Answer = Callable[[int], Any]
"""By the number of the input: an answer by output name, or torch's, in order."""


class Autocast(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> Any:
        with torch.autocast("cuda", torch.float16):
            return self.network(*inputs)


def torch_ways(
    network: torch.nn.Module, to_gpu: Callable[[int], tuple[torch.Tensor, ...]], back: Callable[[Any], Any]
) -> dict[str, Answer]:
    torch.compiler.reset()  # or the second batch size is compiled for any
    torch._dynamo.utils.counters.clear()

    def through(module: torch.nn.Module) -> Answer:
        @torch.inference_mode()
        def call(turn: int) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            return back(module(*to_gpu(turn)))

        return call

    ways = {}
    for name, module in (("", network), (HALF, Autocast(network))):
        ways[EAGER + name] = through(module)
        ways[COMPILED + name] = through(torch.compile(module, mode="reduce-overhead", dynamic=False))
    return ways


def answered(ways: Mapping[str, Answer], job: Job, outputs: tuple[str, ...], model: BenchModel) -> dict[str, str]:
    """Why ways are left out, by name. Ends the program where one is wrong in float32, or ours in float16."""
    wrong = {}
    for name, call in ways.items():
        half = name.endswith(HALF)
        try:
            answers = [_named(call(turn), outputs) for turn in range(TURNS)]
        except Exception as error:
            if not name.startswith("torch"):
                raise
            wrong[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"  # no compiler here, mostly
            continue
        judged = compare_answers(job.answers, answers, job.contract, reduced=True)
        problem = judged.problem or ("" if half else _float32_problem(job.answers, answers))
        if problem and not (half and name.startswith("torch")):
            raise SystemExit(f"nothing was measured: {model.name}, {name}: {problem}")
        if problem:
            wrong[name] = problem
    return wrong


def _named(answer: Any, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    """By name, copied: what torch gives is the next replay's memory."""
    if not isinstance(answer, dict):
        answer = dict(zip(outputs, answer if isinstance(answer, tuple | list) else (answer,), strict=True))
    return {name: _array(value) for name, value in answer.items()}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = (value.float() if value.is_floating_point() else value).cpu()  # autocast leaves some in half precision
    return np.array(value if isinstance(value, np.ndarray) else value.numpy())


def _float32_problem(expected: tuple[dict[str, np.ndarray], ...], answers: list[dict[str, np.ndarray]]) -> str:
    """Tolerances as in tests/runtime/test_cuda.py, which says why. Between two classes that are that near, either may come out."""
    for want, got in zip(expected, answers, strict=True):
        for name, value in want.items():
            off = np.abs(got[name].astype(np.float64) - value)
            allowed = 1e-4 + 1e-3 * np.abs(value) if value.dtype.kind == "f" else int(value.dtype == np.uint8)
            wrong = off > allowed
            if name == "class_index" and "probabilities" in want:
                best = np.sort(want["probabilities"], axis=1)[:, -2:]
                wrong &= best[:, 1] - best[:, 0] > 2e-3
            if wrong.any():
                return f"{name} differs by {off.max():.3g}"
    return ""


def graph_skips() -> int:
    """How often torch.compile found that what it compiled could not be recorded: beside 0, "with CUDA graphs" is not what ran."""
    return int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])


def medians(ways: Mapping[str, Answer], rounds: int, seconds: Callable[[Answer, int], float]) -> dict[str, float]:
    """Of interleaved rounds, seconds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 3 * TURNS):
        for name, call in ways.items():
            took = seconds(call, turn % TURNS)
            if turn >= 3 * TURNS:  # before: compiling, recording, plans
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def between_events(call: Answer, turn: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call(turn)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def to_the_end(call: Answer, turn: int) -> float:
    started = time.perf_counter()
    call(turn)  # ends with the answers in host memory
    return time.perf_counter() - started


def engines(model: BenchModel, **choices: Any) -> dict[str, Engine]:
    half = float16(onnx.load(model.path)).SerializeToString()
    return {"": Engine(model.path, device="cuda", **choices), HALF: Engine(half, device="cuda", **choices)}


def page_locked(engine: Engine, array: np.ndarray) -> np.ndarray:
    copy = engine.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def on_device(model: BenchModel, batch: int, rounds: int) -> dict[str, Any]:
    job, rebuilt = make_job(model, batch, count=TURNS), rebuild(model.path)
    inputs = [{name: torch.from_numpy(array).cuda() for name, array in feeds.items()} for feeds in job.feeds]
    ways: dict[str, Answer] = {}
    stream = torch.cuda.current_stream().cuda_stream
    for name, engine in engines(model, cuda_stream=stream).items():
        ways[f"ours{name}"] = lambda turn, engine=engine: engine.run_dlpack(inputs[turn])
    for name, engine in engines(model, cuda_stream=stream, cuda_graph=True).items():
        ways[f"ours, CUDA graph{name}"] = lambda turn, engine=engine: engine.run_dlpack(inputs[turn])
    ways |= torch_ways(rebuilt.module.cuda(), lambda turn: tuple(inputs[turn][name] for name in rebuilt.inputs), lambda made: made)
    left_out = answered(ways, job, rebuilt.outputs, model)
    times = medians({name: call for name, call in ways.items() if name not in left_out}, rounds, between_events)
    return {
        "ms": {name: round(1e3 * each, 4) for name, each in times.items()},
        "× as fast": ratios(times),
        "left out": left_out,
        "torch's graphs not recorded": graph_skips(),
    }


def from_host(model: BenchModel, batch: int, rounds: int) -> dict[str, Any]:
    job, rebuilt = make_job(model, batch, count=TURNS), rebuild(model.path)
    pinned = [{name: torch.from_numpy(array).pin_memory() for name, array in feeds.items()} for feeds in job.feeds]
    ways: dict[str, Answer] = {}
    for name, engine in engines(model).items():
        locked = [{key: page_locked(engine, array) for key, array in feeds.items()} for feeds in job.feeds]
        bound = BoundRun(engine)
        ways[f"ours{name}"] = lambda turn, engine=engine: engine.run(job.feeds[turn])
        ways[f"ours, page-locked{name}"] = lambda turn, engine=engine, locked=locked: engine.run(locked[turn])
        ways[f"ours, bound{name}"] = lambda turn, bound=bound: bound.run(job.feeds[turn])
    for name, engine in engines(model, cuda_graph=True).items():
        locked = [{key: page_locked(engine, array) for key, array in feeds.items()} for feeds in job.feeds]
        ways[f"ours, CUDA graph{name}"] = lambda turn, engine=engine: engine.run(job.feeds[turn])
        ways[f"ours, CUDA graph, page-locked{name}"] = lambda turn, engine=engine, locked=locked: engine.run(locked[turn])
    ways |= torch_ways(
        rebuilt.module.cuda(),
        lambda turn: tuple(pinned[turn][name].cuda(non_blocking=True) for name in rebuilt.inputs),
        lambda made: [tensor.cpu() for tensor in (made if isinstance(made, tuple) else (made,))],
    )
    left_out = answered(ways, job, rebuilt.outputs, model)
    times = medians({name: call for name, call in ways.items() if name not in left_out}, rounds, to_the_end)
    return {
        "images a second": {n: round(batch / each) for n, each in times.items()},
        "× as fast": ratios(times),
        "left out": left_out,
        "torch's graphs not recorded": graph_skips(),
    }


def ratios(times: Mapping[str, float]) -> dict[str, float]:
    """Our best beside each of torch's, of one precision."""
    best = {
        half: min(each for name, each in times.items() if name.startswith("ours") and name.endswith(HALF) is half) for half in (False, True)
    }
    return {f"as {name}": round(each / best[name.endswith(HALF)], 3) for name, each in times.items() if name.startswith("torch")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 256])
    arguments = parser.parse_args()
    problem = "no NVIDIA GPU was found" if nvidia.cuda_devices() == 0 else ort.cuda_problem()
    if problem is None and not torch.cuda.is_available():
        problem = f"torch {torch.__version__} was built without CUDA, or finds no GPU"
    if problem is not None:
        print(f"nothing was measured: {problem}", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    warnings.simplefilter("ignore", PlacementWarning)  # `onnxferry inspect --placement` shows it
    figures: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "cuda": torch.version.cuda},
    }
    with torch.cuda.stream(torch.cuda.Stream()):
        for name in MODELS:
            model = bench_model(name)
            figures[name] = {f"device, batch {n}": on_device(model, n, arguments.rounds) for n in arguments.batch}
            if model.kind != "image-generator":
                figures[name][f"host, batch {HOST_BATCH}"] = from_host(model, HOST_BATCH, arguments.rounds)
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
