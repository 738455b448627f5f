"""Large models: what optimize, tune and bench take, and what engines and processes of one file hold.

    python tests/bench/bench_big.py                          # all four, some 40 minutes
    python tests/bench/bench_big.py file-500 --verbs tune
    python tests/bench/bench_big.py bert resnet50 --within 300 --json big.json

``resnet50`` and ``bert``: the default configurations of transformers, ResNet-50 (26 million weights) and BERT-base (110 million), on images
of 224 pixels and 128 tokens. ``lstm-2x512``: a text generator, see scoreboard/synthetic.py. ``file-500``: 31 layers of 2048 × 2048 with
their 520 MB of weights in a file beside the model's. All with random weights; they are made when they are first asked for.

Memory is that of a verb's process and all it starts: their proportional set sizes, summed, at most. Of engines and processes: after a run
in each. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.bench.report import machine
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.cli.console import new_table, plain, stderr, stdout
from onnxferry.runtime.files import downloads_folder, write_json
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.machine.memory import Resident, resident_memory

ROWS, TOKENS, SIDE = 8, 128, 224

COUNTS = (1, 2, 4)
"""Of engines, and of processes."""


def write_resnet50(path: Path) -> None:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    _export(ResNetForImageClassification(ResNetConfig(num_labels=1000)), (torch.randn(2, 3, SIDE, SIDE),), ("pixel_values",), path)


def write_bert(path: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    ids = torch.randint(0, 30_000, (2, TOKENS))
    _export(BertModel(BertConfig(attn_implementation="eager")), (ids, torch.ones_like(ids)), ("input_ids", "attention_mask"), path)


def _export(network: Any, inputs: tuple[Any, ...], names: Sequence[str], path: Path) -> None:
    """By torch itself: what is measured here is what happens to the file."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *arrays: Any) -> Any:
            return self.network(**dict(zip(names, arrays, strict=True)))[0]

    axes = (tuple({0: torch.export.Dim("batch")} for _ in inputs),)
    torch.onnx.export(
        Plain().eval(), inputs, path, input_names=list(names), output_names=["y"], dynamic_shapes=axes, dynamo=True, external_data=False
    )


def write_lstm(path: Path) -> None:
    from scoreboard.synthetic import make

    make("lstm-2x512", path)


