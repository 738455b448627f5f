"""Milliseconds to find the objects in one image: the exported graph against the ways to do it in PyTorch, in one run.

    python tests/bench/bench_detector.py --checkpoint runs/scenes --model digit-scenes
    python tests/bench/bench_detector.py --checkpoint runs/scenes --model digit-scenes --variant int8
    python tests/bench/bench_detector.py                        # untrained weights of the shipped shape

All do the whole task, from the uint8 image to the boxes that stay, with the same weights, and find the same objects:

    runtime             the file, through Detector.run
    eager               the network and the suppression in inference mode
    channels last       the same in the memory layout that may be faster for convolutions
    traced              the network under torch.jit.trace and freeze, then the suppression
    compiled            the network under torch.compile for this shape, weights frozen, then the suppression

Each is warmed up and then timed in rounds that take turns; the median of its rounds counts. Nothing else should run meanwhile. Prints one
JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxferry.export import export_checkpoint
from onnxferry.runtime import Detector, load
from onnxferry.runtime.timing import time_in_turns
from onnxferry.train.data.images import load_images
from onnxferry.train.data.scenes import compose_number, compose_scene
from onnxferry.train.families.detector import SCORE_THRESHOLD, Candidates, DetectorConfig, Network, suppressed
from onnxferry.train.loop.checkpoint import Checkpoint, load_checkpoint

Find = Callable[[np.ndarray], list[np.ndarray]]


def with_candidates(candidates: Any, iou_threshold: float) -> Find:
    def find(image: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            boxes, scores, index = candidates(torch.from_numpy(image))
            return [each.numpy() for each in suppressed(boxes, scores, index, SCORE_THRESHOLD, iou_threshold)]

    return find


def ways(network: Network, image: np.ndarray, compiled: bool) -> dict[str, Find]:
    candidates, usual = Candidates(network).eval(), network.config.iou_threshold
    moved = Candidates(network).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; it is measured all the same
        seen, _ = candidates.canvas(torch.from_numpy(image))
        traced = Candidates(network).eval()
        traced.network = torch.jit.freeze(torch.jit.trace(network, (seen,)))  # the canvas computes with sizes, which a trace would fix
    found = {
        "eager": with_candidates(candidates, usual),
        "channels last": with_candidates(moved, usual),
        "traced": with_candidates(traced, usual),
    }
    if compiled:
        torch._dynamo.reset()
        torch._inductor.config.freezing = True
        found["compiled"] = with_candidates(torch.compile(candidates, dynamic=False), usual)
    return found


def untrained(folder: Path) -> Path:
    torch.manual_seed(0)
    config = DetectorConfig(labels=tuple("0123456789"))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 60, 90, 1), dtype=np.uint8))
    Checkpoint("detector", asdict(config), Network(config).eval().state_dict(), examples={"image0": image}).save(folder / "best.pt")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", help="the file; without it the checkpoint is exported")
    parser.add_argument("--variant", help="of the model: int8, which may find other objects")
    parser.add_argument("--seconds", type=float, default=20.0, help="of all rounds of an image together")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, os.cpu_count() or 1])
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    digits = load_images("digits-5k").test
    rng = np.random.default_rng(6)
    images = {
        "a number of 5 digits": compose_number(rng, digits, 5)[0].image[None],
        "a scene of 160 x 224 pixels": compose_scene(rng, digits, 160, 224).image[None],
    }
    rows = []
    with tempfile.TemporaryDirectory() as made:
        run = arguments.checkpoint or untrained(Path(made))
        path = arguments.model or str(Path(made) / "found.onnx")
        if not arguments.model:
            export_checkpoint(run, path)
        network = load_checkpoint(run).model()
        assert isinstance(network, Network)
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for name, image in images.items():
                rows.append({"image": name, "shape": list(image.shape), **row(network, path, image, threads, arguments)})
    print(json.dumps({"machine": platform.processor() or platform.machine(), "load": os.getloadavg()[0], "rows": rows}, indent=2))


def row(network: Network, path: str, image: np.ndarray, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    with load(path, device="cpu", threads=threads, variant=arguments.variant) as model:
        if not isinstance(model, Detector):
            raise SystemExit(f"{path} is not a detector")
        feeds = {"image": image}
        contenders: dict[str, Callable[[], object]] = {"runtime": lambda: model.engine.run(feeds)}
        wanted = model.run(feeds)
        for name, find in ways(network, image, not arguments.no_compile).items():
            found = find(image)  # compiles
            assert found[2].tolist() == wanted["class_index"].tolist() or arguments.variant, f"{name} finds something else"
            contenders[name] = lambda find=find: find(image)  # type: ignore[misc]
        for call in contenders.values():
            for _ in range(5):
                call()
        times = time_in_turns(contenders, arguments.seconds, min_rounds=20)
    medians = {name: round(1e3 * statistics.median(values), 3) for name, values in times.items()}
    best = min((value, name) for name, value in medians.items() if name != "runtime")
    return {
        "threads": threads,
        "milliseconds": medians,
        "best of PyTorch": best[1],
        "times as fast": round(best[0] / medians["runtime"], 2),
    }


if __name__ == "__main__":
    main()
