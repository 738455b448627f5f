"""Roofline of a model on this machine: the least time that its peak arithmetic and memory speed allow, and what bounds a run.

Peaks are measured with the threads that the model runs on: arithmetic through ONNX Runtime, reading through numpy. The fastest of several
turns counts, so that other processes do not lower a peak. The roofline model: Williams et al. 2009, doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.bench.profile.op_counts import INNER
from onnxferry.export.bench.profile.profile import Profile, Share
from onnxferry.export.graphs.nodes import OPSET, ir_version
from onnxferry.runtime.engine import ort
from onnxferry.runtime.timing import repeat_for, time_call

SIDE = 1024
"""Rows of the square matrices whose product measures the peak of arithmetic."""


PEAK_S = 0.5
"""Seconds of measuring for each peak; the fastest turn counts."""


LARGE = 256 * 2**20
"""Bytes read to measure the memory's bandwidth: more than most last-level caches hold."""


MIN_TURN = 16 * 2**20
"""Bytes that a turn reads at least, repeatedly if there are fewer, so that starting the threads takes a small share of it."""


SMALL_S = 20e-6
"""An operator that takes less is small: launching it takes much of its time."""


@dataclass(frozen=True)
class Peaks:
    """Peak speeds of this machine with so many threads."""

    threads: int
    float32: float  # operations a second, a multiply-add is two: MatMul, SIDE³, constant weights
    int8: float  # the same of MatMulInteger, uint8 × int8
    memory: float  # bytes read a second, from LARGE bytes
    cache_bytes: int | None  # of the last-level cache; None if unknown


@dataclass(frozen=True)
class Roofline:
    """Seconds are of one run."""

    arithmetic_s: float
    weights_s: float  # reading the weights at the speed at which as many bytes are read repeatedly, cached or not
    weights_rate: float  # that speed, bytes a second; 0 where no weights are read
    run_s: float
    kernels: float  # operators launched, those of subgraphs once each time they run
    small: float  # of them, those that take less than SMALL_S, and those that only run a subgraph
    multiplying_s: float  # larger operators that are counted in the roofline
    other_s: float  # larger operators that are not
    others: tuple[str, ...]  # their names, slowest first

    @property
    def roofline_s(self) -> float:
        return max(self.arithmetic_s, self.weights_s)

    @property
    def ratio(self) -> float | None:
        """Time of a run / roofline time; None if nothing is counted. Below 1 only if the machine was busier while measuring its peaks."""
        return self.run_s / self.roofline_s if self.roofline_s else None

    @property
    def launches_s(self) -> float:
        """Seconds of a run outside its larger operators: small operators, and the time between operators.

        A lower bound, from the time of a run without the profiler: the profiler's overhead would be half of the small operators' times, and
        it slows down the larger ones too.
        """
        return max(0.0, self.run_s - self.multiplying_s - self.other_s)

    @property
    def bound(self) -> str:
        """What takes most of a run: "launches", "other", "arithmetic" or "weights"."""
        parts = {"launches": self.launches_s, "multiplying": self.multiplying_s, "other": self.other_s}
        most = max(parts, key=parts.__getitem__)
        if most == "multiplying":
            return "arithmetic" if self.arithmetic_s >= self.weights_s else "weights"
        return most

    def words(self) -> str:
        """One line: what bounds the run, and its share. Shares are bounds, because the profiler slows operators down."""
        if self.bound == "launches":
            return (
                f"launches of {self.small:g} small operators (under {SMALL_S * 1e6:g} µs each, and the way between: "
                f"{self._share(self.launches_s)} of a run or more)"
            )
        if self.bound == "other":
            return f"operators without multiply-adds: {named(self.others)} (up to {self._share(self.other_s)} of a run)"
        what = "arithmetic" if self.bound == "arithmetic" else "memory, reading weights"
        reached = min(1.0, self.roofline_s / min(self.multiplying_s, self.run_s))
        return f"{what} (operators that multiply and add: up to {self._share(self.multiplying_s)} of a run, at {reached:.0%} of the peak)"

    def _share(self, seconds: float) -> str:
        return f"{min(1.0, seconds / self.run_s):.0%}"


def named(operators: Sequence[str], most: int = 3) -> str:
    return ", ".join([*operators[:most], *(["…"] if len(operators) > most else [])])


def roofline_of(found: Profile, peaks: Peaks) -> Roofline:
    """The roofline of a profile. ``peaks``: with the threads that it ran on. Measures how fast so many bytes of weights can be read."""
    ops = found.ops
    rate = reading(ops.distinct_bytes, peaks.threads) if ops.distinct_bytes else 0.0
    larger = [node for node in found.nodes if not _small(node)]
    other = [node for node in larger if node.name not in ops.counted]
    return Roofline(
        arithmetic_s=ops.float32_ops / peaks.float32 + ops.int8_ops / peaks.int8,
        weights_s=ops.weight_bytes / rate if rate else 0.0,
        weights_rate=rate,
        run_s=found.run_s,
        kernels=sum(node.calls for node in found.nodes),
        small=sum(node.calls for node in found.nodes if _small(node)),
        multiplying_s=sum(node.seconds for node in larger if node.name in ops.counted),
        other_s=sum(node.seconds for node in other),
        others=tuple(dict.fromkeys(_operator(node) for node in other)),
    )


def measure_peaks(threads: int) -> Peaks:
    """Peak speeds of this machine. Takes about three times PEAK_S."""
    int8 = _product("MatMulInteger", np.uint8, np.int8, threads)
    return Peaks(threads, _product("MatMul", np.float32, np.float32, threads), int8, reading(LARGE, threads), last_level_cache())


def reading(size: int, threads: int) -> float:
    """Bytes a second at which ``size`` bytes are read repeatedly, split between threads: the cache's speed if they fit into it."""
    parts = np.array_split(np.ones(max(size, threads), np.uint8), threads)
    times = -(-MIN_TURN // size)

    def read(part: np.ndarray) -> None:
        for _ in range(times):
            np.maximum.reduce(part)  # limited by reading, and releases the GIL

    with ThreadPoolExecutor(threads) as pool:
        return size * times / _best(lambda: list(pool.map(read, parts)))


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Bytes of the first CPU's largest cache, which CPUs may share. Source: Linux, ABI/testing/sysfs-devices-system-cpu, cache/index*."""
    sizes = []
    for file in root.glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1:] in ("K", "M"):
            sizes.append(int(text[:-1]) * (1024 if text[-1] == "K" else 2**20))
    return max(sizes, default=None)


def _product(kind: str, left: type[np.generic], right: type[np.generic], threads: int) -> float:
    """Operations a second of a product of square matrices, the right one constant, so that it is packed once."""
    rng = np.random.default_rng(0)
    weights, x = (rng.integers(0, 100, (SIDE, SIDE)).astype(kind) for kind in (right, left))
    made = TensorProto.FLOAT if kind == "MatMul" else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", made, [SIDE, SIDE])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=ir_version(OPSET))
    runtime = ort.onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return 2.0 * SIDE**3 / _best(lambda: session.run(None, {"x": x}))


def _best(turn: Callable[[], object]) -> float:
    """Seconds of the fastest turn within PEAK_S, after a warm-up."""
    turn()
    return min(time_call(turn) for _ in repeat_for(PEAK_S))


def _operator(node: Share) -> str:
    return node.name.rpartition("(")[2].removesuffix(")")


def _small(node: Share) -> bool:
    """Operators with a subgraph count as small: their own time is only what launching the subgraph takes."""
    return _operator(node) in INNER or node.seconds < SMALL_S * node.calls
