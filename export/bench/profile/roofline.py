"""What bounds a run, and how far from the floor it is: the time that this machine's own peaks leave for the model's arithmetic and weights.

Peaks are measured with the threads that the model runs on: arithmetic through ONNX Runtime itself, reading through numpy. The fastest of
several turns counts, so that a neighbour who rests now and then does not raise the floor. After the roofline model, Williams et al. 2009,
doi 10.1145/1498765.1498785.
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
"""Of the square matrices whose product is the peak of arithmetic."""


PEAK_S = 0.5
"""Seconds of turns for each peak; the best one counts."""


LARGE = 256 * 2**20
"""Bytes that are read for the memory's bandwidth: more than most last-level caches hold."""


MIN_TURN = 16 * 2**20
"""Bytes that a turn of reading reads at least, again and again where there are fewer: starting its threads must not show."""


SMALL_S = 20e-6
"""An operator that takes less is small: much of its time is the way to it."""


@dataclass(frozen=True)
class Peaks:
    """Of this machine with so many threads."""

    threads: int
    float32: float  # operations a second, a multiply-add is two: MatMul, SIDE³, constant weights
    int8: float  # the same of MatMulInteger, uint8 × int8
    memory: float  # bytes a second that are read, out of LARGE bytes
    cache_bytes: int | None  # of the last-level cache; None where the system does not tell


@dataclass(frozen=True)
class Roofline:
    """Seconds are of one run."""

    arithmetic_s: float
    weights_s: float  # reading the weights, as fast as as many bytes can be read again and again, in a cache or not
    weights_rate: float  # that speed, bytes a second; 0 where no weights are read
    run_s: float
    kernels: float  # operators that are started, those of inner graphs as often as they run
    small: float  # of them, those that take less than SMALL_S, and those that only run an inner graph
    multiplying_s: float  # the others that are counted in the floor
    other_s: float  # the others that are not
    others: tuple[str, ...]  # these, the slowest first

    @property
    def floor_s(self) -> float:
        return max(self.arithmetic_s, self.weights_s)

    @property
    def ratio(self) -> float | None:
        """Run by floor; None where nothing is counted. Below 1 only where the machine was busier when its peaks were measured."""
        return self.run_s / self.floor_s if self.floor_s else None

    @property
    def launches_s(self) -> float:
        """What a run takes beside its larger operators: small ones, and going from one to the next.

        Not the profiler's times of these, which are half the profiler's own. At the least: it slows the larger ones too.
        """
        return max(0.0, self.run_s - self.multiplying_s - self.other_s)

    @property
    def bound(self) -> str:
        """What takes most of a run: launches, other, arithmetic, or weights."""
        parts = {"launches": self.launches_s, "multiplying": self.multiplying_s, "other": self.other_s}
        most = max(parts, key=parts.__getitem__)
        if most == "multiplying":
            return "arithmetic" if self.arithmetic_s >= self.weights_s else "weights"
        return most

    def words(self) -> str:
        """One line: what the run is bounded by, and how much of it that is. The profiler slows operators, so that shares are bounds."""
        if self.bound == "launches":
            return (
                f"launches of {self.small:g} small operators (under {SMALL_S * 1e6:g} µs each, and the way between: "
                f"{self._share(self.launches_s)} of a run or more)"
            )
        if self.bound == "other":
            return f"operators without multiply-adds: {named(self.others)} (up to {self._share(self.other_s)} of a run)"
        what = "arithmetic" if self.bound == "arithmetic" else "memory, reading weights"
        reached = min(1.0, self.floor_s / min(self.multiplying_s, self.run_s))
        return f"{what} (operators that multiply and add: up to {self._share(self.multiplying_s)} of a run, at {reached:.0%} of the peak)"

    def _share(self, seconds: float) -> str:
        return f"{min(1.0, seconds / self.run_s):.0%}"


def named(operators: Sequence[str], most: int = 3) -> str:
    return ", ".join([*operators[:most], *(["…"] if len(operators) > most else [])])


def roofline_of(found: Profile, peaks: Peaks) -> Roofline:
    """Of a profile, by the peaks of the threads that it ran on. Measures how fast so many bytes of weights can be read."""
    work = found.work
    rate = reading(work.distinct_bytes, peaks.threads) if work.distinct_bytes else 0.0
    larger = [node for node in found.nodes if not _small(node)]
    other = [node for node in larger if node.name not in work.counted]
    return Roofline(
        arithmetic_s=work.float32_ops / peaks.float32 + work.int8_ops / peaks.int8,
        weights_s=work.weight_bytes / rate if rate else 0.0,
        weights_rate=rate,
        run_s=found.run_s,
        kernels=sum(node.calls for node in found.nodes),
        small=sum(node.calls for node in found.nodes if _small(node)),
        multiplying_s=sum(node.seconds for node in larger if node.name in work.counted),
        other_s=sum(node.seconds for node in other),
        others=tuple(dict.fromkeys(_operator(node) for node in other)),
    )


def measure_peaks(threads: int) -> Peaks:
    """Takes about three times PEAK_S."""
    int8 = _product("MatMulInteger", np.uint8, np.int8, threads)
    return Peaks(threads, _product("MatMul", np.float32, np.float32, threads), int8, reading(LARGE, threads), last_level_cache())


def reading(size: int, threads: int) -> float:
    """Bytes a second at which so many bytes are read again and again, a part a thread: where they fit a cache, that cache's speed."""
    parts = np.array_split(np.ones(max(size, threads), np.uint8), threads)
    times = -(-MIN_TURN // size)

    def read(part: np.ndarray) -> None:
        for _ in range(times):
            np.maximum.reduce(part)  # numpy's, which reads as fast as it gets anything, lets go of the GIL

    with ThreadPoolExecutor(threads) as pool:
        return size * times / _best(lambda: list(pool.map(read, parts)))


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Bytes of the first CPU's largest cache, which others may share. Source: Linux, ABI/testing/sysfs-devices-system-cpu, cache/index*."""
    sizes = []
    for file in root.glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1:] in ("K", "M"):
            sizes.append(int(text[:-1]) * (1024 if text[-1] == "K" else 2**20))
    return max(sizes, default=None)


def _product(kind: str, left: type[np.generic], right: type[np.generic], threads: int) -> float:
    """Operations a second of one product of square matrices, the right one constant, so that it is packed before."""
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
    """Seconds of the fastest turn within PEAK_S, after one that warms up."""
    turn()
    return min(time_call(turn) for _ in repeat_for(PEAK_S))


def _operator(node: Share) -> str:
    return node.name.rpartition("(")[2].removesuffix(")")


def _small(node: Share) -> bool:
    """An operator with an inner graph has no time of its own but the way to that graph's operators."""
    return _operator(node) in INNER or node.seconds < SMALL_S * node.calls
