"""``await engine.arun``: the event loop goes on, and errors, cancelling and closing come out as they should."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine import cpu

FLOAT = TensorProto.FLOAT


@pytest.fixture
def scale(scale_model) -> Engine:
    return Engine(scale_model, device="cpu")


def rows(n: int) -> np.ndarray:
    return np.arange(3 * n, dtype=np.float32).reshape(n, 3)


@pytest.fixture
def endless(build_onnx) -> Engine:
    """Counts to ``n``, one step an operator: for minutes where it is large. y = n."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"]), helper.make_node("Add", ["count", "one"], ["next"])],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("go_on", 9), ("count", 7))],
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("still", 9), ("next", 7))],
    )
    ones = [numpy_helper.from_array(np.array(value), name) for name, value in (("one", 1), ("zero", 0), ("true", True))]
    node = helper.make_node("Loop", ["n", "true", "zero"], ["y"], body=body)
    return Engine(build_onnx([node], [("n", 7, [])], [("y", 7, [])], ones).SerializeToString(), device="cpu", threads=1)


def test_gives_what_run_gives(scale):
    async def main() -> list:
        return await asyncio.gather(*(scale.arun({"x": rows(n)}) for n in range(20)), scale.arun({"x": rows(1)}, ["y"]))

    for n, result in enumerate(asyncio.run(main())[:20]):
        np.testing.assert_array_equal(result["y"], rows(n) * 2)


def test_the_event_loop_goes_on(endless):
    async def main() -> int:
        task = asyncio.ensure_future(endless.arun({"n": np.array(200_000)}))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        assert task.result()["y"] == 200_000
        return ticks

    assert asyncio.run(main()) > 3


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "input 'x' is missing"),
        ({"facto": rows(1)}, "no input 'facto'; did you mean 'factor'"),
        ({"x": rows(1).astype(float)}, "'x' must be float32"),
        ({"x": rows(1)[0]}, "'x' must have 2 axes"),
    ],
)
def test_feeds_that_do_not_fit(scale, feeds, words):
    with pytest.raises(InputError, match=words):
        asyncio.run(scale.arun(feeds))


def test_what_onnxruntime_refuses(build_onnx):
    node = helper.make_node("GlobalMaxPool", ["x"], ["y"])
    engine = Engine(build_onnx([node], [("x", FLOAT, [1, 3, "h", "w"])], [("y", FLOAT, None)]).SerializeToString(), device="cpu")
    with pytest.raises(InputError, match=r"cannot run on x float32 \(1, 3, 0, 2\) \(empty\)"):
        asyncio.run(engine.arun({"x": np.ones((1, 3, 0, 2), np.float32)}))


def test_cancelling_stops_a_run_that_is_under_way(endless):
    """Without that it would hold a thread for hours, and the interpreter at its end."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endless.arun({"n": np.array(10**12)}), 0.2)
        # All workers are free again, so that this is not stuck behind the one that was stopped.
        runs = (endless.arun({"n": np.array(n)}) for n in range(50))
        assert [int(result["y"]) for result in await asyncio.wait_for(asyncio.gather(*runs), 60)] == list(range(50))

    asyncio.run(main())


def test_cancelling_takes_a_waiting_run_off_the_list(endless):
    async def main() -> None:
        busy = [asyncio.ensure_future(endless.arun({"n": np.array(10**12)})) for _ in range(50)]
        await asyncio.sleep(0.05)
        for task in busy:
            task.cancel()
        results = await asyncio.gather(*busy, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert (await asyncio.wait_for(endless.arun({"n": np.array(3)}), 60))["y"] == 3

    asyncio.run(main())


def test_as_many_threads_as_cpus_at_most(endless):
    async def main() -> None:
        before = threading.active_count()
        tasks = [asyncio.ensure_future(endless.arun({"n": np.array(2000)})) for _ in range(30)]
        await asyncio.sleep(0)
        assert threading.active_count() - before <= max(2, cpu.available_cpus())
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_closing_lets_accepted_runs_end_and_refuses_others(endless):
    async def main() -> None:
        tasks = [asyncio.ensure_future(endless.arun({"n": np.array(20_000)})) for _ in range(6)]
        await asyncio.sleep(0)
        endless.close()
        assert [int(result["y"]) for result in await asyncio.gather(*tasks)] == [20_000] * 6
        with pytest.raises(InputError, match="the model is closed"):
            await endless.arun({"n": np.array(1)})

    asyncio.run(main())


def test_one_engine_serves_several_event_loops(scale):
    failures: list[BaseException] = []

    def loop(n: int) -> None:
        async def main() -> None:
            for _ in range(20):
                np.testing.assert_array_equal((await scale.arun({"x": rows(n)}))["y"], rows(n) * 2)

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 (told by the main thread)
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_run_at_the_same_time(endless):
    """Python's lock is released: while one thread is inside a long run, another gets things done."""
    thread = threading.Thread(target=endless.run, args=({"n": np.array(300_000)},))
    thread.start()
    deadline, done = time.monotonic() + 60, 0
    while thread.is_alive() and time.monotonic() < deadline:
        endless.run({"n": np.array(1)})
        done += 1
    thread.join()
    assert done > 10
