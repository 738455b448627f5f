"""A plan that is in use is checked beside the default between real runs: bounded, thread-safe, and it gives way when it is slower."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onnxferry.runtime import Engine, load
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tuning import plan_check
from onnxferry.runtime.tuning import tune as tune_module
from onnxferry.runtime.tuning.plan import Measured, Plan, Setting
from onnxferry.runtime.tuning.plan_check import HOUR, ROUNDS, SLOWER_IN_USE, WEEK, PlanCheck, is_due
from onnxferry.runtime.tuning.tuned_engine import TunedEngine, open_tuned

DEFAULT, CHOSEN = Setting(threads=2), Setting(threads=2, graph_level="extended")


def plan_of(ratio: float = 1.23, busy: str = "busy", at: float | None = None, batch: int = 1, setting: Setting = CHOSEN) -> Plan:
    """Found ``ratio`` times as fast as the default."""
    rounds = tuple(((0, 1e-3), (1, 1e-3 / ratio)) for _ in range(40))
    measured = Measured(time.time() if at is None else at, busy, (DEFAULT, setting), rounds)
    return Plan(batch, setting, 1e-3 / ratio, 1e-3, ratio, (), "the machine was busy" if busy else "", (measured,))


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses to wait for, and a machine on which nothing else runs."""
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tune_module, "installed_backends", dict)
    monkeypatch.setattr(tune_module.cpu, "default_threads", lambda: 2)
    monkeypatch.setattr(plan_check, "PAUSE", 0.0)
    monkeypatch.setattr(plan_check, "LoadMeter", lambda: SimpleNamespace(words=str))


class Seconds:
    """Stands in for the clock: what a run takes, by whether it is the default's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, default: float, chosen: float) -> None:
        self.rounds = 0

        def seconds(run: Callable[[object], object], feeds: object) -> float:
            run(feeds)
            self.rounds += 1
            return default if isinstance(getattr(run, "__self__", None), Engine) else chosen

        monkeypatch.setattr(plan_check, "_seconds", seconds)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def image(rows: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(rows).integers(0, 256, (rows, 5, 5, 1), np.uint8)}


def use(engine: TunedEngine, check: PlanCheck, runs: int = 12_000) -> None:
    """Real runs, as quickly as the check follows."""
    for _ in range(runs):
        engine.run(image(1))
        if check._lock.locked():
            wait_for(lambda: not check._lock.locked())
        if check.ended:
            return


def kept(path: Path) -> Plan:
    return tune_module.situation_of(describe(path), "auto", None, None).known_plans()[1]


def opened(path: Path, plan: Plan, other: Plan | None = None) -> TunedEngine:
    situation = tune_module.situation_of(describe(path), "auto", None, None)
    assert situation.keep({each.batch: each for each in (plan, other) if each is not None}) == ""
    return open_tuned(describe(path))


def test_what_is_due() -> None:
    assert is_due(plan_of())
    assert not is_due(plan_of(busy=""))
    alone = plan_of(busy="", at=time.time() - HOUR - 1)
    assert is_due(alone)
    twice = dataclasses.replace(alone, measured=(dataclasses.replace(alone.measured[0], at=1.0), *alone.measured))
    assert not is_due(twice)
    old = tuple(dataclasses.replace(each, at=time.time() - WEEK - 1) for each in twice.measured)
    assert is_due(dataclasses.replace(twice, measured=old))
    assert not is_due(plan_of(setting=DEFAULT))
    assert not is_due(dataclasses.replace(plan_of(), measured=()))
    assert not is_due(dataclasses.replace(plan_of(), seconds=1.0))


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXFERRY_TUNE_CHECK", "0")
    assert not is_due(plan_of())


def test_a_plan_that_is_slower_in_use_gives_way(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that it is for: found 1.23 x as fast while the machine was busy, and 1.31 ms where the default takes 0.94 ms."""
    seconds = Seconds(monkeypatch, default=0.94e-3, chosen=1.31e-3)
    with opened(recogniser, plan_of(), plan_of(1.5, busy="", batch=64)) as engine:
        expected = engine.run(image(1))
        (check,) = engine._checks[CHOSEN]
        use(engine, check)
        assert seconds.rounds == 2 * ROUNDS
        assert engine.setting(1) == DEFAULT
        assert engine.setting(64) == CHOSEN  # nothing was found out about that size
        for name, array in engine.run(image(1)).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    plan = kept(recogniser)
    assert (plan.setting, plan.ratio, plan.unsure, plan.busy) == (DEFAULT, 1.0, SLOWER_IN_USE, "")
    with load(recogniser, tune=True, device="auto") as model:
        assert isinstance(model.engine, TunedEngine)
        assert model.engine.setting(1) == DEFAULT


