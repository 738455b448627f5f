"""What earlier searches measured: it is added to, gives way where the machine has changed, and is checked where the machine was busy."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.tuning import search as search_module
from onnxferry.runtime.tuning import tune as tune_module
from onnxferry.runtime.tuning.evidence import Effect, Evidence, Prior, Session
from onnxferry.runtime.tuning.expected import BUSY, KEPT, KEPT_ROUNDS, SAME, doubt, kept_rounds, with_measured
from onnxferry.runtime.tuning.plan import Measured, Plan, Setting
from onnxferry.runtime.tuning.tune import tune

DEFAULT, OTHER = Setting(threads=2), Setting(threads=1)


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An empty cache, no other back ends, no time between turns, and a machine that is as busy as ``words`` say."""
    meter = SimpleNamespace(words="")
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tune_module, "installed_backends", dict)
    monkeypatch.setattr(tune_module.cpu, "default_threads", lambda: 2)
    monkeypatch.setattr(search_module, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(search_module, "LoadMeter", lambda: SimpleNamespace(words=lambda: meter.words))
    return meter


def session(ratio: float, doubt: float, turns: int = 20) -> Session[str]:
    """b takes ``ratio`` of the default's time."""
    return Session([{"default": 1.0, "b": ratio}] * turns, doubt)


def evidence_of(*sessions: Session[str], now: float | None = None, turns: int = 20) -> Evidence[str]:
    evidence: Evidence[str] = Evidence()
    shared = {"file": Effect(0, 0.3)}
    evidence.priors = {"default": Prior(0, 0), "b": Prior(0, 0.01, shared), "c": Prior(0.0, 0.05, shared)}
    for each in sessions:
        evidence.add_session(each, "default")
    for _ in range(turns if now is not None else 0):
        evidence.add({"default": 1.0, "b": now})
    return evidence


def test_earlier_sessions_count_by_how_sure_they_are() -> None:
    belief = evidence_of(session(0.8, 0.02)).beliefs("default")
    assert math.exp(belief["b"].mean) == pytest.approx(0.8, rel=0.02)
    assert math.exp(belief["c"].mean) == pytest.approx(0.8, rel=0.02)  # a variation of b goes with it
    assert belief["c"].deviation > belief["b"].deviation
    assert belief.apart("b", "c") == pytest.approx(0.051, rel=0.01)  # 0.05 and 0.01 together
    one, busy = (evidence_of(session(0.8, each)).beliefs("default")["b"].deviation for each in (0.02, 0.2))
    assert one < 0.03 < 0.1 < busy
    both = evidence_of(session(0.8, 0.02), session(0.82, 0.02)).beliefs("default")["b"]
    assert both.deviation < one
    assert 0.8 < math.exp(both.mean) < 0.82


def test_what_is_measured_now_counts_more_and_what_contradicts_it_is_dropped() -> None:
    """What was 1.25 x as fast while the machine was busy is now slower than the default."""
    evidence = evidence_of(session(0.8, 0.02), session(1.38, 0.02), now=1.4)
    assert math.exp(evidence.beliefs("default")["b"].mean) == pytest.approx(1.4, rel=0.02)
    assert evidence.dropped == [True, False]
    few = evidence_of(session(0.8, 0.02), now=1.4, turns=2)
    few.beliefs("default")
    assert few.dropped == [False]  # two times may be a burst
    assert evidence_of(Session([{"b": 1.0, "c": 1.0}] * 9, 0.02)).dropped == [True]  # compares nothing with the default


def test_evidence_fades() -> None:
    now = time.time()
    fresh, old, busy = (Measured(at, words, (), ()) for at, words in ((now, ""), (now - 365 * 86_400, ""), (now, "busy")))
    assert doubt(fresh) == pytest.approx(SAME)
    assert 0.3 < doubt(old) < 0.5
    assert doubt(busy) == pytest.approx(BUSY)
    assert doubt(Measured(now + 1e6, "", (), ())) == pytest.approx(SAME)  # the clock was set back


def test_of_many_rounds_some_are_kept_and_of_many_searches_the_last() -> None:
    rounds = [{DEFAULT: 1 / 3, OTHER: 0.1 + number} for number in range(1000)]
    kept = kept_rounds([DEFAULT, OTHER], rounds, "")
    assert len(kept.rounds) == KEPT_ROUNDS
    assert kept.rounds[0] == ((0, 0.3333), (1, 0.1))
    assert kept.rounds[-1][1][1] > 980
    plan = Plan(1, DEFAULT, 1.0, 1.0, 1.0, (), measured=(Measured(9.0, "", (), ()),))
    more = with_measured(plan, *(Measured(float(at), "", (), ()) for at in range(1, 12)))
    assert [each.at for each in more.measured] == [7, 8, 9, 10, 11]
    assert len(more.measured) == KEPT


def test_a_plan_that_was_found_on_a_busy_machine_is_checked_and_gives_way(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch, quiet: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {2: 1e-3, 1: 0.8e-3}
    monkeypatch.setattr(search_module, "time_runs", lambda candidate, feeds, warm: times[candidate.setting.threads])
    quiet.words = "other programs used 40% of its CPUs"
    first = tune(recogniser, [1])
    assert first.plans[1].setting.threads == 1
    assert (first.plans[1].busy, first.plans[1].unsure) == (quiet.words, "the machine was busy")
    quiet.words, times[1] = "", 1.4e-3
    assert main(["tune", str(recogniser), "--batch", "1"]) == 0
    out = capsys.readouterr().out
    assert "found in" in out
    assert "busy" not in out
    again = tune(recogniser, [1])
    assert again.remembered
    plan = again.plans[1]
    assert plan.setting.threads == 2
    assert (plan.busy, plan.unsure) == ("", "")
    assert len(plan.measured) == 2


def test_the_verb_says_what_kept_the_machine_busy(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch, quiet: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search_module, "time_runs", lambda candidate, feeds, warm: 1e-3 if candidate.setting.threads == 2 else 2e-3)
    quiet.words = "other programs used 40% of its CPUs"
    assert main(["tune", str(recogniser), "--batch", "1"]) == 0
    out = capsys.readouterr().out
    assert "batch 1: found while the machine was busy (other programs used 40% of its CPUs); the next run of this command checks it" in out
    assert "slower: the default is faster" in out
    assert main(["tune", str(recogniser), "--batch", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["files"][0]["plans"][0]
    assert (plan["busy"], plan["unsure"]) == (quiet.words, "the machine was busy")
    assert "measured" not in plan


def test_later_searches_add_until_it_is_known_well(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(search_module, "time_runs", lambda candidate, feeds, warm: 1e-3 * float(np.exp(0.01 * rng.standard_normal())))
    assert tune(recogniser, [1]).plans[1].unsure == ""
    assert tune(recogniser, [1]).remembered
    counts = [len(tune(recogniser, [1], again=True).plans[1].measured) for _ in range(KEPT)]
    assert counts == [2, 3, 4, 5, 5]
    opened: list[Setting] = []
    monkeypatch.setattr(search_module, "time_runs", lambda candidate, *_, **__: opened.append(candidate.setting) or 1e-3)
    tune(recogniser, [1], seconds=1e-3)
    assert opened == []  # remembered
    tune(recogniser, [1], remember=False)
    assert opened


def test_what_was_far_slower_before_is_not_opened_again(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Setting] = []

    def timed(candidate: search_module.Candidate, feeds: object, warm: bool) -> float:
        asked.append(candidate.setting)
        return 1e-3 if candidate.setting.threads == 2 else 3e-3

    monkeypatch.setattr(search_module, "time_runs", timed)
    tune(recogniser, [1])
    assert {setting.threads for setting in asked} == {1, 2}
    asked.clear()
    plan = tune(recogniser, [1], again=True).plans[1]
    assert {setting.threads for setting in asked} == {2}
    assert [trial.verdict for trial in plan.trials if trial.setting.threads == 1] == [search_module.BEFORE]


def test_what_another_process_measured_meanwhile_is_kept(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "time_runs", lambda candidate, feeds, warm: 1e-3)
    situation = tune_module.situation_of(tune_module.describe(recogniser), "auto", None, None)
    assert tune(recogniser, [4]).plans
    mine = Plan(4, DEFAULT, 1.0, 1.0, 1.0, (), measured=(Measured(time.time() + 5, "", (DEFAULT,), ()),))
    assert situation.keep({4: mine}, {}) == ""
    assert len(situation.known_plans()[4].measured) == 2
    assert situation.keep({1: mine.__class__(1, DEFAULT, 1.0, 1.0, 1.0, ())}) == ""
    assert set(situation.known_plans()) == {1, 4}
