"""Artifacts damaged at random, loaded into ONNX Runtime: no crash of the caller, no hang, and only our errors.

CI runs 500 with a fresh seed. More: ``ONNXFERRY_MUTANTS=10000 pytest tests/runtime/onnx_file/test_mutants.py``; a seed again:
``ONNXFERRY_SEED=…``. Mutants are opened by the dozen in a child (this file, run as a script), because ONNX Runtime itself may
crash on one; such a mutant is given to ``check --untrusted``'s own way, which must refuse it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import pytest

COUNT = int(os.environ.get("ONNXFERRY_MUTANTS", "500"))
BATCH = 50
BATCH_SECONDS = 300
MEMORY = 4 * 2**30


def open_all(folder: Path) -> None:
    """The child: open and replay every mutant, a line of ``results`` for each: its name and what became of it."""
    import resource

    from onnxferry.runtime.engine.engine import Engine
    from onnxferry.runtime.engine.replay import replay_goldens
    from onnxferry.runtime.errors import OnnxFerryError

    if sys.platform.startswith("linux"):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done = {line.partition(" ")[0] for line in (folder / "results").read_text().splitlines()}
    with (folder / "results").open("a") as results:
        for path in sorted(folder.glob("*.onnx")):
            if path.name in done:
                continue
            try:
                with Engine(path, device="cpu", threads=1) as engine:
                    passed = engine.contract is None or replay_goldens(engine.run, engine.contract).passed
                    verdict = "passed" if passed else "differs"
            except OnnxFerryError as error:
                verdict = type(error).__name__
                if not str(error).splitlines()[0].strip():
                    verdict = "BUG an error without words"
            except Exception:  # noqa: BLE001 - what the test is looking for
                verdict = "BUG " + traceback.format_exc().replace("\n", " | ")
            results.write(f"{path.name} {verdict}\n")
            results.flush()


def mutant(data: bytes, weights: list[tuple[int, int]], rng: random.Random) -> bytes:
    """A damaged copy. Nine of ten wounds lie outside of the large weights, where a changed byte only changes a number."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(out))
        while rng.random() < 0.9 and any(start <= at < stop for start, stop in weights):
            at = rng.randrange(len(out)) if rng.random() < 0.5 else min(len(out) - 1, rng.choice(weights)[1] + rng.randrange(4096))
        match rng.choice((0, 0, 1, 1, 1, 2, 3, 4, 5)):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                del out[at : at + rng.choice((1, 2, 8, 64))]
            case 3:
                other = rng.randrange(len(out))
                out[at:at] = out[other : other + rng.choice((1, 4, 32, 256))]
            case 4:
                out[at:at] = rng.choice((b"\x00", b"\xff" * 5, b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\x0b", b"\x80\x80\x80\x80\x08"))
            case 5:
                out = out[: max(at, 1)]
        out = out or bytearray(b"\x08")
    return bytes(out)


def retold(data: bytes, rng: random.Random) -> bytes:
    """A mutant that is valid protobuf: a node, a value, a shape or an attribute changed, as somebody who means harm would."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = rng.choice(graph.node)
        match rng.randrange(8):
            case 0:
                node.op_type = rng.choice(graph.node).op_type
            case 1 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice([rng.choice(graph.node).output[0], "", graph.input[0].name])
            case 2 if node.attribute:
                attribute = rng.choice(node.attribute)
                attribute.i = rng.choice((0, -1, 1, 2**31, 2**62, -(2**63)))
                if attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice((0, -1, 3, 2**31, 2**62))
            case 3 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                if tensor.dims:
                    tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, 1, 7, 2**31, 2**40))
            case 4 if graph.initializer:
                small = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64 and 0 < len(t.raw_data) <= 64]
                if small:
                    tensor = rng.choice(small)
                    raw = bytearray(tensor.raw_data)
                    raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0xFF))
                    tensor.raw_data = bytes(raw)
            case 5:
                del graph.node[rng.randrange(len(graph.node))]
            case 6:
                for value in (*graph.input, *graph.output):
                    for dim in value.type.tensor_type.shape.dim:
                        if rng.random() < 0.3:
                            dim.dim_value = rng.choice((0, 1, 2**40, -5))
            case 7:
                rng.choice([*graph.input, *graph.output]).type.tensor_type.elem_type = rng.randrange(24)
        if not graph.node:
            break
    return model.SerializeToString()


def weight_ranges(data: bytes) -> list[tuple[int, int]]:
    """Where the large weights lie in a file."""
    import onnx

    ranges = []
    for tensor in onnx.load_from_string(data).graph.initializer:
        start = data.find(tensor.raw_data) if len(tensor.raw_data) > 256 else -1
        if start >= 0:
            ranges.append((start, start + len(tensor.raw_data)))
    return ranges


@pytest.mark.slow
@pytest.mark.timeout(0 if COUNT > 500 else 1800)
def test_damaged_artifacts_give_our_errors(tmp_path: Path, make_recogniser) -> None:
    from onnxferry.runtime.artifact.zoo import zoo_model, zoo_names
    from onnxferry.runtime.errors import OnnxFerryError
    from onnxferry.runtime.sandbox.child import SandboxLimits
    from onnxferry.runtime.sandbox.jobs import check_file

    seed = int(os.environ.get("ONNXFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"ONNXFERRY_SEED={seed}")  # shown where the test fails
    rng = random.Random(seed)
    files = [*(zoo_model(name).path for name in zoo_names()), make_recogniser()]
    sources = [(data, weight_ranges(data)) for data in (path.read_bytes() for path in files)]
    verdicts: Counter[str] = Counter()
    bugs, broke = [], []
    for first in range(0, COUNT, BATCH):
        folder = tmp_path / f"{first}"
        folder.mkdir()
        (folder / "results").touch()
        for number in range(first, min(first + BATCH, COUNT)):
            # The small one as often as all others: a wound in it is a wound in what matters.
            data, weights = sources[-1] if rng.random() < 0.5 else rng.choice(sources)
            damaged = retold(data, rng) if rng.random() < 0.4 else mutant(data, weights, rng)
            (folder / f"{number:06}.onnx").write_bytes(damaged)
        names = sorted(path.name for path in folder.glob("*.onnx"))
        results: dict[str, str] = {}
        while len(results) < len(names):
            how = "crash"
            try:
                subprocess.run([sys.executable, __file__, folder], timeout=BATCH_SECONDS, stderr=subprocess.DEVNULL, check=False)
            except subprocess.TimeoutExpired:
                how = "hang"
            lines = (folder / "results").read_text().splitlines()
            results = {name: verdict for name, _, verdict in (line.partition(" ") for line in lines)}
            culprit = next((name for name in names if name not in results), None)
            if culprit is not None:  # the promise: whoever reads it in a child hears of it in words, and goes on
                with pytest.raises(OnnxFerryError) as caught:
                    check_file(folder / culprit, SandboxLimits(seconds=60))
                broke.append(f"{culprit}: {how}: {caught.value}")
                with (folder / "results").open("a") as file:
                    file.write(f"{culprit} {how}\n")
        verdicts.update(verdict.partition(" ")[0] for verdict in results.values())
        bugs += [f"{name}: {verdict}" for name, verdict in results.items() if verdict.startswith("BUG")]
        for path in folder.glob("*.onnx"):
            if not any(path.name in line for line in (*bugs, *broke)):
                path.unlink()
    print(dict(verdicts), *broke, sep="\n")
    assert bugs == [], f"ONNXFERRY_SEED={seed}"
    assert sum(verdicts.values()) == COUNT
    assert verdicts["ArtifactError"] > COUNT / 10, verdicts
    assert verdicts["passed"] + verdicts["differs"] > COUNT / 50, verdicts


if __name__ == "__main__":
    open_all(Path(sys.argv[1]))
