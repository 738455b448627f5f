"""Hostile files through ``onnxferry check --untrusted`` and through a plain load and run: what ends the process, and what never ends.

    python tests/bench/bench_hostile.py --count 400 --how untrusted
    python tests/bench/bench_hostile.py --count 400 --how plain [--folder DIR]

The files: those of ``--folder``, else graphs made here from a seed (operators that grow, divide, index, loop and recurse, with sizes that
are too large, negative or empty) and damaged copies of the shipped models. Each is opened in a process of its own. ``ended``: processes
that a signal ended; ``running``: still running after 30 s; ``foreign``: tracebacks that are none of an OnnxFerryError's.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.zoo import zoo_model, zoo_names

SECONDS = 30

PLAIN = """
import sys
import numpy as np
from onnxferry.runtime import load, errors
from onnxferry.runtime.onnx_file.made_inputs import example_inputs
try:
    with load(sys.argv[1], device="cpu", threads=1, timeout=10) as model:
        model.run(example_inputs(model.engine.inputs), timeout=10)
except errors.OnnxFerryError as error:
    print(type(error).__name__, error)
"""

UNTRUSTED = ["-m", "onnxferry", "check", "--untrusted", "--max-seconds", "20", "--allow-none"]

INTS = (0, 1, -1, 2, 7, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
SIZED = [
    "ConstantOfShape",
    "Expand",
    "Tile",
    "Reshape",
    "Slice",
    "Gather",
    "TopK",
    "OneHot",
    "Pad",
    "Resize",
    "Range",
    "Split",
    "Unsqueeze",
    "Squeeze",
    "Compress",
    "CumSum",
    "Trilu",
]
INTEGER = ["Div", "Mod", "Add", "Mul", "Sub", "BitShift", "Max", "Pow"]
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}


def hostile(rng: random.Random) -> bytes:
    """A graph that an untrusted file may well hold."""
    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []

    def numbers(count: int) -> str:
        name = f"c{len(constants)}"
        constants[name] = np.array([rng.choice(INTS) for _ in range(count)], np.int64)
        return name

    last, kind = "x", rng.choice(("sized", "integer", "recurrent", "grow", "loop", "window"))
    if kind == "integer":
        width = rng.choice((np.int32, np.int64))
        for each in "ab":
            values = [rng.choice([value for value in INTS if np.iinfo(width).min <= value <= np.iinfo(width).max]) for _ in range(4)]
            constants[each] = np.array(values, width)
        direction = {"direction": rng.choice(("LEFT", "RIGHT"))}
        operator = rng.choice(INTEGER)
        nodes.append(helper.make_node(operator, ["a", "b"], ["y"], **(direction if operator == "BitShift" else {})))
    elif kind == "recurrent":
        operator = rng.choice(list(RECURRENT))
        constants["W"] = np.ones((1, RECURRENT[operator] * 3, 2), np.float32)
        constants["R"] = np.ones((1, RECURRENT[operator] * 3, 3), np.float32)
        constants |= {"axis": np.array([rng.choice((0, 1))])}
        nodes.append(helper.make_node("Slice", ["x3", numbers(1), numbers(1), "axis"], ["cut"]))
        nodes.append(helper.make_node(operator, ["cut", "W", "R"], ["y"], hidden_size=3))
    elif kind == "grow":
        operator = rng.choice(("Concat", "Add", "Mul", "MatMul"))
        for turn in range(rng.choice((5, 20, 40, 60))):
            attributes = {"axis": 0} if operator == "Concat" else {}
            nodes.append(helper.make_node(operator, [last, last], [f"v{turn}"], **attributes))
            last = f"v{turn}"
        nodes.append(helper.make_node("Identity", [last], ["y"]))
    elif kind == "loop":
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["on"]),
                helper.make_node("Add", ["v", "v"], ["w"]),
                helper.make_node("Identity", ["v"], ["s"]),
            ],
            "body",
            [helper.make_tensor_value_info(name, dtype, None) for name, dtype in (("i", 7), ("go", 9), ("v", 1))],
            [helper.make_tensor_value_info(name, dtype, None) for name, dtype in (("on", 9), ("w", 1), ("s", 1))],
        )
        constants["rounds"] = np.array(rng.choice(INTS))
        nodes.append(helper.make_node("Loop", ["rounds", "", "x"], ["y", "scanned"], body=body))
    elif kind == "window":
        constants["size"] = np.array(rng.choice(INTS))
        nodes.append(helper.make_node(rng.choice(("HannWindow", "BlackmanWindow")), ["size"], ["y"]))
    else:
        operator = rng.choice(SIZED)
        rank = rng.choice((1, 2, 3))
        inputs = {"ConstantOfShape": [numbers(rank)], "Range": [numbers(1), numbers(1), numbers(1)]}.get(operator, ["x", numbers(rank)])
        if operator == "Slice":
            inputs = ["x", numbers(1), numbers(1), numbers(1)]
        nodes.append(helper.make_node(operator, inputs, ["y"]))
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("x3", TensorProto.FLOAT, ["t", "b", 2]),
    ]
    graph = helper.make_graph(
        nodes, "hostile", ends, [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(min(len(changed), 4000)) if rng.random() < 0.7 else rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--how", choices=("untrusted", "plain"), default="untrusted")
    parser.add_argument("--folder", type=Path, help="of .onnx files, instead of those that are made here")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    with tempfile.TemporaryDirectory(prefix="onnxferry-hostile-") as base:
        if asked.folder:
            files = sorted(asked.folder.rglob("*.onnx"))[: asked.count]
        else:
            shipped = [zoo_model(name).path.read_bytes() for name in zoo_names()]
            files = []
            for number in range(asked.count):
                path = Path(base) / f"{number:05}.onnx"
                path.write_bytes(damaged(rng.choice(shipped), rng) if number % 3 == 0 else hostile(rng))
                files.append(path)
        for path in files:
            command = [sys.executable, *([*UNTRUSTED, str(path)] if asked.how == "untrusted" else ["-c", PLAIN, str(path)])]
            try:
                ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
                verdict = "ended" if ended.returncode < 0 else "foreign" if "Traceback" in ended.stderr else "reported"
            except subprocess.TimeoutExpired:
                verdict = "running"
            counts[verdict] += 1
            if verdict != "reported":
                bad.append(f"{path.name}: {verdict}")
    keys = ("reported", "ended", "running", "foreign")
    print(json.dumps({"how": asked.how, "files": len(files), **{key: counts[key] for key in keys}, "bad": bad}, indent=2))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