def test_a_plan_that_holds_is_kept_with_what_says_so(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Seconds(monkeypatch, default=1e-3, chosen=0.8e-3)
    with opened(recogniser, plan_of()) as engine:
        (check,) = engine._checks[CHOSEN]
        use(engine, check)
        assert engine.setting(1) == CHOSEN
        assert list(engine._sessions) == [CHOSEN]  # the default's is closed
    plan = kept(recogniser)
    assert (plan.setting, plan.unsure, plan.busy, len(plan.measured)) == (CHOSEN, "", "", 2)
    assert not is_due(plan)


@pytest.mark.parametrize(("busy", "runs"), [("", 1_250), ("busy", 250)])
def test_its_runs_are_one_percent_and_five_where_the_machine_was_busy(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch, busy: str, runs: int
) -> None:
    seconds = Seconds(monkeypatch, default=1e-3, chosen=0.8e-3)
    with opened(recogniser, plan_of(2.0, busy=busy, at=time.time() - WEEK - 1)) as engine:
        (check,) = engine._checks[CHOSEN]
        use(engine, check, runs)
        assert seconds.rounds == 2 * 2  # rounds of two turns, each of two runs, of which the default's take twice as long


def test_inputs_of_another_plan_are_not_used(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = Seconds(monkeypatch, default=1e-3, chosen=0.8e-3)
    with opened(recogniser, plan_of(), plan_of(batch=64)) as engine:
        one, other = engine._checks[CHOSEN]
        for _ in range(one._apart):
            engine.run(image(64))
        wait_for(lambda: not other._lock.locked())
        assert seconds.rounds == 2
        assert (len(one._rounds), len(other._rounds)) == (0, 1)


def test_large_files_and_large_inputs_are_left_alone(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_check, "MAX_FEEDS", 10)
    seconds = Seconds(monkeypatch, default=1e-3, chosen=0.8e-3)
    with opened(recogniser, plan_of()) as engine:
        (check,) = engine._checks[CHOSEN]
        use(engine, check, 2_000)
        assert (seconds.rounds, check.ended) == (0, False)
    monkeypatch.setattr("onnxferry.runtime.tuning.tuned_engine.MAX_FILE", 10)
    with opened(recogniser, plan_of()) as engine:
        assert engine._checks == {}


def test_bad_feeds_are_reported_by_the_run(recogniser: Path) -> None:
    with opened(recogniser, plan_of()) as engine:
        (check,) = engine._checks[CHOSEN]
        check._next = 0
        for feeds in ({"image": 5}, {}):
            with pytest.raises(InputError):
                engine.run(feeds)  # type: ignore[arg-type]
        assert not check._lock.locked()


def test_a_default_that_cannot_be_opened_ends_it(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(recogniser, plan_of()) as engine:
        (check,) = engine._checks[CHOSEN]

        def refuse() -> Engine:
            raise InputError("no memory")

        monkeypatch.setattr(check, "_open_default", refuse)
        use(engine, check)
        assert check.ended
        assert engine.run(image(1))
    assert kept(recogniser) == plan_of(at=kept(recogniser).measured[0].at)


def test_many_threads_use_it_while_it_gives_way(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Seconds(monkeypatch, default=1e-3, chosen=1.4e-3)
    with opened(recogniser, plan_of()) as engine:
        expected = engine.run(image(1))
        (check,) = engine._checks[CHOSEN]
        check._apart = check._next = 20

        def run(_: int) -> None:
            for _ in range(400):
                for name, array in engine.run(image(1)).items():
                    np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)

        with ThreadPoolExecutor(4) as pool:
            while not check.ended:
                list(pool.map(run, range(4)))
        wait_for(lambda: engine.setting(1) == DEFAULT)


def test_closing_ends_it(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_check, "PAUSE", 0.01)
    engine = opened(recogniser, plan_of())
    (check,) = engine._checks[CHOSEN]
    check._next = 0
    engine.run(image(1))
    engine.close()
    wait_for(lambda: not check._lock.locked())
    assert check.ended
    assert check._default is None


def test_they_can_be_stopped(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = Seconds(monkeypatch, default=1e-3, chosen=0.8e-3)
    with opened(recogniser, plan_of()) as engine:
        engine.stop_checks()
        for _ in range(500):
            engine.run(image(1))
        assert seconds.rounds == 0


def test_plans_that_are_not_remembered_are_not_checked(recogniser: Path) -> None:
    tuning = tune_module.situation_of(describe(recogniser), "auto", None, None).tuning({1: plan_of()}, remembered=False)
    with TunedEngine(tuning) as engine:
        assert engine._checks == {}