def write_file_500(path: Path, layers: int = 31, width: int = 2048) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(layers):
        matrix = np.float32(np.sqrt(2 / width)) * rng.standard_normal((width, width), dtype=np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes += [
            helper.make_node("MatMul", [f"x{layer}" if layer else "x", f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], [f"x{layer + 1}" if layer + 1 < layers else "y"]),
        ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "large", values[:1], values[1:], weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")


MODELS: dict[str, Callable[[Path], None]] = {
    "resnet50": write_resnet50,
    "bert": write_bert,
    "lstm-2x512": write_lstm,
    "file-500": write_file_500,
}


VERBS = ("optimize", "tune", "bench")


def model_file(name: str) -> Path:
    """Made where it is not there yet, in a process of its own, whose memory is gone afterwards."""
    path = downloads_folder() / "bench" / "big" / f"{name}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        stderr().print(f"making {plain(name)} ...")
        process = multiprocessing.get_context("spawn").Process(target=MODELS[name], args=(path,))
        process.start()
        process.join()
        if process.exitcode != 0 or not path.is_file():
            raise SystemExit(f"{name} could not be made: its process ended with {process.exitcode}")
    return path


def feeds_file(path: Path) -> Path | None:
    """An .npz of ROWS rows beside the model; None for a text generator, which makes its own."""
    summary = describe(path).summary
    if summary.inputs[0].name == "prompt":
        return None
    target = path.with_suffix(".npz")
    rng = np.random.default_rng(0)
    arrays = {}
    for spec in summary.inputs:
        shape = (ROWS, *(int(size or 1) for size in spec.shape[1:]))
        ids = rng.integers(0, 30_000, shape, np.int64) if spec.name == "input_ids" else np.ones(shape, np.int64)
        arrays[spec.name] = ids if spec.dtype == "int64" else rng.standard_normal(shape, dtype=np.float32)
    np.savez(target, **arrays)
    return target


def command_of(verb: str, path: Path, feeds: Path | None, within: float) -> list[str]:
    text = Path(__file__).parents[2] / "README.md"
    limit = str(within)
    if verb == "optimize":
        data = ["--data", str(feeds), "--budget", "rtol 1e-2"] if feeds else ["--data", str(text)]
        arguments = [*data, "-o", str(path.with_suffix("")), "--within", limit]
    elif verb == "tune":
        arguments = ["--seconds", "30", *(["--feeds", str(feeds)] if feeds else [])]
    else:
        arguments = ["--batch", "1", "--batch", "8", "--quick", "--within", limit, *(["--feeds", str(feeds)] if feeds else [])]
    return [sys.executable, "-m", "onnxferry", verb, str(path), *arguments]


def tree_memory(process: int) -> int:
    """Bytes of a process and all that it started: a page that several have counts once."""
    held = resident_memory(process)
    total = held.pss if held is not None else 0
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return total
    return total + sum(tree_memory(int(child)) for child in children)


def measured(command: Sequence[str]) -> dict[str, Any]:
    """Seconds, bytes of memory at most, exit code, and the lines that were printed."""
    start, most = time.perf_counter(), 0
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        multiprocessing.pool.ThreadPool(1) as pool,
    ):
        lines = pool.apply_async(lambda: (process.stdout or sys.stdin).read())
        while process.poll() is None:
            most = max(most, tree_memory(process.pid))
            time.sleep(0.1)
        text = lines.get()
    return {"seconds": time.perf_counter() - start, "memory": most, "code": process.returncode, "lines": text.splitlines()}


HOLDER = """
    import sys
    from onnxferry.runtime import Engine, share_weights
    from onnxferry.runtime.tuning.inputs import make_feeds
    path, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if folder:
        share_weights(path, folder)
    engines = [Engine(path, device="cpu", threads=1) for _ in range(count)]
    for engine in engines:
        engine.run(make_feeds(engine.contract, engine.inputs, 1, 1)[0])
    print("open", flush=True)
    sys.stdin.readline()
"""


def held_by(path: Path, folder: str, engines: int, processes: int) -> list[Resident]:
    """What each process holds, with so many engines of the file open in it."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path), folder, str(engines)]
    started = []
    try:
        for _ in range(processes):
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            if started[-1].stdout is None or not started[-1].stdout.readline():
                raise SystemExit(f"{path.name} could not be opened")
        found = [resident_memory(process.pid) for process in started]
        return [each for each in found if each is not None]
    finally:
        for process in started:
            process.communicate("\n")


def holdings(path: Path) -> list[dict[str, Any]]:
    rows = []
    folder = path.parent / "shared"
    folder.mkdir(exist_ok=True)
    for what, shared, in_one in (
        ("engines in a process", "", True),
        ("processes", "", False),
        ("processes, share_weights", str(folder), False),
    ):
        for count in COUNTS:
            held = held_by(path, shared, *((count, 1) if in_one else (1, count)))
            rows.append({"what": f"{count} {what}", "pss": sum(each.pss for each in held), "uss": sum(each.uss for each in held)})
    return rows


def print_model(name: str, entry: dict[str, Any]) -> None:
    console = stdout()
    title = f"{plain(name)}: {human_bytes(entry['weights'])} of weights"
    if entry["verbs"]:
        table = new_table("verb", "seconds", "memory at most", "exit code", "skipped", right=("seconds", "memory at most"), title=title)
        for verb, found in entry["verbs"].items():
            skipped = sum("skipped: " in line for line in found["lines"])
            table.add_row(verb, f"{found['seconds']:.0f}", human_bytes(found["memory"]), str(found["code"]), str(skipped))
        console.print(table)
    table = new_table("open", "PSS", "of it unshared", right=("PSS", "of it unshared"), title=title)
    for row in entry["held"]:
        table.add_row(row["what"], human_bytes(row["pss"]), human_bytes(row["uss"]))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--verbs", nargs="*", choices=VERBS, default=list(VERBS))
    parser.add_argument("--within", type=float, default=240.0, help="of optimize and bench, seconds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "models": {}}
    for name in chosen.models or MODELS:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; expected some of {', '.join(MODELS)}")
        path = model_file(name)
        feeds = feeds_file(path)
        entry: dict[str, Any] = {"weights": describe(path).summary.weight_bytes, "verbs": {}, "held": holdings(path)}
        for verb in chosen.verbs:
            stderr().print(f"{plain(name)}: {verb} ...")
            entry["verbs"][verb] = measured(command_of(verb, path, feeds, chosen.within))
        document["models"][name] = entry
        print_model(name, entry)
        if chosen.json is not None:
            write_json(chosen.json, document)


if __name__ == "__main__":
    main()
