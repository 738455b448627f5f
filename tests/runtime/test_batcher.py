"""The batcher: merged calls give what single calls give, in bounded time and memory, and one bad call hurts nobody else."""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxferry.runtime import Batcher, Engine, load
from onnxferry.runtime.artifact.metadata import contract_from_metadata, metadata_from_contract
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.engine.batches import BatchAxis, batch_axis
from onnxferry.runtime.errors import BusyError, InputError
from onnxferry.runtime.onnx_file.values import TensorSpec

Make = Callable[..., Path]
PATIENCE = 60.0  # seconds that a test waits for what must come: only a hang takes as long


class Watched(Engine):
    """Counts the rows of its runs, and holds them back while its gate is shut."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, device="cpu", threads=1)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Any = None) -> dict[str, np.ndarray]:
        self.started.set()
        assert self.gate.wait(PATIENCE)
        self.batches.append(max([0, *(len(array) for array in feeds.values() if np.ndim(array))]))
        return super().run(feeds, outputs)


@pytest.fixture
def engine(doubler: Path) -> Iterator[Watched]:
    with Watched(doubler) as opened:
        yield opened
        opened.gate.set()


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)}


def held(engine: Watched, batcher: Batcher) -> Future[Any]:
    """One call that is being run and does not end before the gate is opened."""
    engine.gate.clear()
    future = batcher.submit(rows(-1))
    assert engine.started.wait(PATIENCE)
    return future


def test_calls_that_come_while_one_runs_leave_together(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=8, max_wait=0) as batcher:
        first = held(engine, batcher)
        futures = [batcher.submit(rows(i)) for i in range(20)]
        engine.gate.set()
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE)["y"], rows(2 * i)["x"])
        assert first.result(PATIENCE)["y"][0, 0] == -2
    assert engine.batches == [1, 8, 1, 8, 4]  # the second 1: the first answer of a merged run is compared with the call alone


def test_a_full_batch_does_not_wait(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=4, max_wait=1000) as batcher:
        futures = [batcher.submit(rows(i)) for i in range(4)]
        assert [future.result(PATIENCE)["y"][0, 0] for future in futures] == [0, 2, 4, 6]
    assert engine.batches == [4, 1]


def test_a_lone_call_waits_no_longer_than_it_must(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=4, max_wait=10) as batcher:
        assert batcher.run(rows(3))["y"][0, 0] == 6  # after the lull, a second: company was expected
        waiting = batcher.submit(rows(4))
        assert waiting.result(timeout=5)["y"][0, 0] == 8  # where max_wait alone held, it would take ten
    assert engine.batches == [1, 1]


def test_as_many_as_last_time_do_not_wait_for_more(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=4, max_wait=1000) as batcher:
        for _ in range(2):
            futures = [batcher.submit(rows(i)) for i in range(4)]
            assert [future.result(PATIENCE)["y"][0, 0] for future in futures] == [0, 2, 4, 6]
        batcher._queue.last = 2  # as after a batch of two
        for _ in range(3):
            futures = [batcher.submit(rows(i)) for i in range(2)]
            assert [future.result(PATIENCE)["y"][0, 0] for future in futures] == [0, 2]
    assert engine.batches == [4, 1, 4, 2, 2, 2]


def test_items_of_several_rows_are_never_split_and_get_their_own_rows_back(engine: Watched) -> None:
    sizes = [3, 2, 4, 1, 9, 2]
    with Batcher(engine, max_batch_size=5, max_wait=0) as batcher:
        held(engine, batcher)
        futures = [batcher.submit(rows(*(100 * i + np.arange(size)))) for i, size in enumerate(sizes)]
        engine.gate.set()
        for i, (future, size) in enumerate(zip(futures, sizes, strict=True)):
            np.testing.assert_array_equal(future.result(PATIENCE)["y"], 2 * rows(*(100 * i + np.arange(size)))["x"])
    assert engine.batches == [1, 5, 3, 5, 9, 2]


def test_results_are_the_caller_s_own(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=2, max_wait=0) as batcher:
        held(engine, batcher)
        one, two = batcher.submit(rows(1)), batcher.submit(rows(2))
        engine.gate.set()
        one.result(PATIENCE)["y"][:] = 99
        assert two.result(PATIENCE)["y"][0, 0] == 4
        assert one.result()["y"].base is None  # it keeps no batch alive


@pytest.mark.parametrize("threads", [2, 16])
def test_many_threads_get_what_single_calls_give(threads: int) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (28, int(width)), np.uint8) for width in rng.choice([17, 28], 120)]
    with load("digits", device="cpu") as model, Batcher(model, max_batch_size=7, max_wait=0.002) as batcher:
        wanted = [model.predict(image)[0] for image in images]
        with ThreadPoolExecutor(threads) as pool:
            got = list(pool.map(batcher.run, images))
        for one, other in zip(wanted, got, strict=True):
            assert (one.label, one.index) == (other.label, other.index)
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_coroutines_share_batches(engine: Watched) -> None:
    async def all_of(batcher: Batcher) -> list[float]:
        return [result["y"][0, 0] for result in await asyncio.gather(*(batcher.arun(rows(i)) for i in range(50)))]

    with Batcher(engine, max_batch_size=50, max_wait=PATIENCE) as batcher:
        assert asyncio.run(all_of(batcher)) == [2 * i for i in range(50)]
    assert engine.batches == [50, 1]


def test_images_of_every_form_from_coroutines(recogniser: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 5), 250, np.uint8)).save(tmp_path / "white.png")
    forms = [
        tmp_path / "white.png",
        (tmp_path / "white.png").read_bytes(),
        Image.open(tmp_path / "white.png"),
        np.full((6, 5), 250, np.uint8),
    ]

    async def all_of(batcher: Batcher) -> list[str]:
        return [prediction.label for prediction in await asyncio.gather(*map(batcher.arun, forms))]

    with load(recogniser, device="cpu") as model, Batcher(model) as batcher:
        assert asyncio.run(all_of(batcher)) == ["white"] * 4
        assert batcher.run(str(tmp_path / "white.png")).label == "white"


def test_a_bad_item_is_refused_alone_at_the_call(recogniser: Path) -> None:
    with load(recogniser, device="cpu") as model, Batcher(model) as batcher:
        for bad in ("no-such.png", b"not an image", [np.zeros((3, 3), np.uint8)], np.zeros((2, 3, 3, 1), np.uint8), 5):
            with pytest.raises(InputError):
                batcher.submit(bad)
            with pytest.raises(InputError):
                asyncio.run(batcher.arun(bad))
        assert batcher.run(np.zeros((3, 3), np.uint8)).label == "black"


def write_lookup(path: Path) -> Path:
    """index int64 (n,), of 4 rows → row float32 (n, 2): an index beyond them fails in the middle of a run."""
    table = numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 2])],
        [table],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_an_item_that_breaks_a_batch_fails_alone(tmp_path: Path) -> None:
    with Watched(write_lookup(tmp_path / "lookup.onnx")) as engine, Batcher(engine, max_batch_size=5, max_wait=0) as batcher:
        engine.gate.clear()
        futures = [batcher.submit({"index": np.array([i])}) for i in (0, 1, 7, 2, 9, 3)]
        engine.gate.set()
        for position, (future, index) in enumerate(zip(futures, (0, 1, 7, 2, 9, 3), strict=True)):
            if index < 4:
                np.testing.assert_array_equal(future.result(PATIENCE)["row"], [[2 * index, 2 * index + 1]])
            else:
                with pytest.raises(InputError, match=f"cannot run on index int64 .*idx={index}|indices element out of data bounds"):
                    futures[position].result(PATIENCE)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"z": np.zeros((1, 3), np.float32)}, "no input 'z'"),
        ({}, "input 'x' is missing"),
        ({"x": np.zeros((1, 3))}, "must be float32"),
        ({"x": np.zeros((1, 4), np.float32)}, "size 3 on axis 1"),
        ({"x": np.zeros((), np.float32)}, "2 axes"),
        ({"x": [[1, 2, 3]]}, "numpy array"),
        ({"x": np.zeros((0, 3), np.float32)}, "at least one row"),
        ({5: np.zeros(3, np.float32), "x": np.zeros((1, 3), np.float32)}, "no input 5"),
        ([1, 2, 3], "dict of arrays by input name, got list"),
    ],
)
def test_feeds_that_are_none_say_so_and_hurt_nobody(engine: Watched, bad: Any, words: str) -> None:
    with Batcher(engine, max_batch_size=8, max_wait=0) as batcher:
        held(engine, batcher)
        good = batcher.submit(rows(1))

        try:
            future = batcher.submit(bad)
        except InputError as error:  # at the call, where it shows at once
            future = Future()
            future.set_exception(error)
        engine.gate.set()
        with pytest.raises(InputError, match=words):
            future.result(PATIENCE)
        assert good.result(PATIENCE)["y"][0, 0] == 2


def write_scaled(path: Path, axis: str = "n") -> Path:
    """x float32 (n, 2), factor float32 () optional, shift float32 (n, 1) optional → y = factor * x + shift."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["m"]), helper.make_node("Add", ["m", "shift"], ["y"])],
        "scaled",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("factor", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, [axis, 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.array(1, np.float32), "factor"), numpy_helper.from_array(np.zeros((1, 1), np.float32), "shift")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(("axis", "batches"), [("n", [1, 5, 1, 3]), ("n_or_1", [1, 5, 1, 3]), ("rows", [1, 2, 1, 1, 1, 1, 3])])
def test_what_is_no_row_must_be_equal_to_share_a_run(tmp_path: Path, axis: str, batches: list[int]) -> None:
    with Watched(write_scaled(tmp_path / "scaled.onnx", axis)) as engine, Batcher(engine, max_batch_size=8, max_wait=0) as batcher:
        engine.gate.clear()
        batcher.submit({"x": np.zeros((1, 2), np.float32)})
        assert engine.started.wait(PATIENCE)
        ones = np.ones((1, 2), np.float32)
        shifts = [1.0, 1.0, 2.0, 3.0, 4.0]
        shifted = [batcher.submit({"x": ones, "shift": np.array([[shift]], np.float32)}) for shift in shifts]
        scaled = [batcher.submit({"x": ones, "factor": np.array(5, np.float32)}) for _ in range(3)]
        engine.gate.set()
        assert [future.result(PATIENCE)["y"].tolist() for future in shifted] == [[[1 + shift] * 2] for shift in shifts]
        assert [future.result(PATIENCE)["y"].tolist() for future in scaled] == [[[5.0, 5.0]]] * 3
    assert engine.batches == batches


def test_a_batch_whose_inputs_disagree(tmp_path: Path) -> None:
    words = r"the first axis of x, shift is the batch and must be of one size, got x \(2, 2\), shift \(3, 1\)"
    with Engine(write_scaled(tmp_path / "scaled.onnx"), device="cpu") as engine, Batcher(engine) as batcher:
        feeds = {"x": np.zeros((2, 2), np.float32), "shift": np.zeros((3, 1), np.float32)}
        with pytest.raises(InputError, match=words):
            batcher.run(feeds)


def test_a_full_queue_refuses_or_waits_for_room(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=2, max_wait=0, max_queue=3) as batcher:
        held(engine, batcher)
        futures = [batcher.submit(rows(i)) for i in range(3)]
        with pytest.raises(BusyError, match="3 calls are waiting already, as many as max_queue allows"):
            batcher.run(rows(9))
        with pytest.raises(BusyError):
            batcher.submit(rows(9), timeout=0.01)
        with pytest.raises(BusyError):
            asyncio.run(batcher.arun(rows(9)))
        with ThreadPoolExecutor(1) as pool:
            patient = pool.submit(batcher.run, rows(7), PATIENCE)
            engine.gate.set()
            assert patient.result(PATIENCE)["y"][0, 0] == 14
        assert [future.result(PATIENCE)["y"][0, 0] for future in futures] == [0, 2, 4]


def test_a_queue_is_full_by_the_bytes_of_its_inputs(engine: Watched) -> None:
    nbytes = rows(0)["x"].nbytes
    with Batcher(engine, max_batch_size=2, max_wait=0, max_queue_bytes=2 * nbytes) as batcher:
        held(engine, batcher)
        futures = [batcher.submit(rows(i)) for i in range(2)]
        with pytest.raises(BusyError, match=f"have {2 * nbytes} bytes, and with {nbytes} more they are beyond max_queue_bytes"):
            batcher.run(rows(9))
        with ThreadPoolExecutor(1) as pool:
            patient = pool.submit(batcher.run, rows(7), PATIENCE)
            engine.gate.set()
            assert patient.result(PATIENCE)["y"][0, 0] == 14
        assert [future.result(PATIENCE)["y"][0, 0] for future in futures] == [0, 2]
    with Batcher(engine, max_queue_bytes=1) as batcher:  # a call that is larger alone
        assert batcher.run(rows(3))["y"][0, 0] == 6


def test_a_cancelled_call_is_not_run(engine: Watched) -> None:
    with Batcher(engine, max_batch_size=8, max_wait=0) as batcher:
        held(engine, batcher)
        keep, drop = batcher.submit(rows(1)), batcher.submit(rows(2))
        assert drop.cancel()
        engine.gate.set()
        assert keep.result(PATIENCE)["y"][0, 0] == 2
    assert engine.batches == [1, 1]


def test_closing_finishes_what_was_taken_in_and_leaves_no_thread(engine: Watched) -> None:
    batcher = Batcher(engine, max_batch_size=100, max_wait=1000)
    futures = [batcher.submit(rows(i)) for i in range(5)]
    thread = batcher._queue.thread
    assert thread is not None
    batcher.close()
    assert [future.result(0)["y"][0, 0] for future in futures] == [0, 2, 4, 6, 8]
    assert engine.batches == [5, 1]
    assert not thread.is_alive()
    batcher.close()
    assert "closed" in repr(batcher)
    for call in (batcher.run, batcher.submit, lambda item: asyncio.run(batcher.arun(item))):
        with pytest.raises(InputError, match="the batcher is closed"):
            call(rows(1))
    assert engine.run(rows(1))["y"][0, 0] == 2  # the model is the caller's


def test_who_waits_for_room_hears_of_the_end(engine: Watched) -> None:
    batcher = Batcher(engine, max_wait=0, max_queue=1)
    held(engine, batcher)
    batcher.submit(rows(1))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(batcher.submit, rows(2), PATIENCE)
        while not batcher._queue.room._waiters:  # type: ignore[attr-defined]
            time.sleep(0.001)
        closing = pool.submit(batcher.close)
        with pytest.raises(InputError, match="closed"):
            waiting.result(PATIENCE)
        engine.gate.set()
        closing.result(PATIENCE)


def test_no_call_no_thread_and_one_thread_however_many_calls(engine: Watched) -> None:
    before = threading.active_count()
    with Batcher(engine, max_wait=0) as batcher:
        assert threading.active_count() == before
        for i in range(20):
            batcher.run(rows(i))
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_batcher_that_nobody_holds_ends_its_thread(engine: Watched) -> None:
    batcher = Batcher(engine, max_wait=0)
    batcher.run(rows(1))
    thread = batcher._queue.thread
    assert thread is not None
    del batcher
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_result_may_close_the_batcher(engine: Watched) -> None:
    batcher = Batcher(engine, max_wait=0)
    thread_ended = threading.Event()
    held(engine, batcher).add_done_callback(lambda future: (batcher.close(), thread_ended.set()))
    engine.gate.set()
    assert thread_ended.wait(PATIENCE)
    with pytest.raises(InputError, match="closed"):
        batcher.run(rows(1))


def test_a_process_ends_with_a_batcher_open(doubler: Path) -> None:
    code = (
        "import sys, numpy; from onnxferry.runtime import Batcher, Engine; "
        "b = Batcher(Engine(sys.argv[1], device='cpu'), max_wait=1000); "
        "f = b.submit({'x': numpy.ones((1, 3), 'float32')}); f.add_done_callback(lambda f: print(f.result()['y'][0, 0], flush=True))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(doubler)], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert (done.stdout.strip(), done.stderr) == ("2.0", "")


def test_a_model_closed_under_it_says_so_to_everybody(engine: Watched) -> None:
    with Batcher(engine, max_wait=0) as batcher:
        held(engine, batcher)
        futures = [batcher.submit(rows(i)) for i in range(3)]
        engine.close()
        engine.gate.set()
        for future in futures:
            with pytest.raises(InputError, match="is closed"):
                future.result(PATIENCE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be a whole number >= 1, got 0"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_batch_size": 2.5}, "max_batch_size"),
        ({"max_queue": 0}, "max_queue must be a whole number >= 1, got 0"),
        ({"max_queue": "many"}, "max_queue"),
        ({"max_wait": -1}, "max_wait must be a number of seconds >= 0, got -1"),
        ({"max_wait": math.nan}, "max_wait"),
        ({"max_wait": math.inf}, "max_wait"),
        ({"max_wait": None}, "max_wait"),
    ],
)
def test_options_that_make_no_sense(engine: Watched, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Batcher(engine, **options)


def test_what_is_no_model() -> None:
    with pytest.raises(InputError, match=r"an open model or engine, got str; open it with load\(\.\.\.\) first"):
        Batcher("digits")  # type: ignore[arg-type]


def write_fixed(path: Path, sides: tuple[Any, Any]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [sides[0], 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [sides[1], 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(("sides", "words"), [((1, 1), "no input"), (("n", 1), "output 'y'")])
def test_a_model_without_a_batch_axis_runs_its_calls_one_by_one_or_not_at_all(tmp_path: Path, sides: tuple[Any, Any], words: str) -> None:
    with Engine(write_fixed(tmp_path / "fixed.onnx", sides), device="cpu") as engine:
        with pytest.raises(InputError, match=rf"fixed\.onnx has no open batch axis \({words}\), so calls cannot be merged; use max_batch"):
            Batcher(engine)
        with Batcher(engine, max_batch_size=1) as batcher, ThreadPoolExecutor(4) as pool:
            feeds = [{"x": np.full((1, 2), i, np.float32)} for i in range(10)]
            assert [result["y"][0, 0] for result in pool.map(batcher.run, feeds)] == list(range(10))


def write_dynamic_int8(path: Path) -> Path:
    """x float32 (n, 2), through uint8 with one scale for the whole batch → y."""
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_rows_that_would_change_each_other_are_not_merged(tmp_path: Path, recogniser: Path) -> None:
    with Engine(write_dynamic_int8(tmp_path / "dynamic.onnx"), device="cpu") as engine:
        with pytest.raises(InputError, match=r"scale of its int8 activations by the whole batch, .*; use max_batch_size=1"):
            Batcher(engine)
        with Batcher(engine, max_batch_size=1, max_wait=0) as batcher:
            items = [{"x": np.array([[0.01, 0.02]], np.float32)}, {"x": np.array([[100, 200]], np.float32)}]
            for item, future in [(item, batcher.submit(item)) for item in items]:
                np.testing.assert_array_equal(future.result(PATIENCE)["y"], engine.run(item)["y"])
    model = onnx.load(recogniser)
    contract = contract_from_metadata({item.key: item.value for item in model.metadata_props})
    assert contract is not None
    helper.set_model_props(model, metadata_from_contract(contract.replace(certificate={"rows_alone": True})))
    onnx.save(model, recogniser)
    with load(recogniser, device="cpu") as classifier, pytest.raises(InputError, match="max_batch_size=1"):
        Batcher(classifier)


def test_every_family_can_be_batched() -> None:
    text = {
        "prompt": np.frombuffer(b"To be", np.uint8)[None],
        "uniforms": np.full((1, 4), 0.5, np.float32),
        "temperature": np.array(0, np.float32),
    }
    gan = {"noise": np.zeros((1, 64), np.float32), "label": np.array([3])}
    image = {"image": np.zeros((1, 28, 28, 1), np.uint8)}
    for name, feeds in (("shakespeare", text), ("digits-gan", gan), ("digits-ae", image), ("fashion", image)):
        with load(name, device="cpu", threads=1) as model:
            wanted = model.run(feeds)
            with Batcher(model.engine, max_batch_size=4, max_wait=PATIENCE) as batcher:
                for future in [batcher.submit(feeds) for _ in range(4)]:
                    got = future.result(PATIENCE)
                    assert list(got) == list(wanted)
                    for output, array in wanted.items():
                        assert got[output].dtype == array.dtype
                        np.testing.assert_allclose(got[output], array, rtol=1e-3, atol=1e-4 if array.dtype.kind == "f" else 1)


def spec(name: str, shape: tuple[Any, ...], dtype: str = "float32", ranked: bool = True) -> TensorSpec:
    return TensorSpec(name, dtype, shape, ranked)


@pytest.mark.parametrize(
    ("inputs", "optional", "expected"),
    [
        ([spec("a", ("n", 2)), spec("b", ("n",)), spec("c", ("m",))], [], BatchAxis(("a", "b"))),
        ([spec("a", (1, 2)), spec("b", ("n", 2))], [], BatchAxis(("b",))),
        ([spec("a", (None, 2)), spec("b", (None,)), spec("c", ("m",))], [spec("d", (None, 1))], BatchAxis(("a", "b"))),
        (
            [spec("a", ("n", 2)), spec("b", (None,))],
            [spec("d", ("n",)), spec("e", ("n_or_1",)), spec("f", ())],
            BatchAxis(("a", "b", "d"), ("e",)),
        ),
        ([spec("a", (4, 2)), spec("b", ())], [spec("d", ("n",))], None),
        ([spec("a", (), ranked=False), spec("b", (), "seq(tensor(float))")], [], None),
        ([], [], None),
    ],
)
def test_the_batch_axis(inputs: list[TensorSpec], optional: list[TensorSpec], expected: BatchAxis | None) -> None:
    assert batch_axis(inputs, optional) == expected


def test_the_batch_axis_of_every_shipped_model() -> None:
    for name, inputs, either in (
        ("digits", ("image",), ()),
        ("digits-gan", ("noise", "label"), ()),
        ("shakespeare", ("prompt", "uniforms"), ("prompt_length", "state")),
    ):
        with Engine(zoo_model(name).path, device="cpu", threads=1) as engine:
            assert batch_axis(engine.inputs, engine.optional_inputs) == BatchAxis(inputs, either)


def test_a_thread_that_could_not_be_started_is_tried_again(engine, monkeypatch):
    """The first call raises and is not left in the queue; the next one is answered."""
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
    batcher = Batcher(engine)
    with pytest.raises(BusyError, match=r"cannot start its thread \(can't start new thread\)"):
        batcher.submit(rows(1.0))
    assert batcher._queue.waiting == 0
    monkeypatch.setattr(threading.Thread, "start", start)
    np.testing.assert_array_equal(batcher.submit(rows(2.0)).result(PATIENCE)["y"], rows(4.0)["x"])
    batcher.close()


def test_closing_a_batcher_whose_thread_never_started(engine, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
    batcher = Batcher(engine)
    with pytest.raises(BusyError):
        batcher.submit(rows(1.0))
    batcher.close()


def write_detector(path: Path, batch: str | None, detections: str | None) -> Path:
    """x (batch, 3) → found (detections, 2): where x is above 0. The number of rows of ``found`` is no batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Greater", ["x", "zero"], ["above"]),
            helper.make_node("NonZero", ["above"], ["where"]),
            helper.make_node("Transpose", ["where"], ["found"]),
        ],
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("found", TensorProto.INT64, [detections, 2])],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("batch", "detections", "words"),
    [
        ("batch", "detections", "the first axis of output 'found' of .* is 'detections' and not the batch"),
        (None, None, "does not name the first axis of input 'x'.*assume_batched=True"),
    ],
)
def test_an_output_whose_first_axis_is_not_the_batch_is_never_shared_out(
    tmp_path: Path, batch: str | None, detections: str | None, words: str
) -> None:
    item = {"x": np.array([[1, 1, -1]], np.float32)}
    with Engine(write_detector(tmp_path / "detector.onnx", batch, detections), device="cpu") as engine:
        with pytest.raises(InputError, match=words):
            Batcher(engine)
        with Batcher(engine, max_batch_size=1) as batcher:
            assert batcher.run(item)["found"].tolist() == [[0, 0], [0, 1]]


def test_unnamed_axes_are_joined_where_the_caller_says_that_they_are_the_batch(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
    )
    path = tmp_path / "unnamed.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())
    with Watched(path) as engine, Batcher(engine, max_batch_size=2, max_wait=1000, assume_batched=True) as batcher:
        futures = [batcher.submit(rows(i)) for i in range(2)]
        assert [future.result(PATIENCE)["y"][0, 0] for future in futures] == [0, 2]
        assert engine.batches == [2, 1]


def test_a_batcher_says_why_it_does_not_pickle(engine: Watched) -> None:
    with Batcher(engine) as batcher, pytest.raises(InputError, match="make one in each process"):
        pickle.dumps(batcher)


def test_a_callback_that_would_wait_for_itself_is_refused(engine: Watched) -> None:
    raised: Future[BaseException] = Future()

    def ask_again(_: Future[Any]) -> None:
        try:
            batcher.run(rows(2))
        except InputError as error:
            raised.set_result(error)

    with Batcher(engine, max_wait=0) as batcher:
        batcher.submit(rows(1)).add_done_callback(ask_again)
        assert "use submit" in str(raised.result(PATIENCE))


def test_a_callback_that_waits_for_a_future_of_its_own_thread_is_refused(engine: Watched) -> None:
    raised: Future[BaseException] = Future()

    def ask_again(_: Future[Any]) -> None:
        try:
            batcher.submit(rows(2)).result()
        except InputError as error:
            raised.set_result(error)

    with Batcher(engine, max_wait=0) as batcher:
        first = batcher.submit(rows(1))
        first.add_done_callback(ask_again)
        assert "wait for its own thread" in str(raised.result(PATIENCE))
        first.result(PATIENCE)  # one that is done can be asked anywhere


def mixing(path: Path) -> Path:
    """``y = x - the mean of all rows``: a batch that is no row of calls of their own."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_model_that_mixes_the_rows_of_a_batch_gives_each_call_its_own_result(tmp_path: Path) -> None:
    with Watched(mixing(tmp_path / "mixing.onnx")) as engine, Batcher(engine, max_batch_size=4, max_wait=1000) as batcher:
        with pytest.warns(RuntimeWarning, match="gives a row other results in a batch than alone"):
            found = [future.result(PATIENCE)["y"].tolist() for future in [batcher.submit(rows(i)) for i in (1, 5, 9, 2)]]
        assert found == [[[0, 0, 0]]] * 4
        assert engine.batches == [4, 1, 1, 1, 1, 1]
        later = [batcher.submit(rows(i)) for i in (3, 8)]
        assert [future.result(PATIENCE)["y"].tolist() for future in later] == [[[0, 0, 0]]] * 2
        assert engine.batches[6:] == [1, 1]
