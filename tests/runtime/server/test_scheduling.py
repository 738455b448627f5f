"""Requests to runs: which share one, and what cancelling and errors do to the others in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server import scheduling
from onnxferry.runtime.server.scheduling import Scheduler

FLOAT = TensorProto.FLOAT


class Held:
    """An engine whose runs wait until they are let go, and are noted: how many rows each has."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.rows, self.go, self.cancelled = engine, [], asyncio.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def arun(self, feeds: Any, outputs: Any = None, **options: Any) -> Any:
        self.rows.append(len(feeds["x"]))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self.engine.arun(feeds, outputs, **options)


def model(*nodes: Any) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3])],
        [helper.make_tensor_value_info(name, FLOAT, ["n", 3]) for name in ("y", "z")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


DOUBLE = model(helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"]))

MIXED = model(
    helper.make_node("ReduceMax", ["x"], ["most"], keepdims=1),
    helper.make_node("Sub", ["x", "most"], ["y"]),
    helper.make_node("Neg", ["x"], ["z"]),
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(DOUBLE, device="cpu", threads=1) as opened:
        yield opened


def rows(n: int, first: float = 0.0) -> dict[str, np.ndarray]:
    return {"x": np.arange(3 * n, dtype=np.float32).reshape(n, 3) + np.float32(first)}


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_that_come_while_all_places_are_taken_leave_together(engine: Engine) -> None:
    async def main() -> None:
        held = Held(engine)
        scheduler = Scheduler(held, at_once=1, rows=8)  # type: ignore[arg-type]
        asked = [rows(n, n) for n in (1, 2, 1, 3, 1, 4)]
        wanted = [("y",), ("z",), ("z", "y"), ("y",), ("y",), ("y",)]
        tasks = []
        for feeds, names in zip(asked, wanted, strict=True):
            tasks.append(asyncio.ensure_future(scheduler.run(feeds, names)))
            await settle()
        held.go.set()
        for feeds, names, found in zip(asked, wanted, await asyncio.gather(*tasks), strict=True):
            assert tuple(found) == names
            for name in names:
                np.testing.assert_array_equal(found[name], feeds["x"] * 2 if name == "y" else -feeds["x"])
        assert held.rows == [1, 7, 2, 4]  # the first alone, as many as fit in 8 rows, once one of them alone to compare, the rest

    asyncio.run(main())


def test_several_places_share_what_waits(engine: Engine) -> None:
    async def main() -> None:
        held = Held(engine)
        scheduler = Scheduler(held, at_once=2, rows=32)  # type: ignore[arg-type]
        tasks = [asyncio.ensure_future(scheduler.run(rows(1, n), ["y"])) for n in range(12)]
        await settle()
        assert len(held.rows) == 2
        held.go.set()
        found = await asyncio.gather(*tasks)
        assert [float(each["y"][0, 0]) for each in found] == [2.0 * n for n in range(12)]
        assert max(held.rows) < 12

    asyncio.run(main())


def test_a_request_that_is_taken_back_costs_nothing_and_the_last_one_stops_the_run(engine: Engine) -> None:
    async def main() -> None:
        held = Held(engine)
        scheduler = Scheduler(held, at_once=1, rows=8)  # type: ignore[arg-type]
        tasks = [asyncio.ensure_future(scheduler.run(rows(1, n), ["y"])) for n in range(4)]
        await settle()
        tasks[1].cancel()  # it waits
        held.go.set()
        await tasks[0]
        held.go.clear()
        await settle()
        assert held.rows == [1, 2]
        tasks[2].cancel()
        await settle()
        assert held.cancelled == 0  # another request is in that run
        tasks[3].cancel()
        await settle()
        assert held.cancelled == 1
        held.go.set()
        assert (await scheduler.run(rows(2), ["y"]))["y"].shape == (2, 3)  # the place is free again

    asyncio.run(main())


def test_an_error_is_told_to_the_one_whose_it_is(engine: Engine) -> None:
    async def main() -> None:
        held = Held(engine)
        scheduler = Scheduler(held, at_once=1, rows=8)  # type: ignore[arg-type]
        first = asyncio.ensure_future(scheduler.run(rows(1), ["y"]))
        await settle()
        good, bad = (asyncio.ensure_future(scheduler.run(rows(1), names)) for names in (["y"], ["nothing"]))
        await settle()
        held.go.set()
        with pytest.raises(InputError, match="nothing"):
            await bad
        for task in (first, good):
            np.testing.assert_array_equal((await task)["y"], rows(1)["x"] * 2)
        with pytest.raises(InputError, match="at least one row"):
            await scheduler.run(rows(0), ["y"])

    asyncio.run(main())


def test_a_model_that_mixes_rows_is_noticed_and_each_runs_by_itself() -> None:
    async def main() -> None:
        with Engine(MIXED, device="cpu", threads=1) as engine:
            held = Held(engine)
            scheduler = Scheduler(held, at_once=1, rows=8)  # type: ignore[arg-type]
            tasks = [asyncio.ensure_future(scheduler.run(rows(1, n), ["y"])) for n in range(4)]
            await settle()
            held.go.set()
            found = await asyncio.gather(*tasks)
            assert all(each["y"].max() == 0 for each in found)
            assert scheduler.rows == 1
            again = await asyncio.gather(*(scheduler.run(rows(1, n), ["y"]) for n in range(4)))
            assert all(each["y"].max() == 0 for each in again)

    with pytest.warns(RuntimeWarning, match="other results in a batch than alone"):
        asyncio.run(main())


def test_company_is_waited_for_where_it_is_expected(engine: Engine) -> None:
    async def main() -> None:
        held = Held(engine)
        held.go.set()
        scheduler = Scheduler(held, at_once=1, rows=4, max_wait=5.0)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(scheduler.run(rows(1, n), ["y"])) for n in range(3)]
        await settle()
        assert held.rows == []
        begun = loop.time()
        await asyncio.gather(*tasks, scheduler.run(rows(1), ["y"]))
        assert held.rows == [4, 1]  # full: it need not wait any longer; and one alone to compare
        assert loop.time() - begun < 0.4
        tasks = [asyncio.ensure_future(scheduler.run(rows(1, n), ["y"])) for n in range(2)]
        await asyncio.gather(*tasks)  # nothing joins them for a tenth of the wait
        assert held.rows == [4, 1, 2]
        assert loop.time() - begun > 0.4

    asyncio.run(main())


@pytest.mark.parametrize("most", [1, 4])
def test_whenever_calls_are_taken_back_every_place_is_free_in_the_end(engine: Engine, most: int) -> None:
    async def main() -> None:
        rng = np.random.default_rng(0)
        scheduler = Scheduler(engine, at_once=2, rows=most, in_loop=True)
        given: list[object] = []

        async def one(number: int) -> None:
            await asyncio.sleep(0.0002 * float(rng.integers(50)))
            call = scheduler.submit(rows(1, number), ["y"], lambda found, error: given.append(error if found is None else found["y"][0, 0]))
            for _ in range(int(rng.integers(4))):
                await asyncio.sleep(0)
            if number % 2:
                call.cancel()
                call.cancel()
            while not call.over:
                await asyncio.sleep(0.001)

        await asyncio.gather(*(one(number) for number in range(400)))
        await settle()
        while scheduler._tasks:
            await asyncio.sleep(0.001)
        assert len(given) == 400
        assert all(isinstance(each, asyncio.CancelledError | np.floating) for each in given)
        assert scheduler._free == 2
        assert not scheduler._groups
        assert (await scheduler.run(rows(1, 7), ["y"]))["y"][0, 0] == 14

    asyncio.run(main())


def test_a_model_without_a_batch_is_refused() -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, FLOAT, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    with Engine(file, device="cpu", threads=1) as engine:
        with pytest.raises(InputError, match="no open batch axis"):
            Scheduler(engine, rows=4)
        assert asyncio.run(Scheduler(engine).run({"x": np.ones((2, 3), np.float32)}, ["y"]))["y"].sum() == -6


class Noted:
    """An engine that notes how it is run: in the caller's thread, or in one of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.ways = engine, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run(self, *arguments: Any) -> Any:
        self.ways.append("here")
        return self.engine.run(*arguments)

    async def arun(self, *arguments: Any) -> Any:
        self.ways.append("there")
        return await self.engine.arun(*arguments)


@pytest.mark.parametrize("most", [1, 8])
def test_a_lone_call_that_is_known_to_be_quick_runs_in_the_event_loop(engine: Engine, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        noted = Noted(engine)
        scheduler = Scheduler(noted, rows=most, in_loop=True)  # type: ignore[arg-type]

        async def ways(n: int, count: int, lone: bool = True) -> list[str]:
            noted.ways.clear()
            for _ in range(count):
                assert (await scheduler.run(rows(n), ["y"], lone))["y"].tolist() == (2 * rows(n)["x"]).tolist()
            return noted.ways[:]

        monkeypatch.setattr(scheduling, "QUICK", 60.0)
        assert await ways(20, 4) == ["there", "there", "here", "here"]
        assert await ways(20, 1, lone=False) == ["there"]
        assert await ways(21, 1) == ["there"]  # of another size, which may take longer
        monkeypatch.setattr(scheduling, "QUICK", -1.0)
        assert await ways(20, 2) == ["here", "there"]  # the first was slow, and the second says nothing
        monkeypatch.setattr(scheduling, "QUICK", 60.0)
        assert "here" not in await ways(20, 16)  # it is not trusted for a while
        assert await ways(20, 2) == ["here", "here"]
        with pytest.raises(InputError, match="must be float32"):
            await scheduler.run({"x": np.zeros((1, 3), np.int64)}, ["y"], True)

    asyncio.run(main())


def test_small_values_count_for_what_a_call_takes_and_texts_say_nothing() -> None:
    kind_of = scheduling._QuickCalls.kind_of
    assert kind_of({"n": np.array(2)}) != kind_of({"n": np.array(3)})  # a count, perhaps
    assert kind_of(rows(20)) == kind_of(rows(20, 1.0))
    assert kind_of({"text": np.array(["a"], object)}) is None
