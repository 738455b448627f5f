"""Tuning: what wins must be right and faster beyond the noise, within its time, and is remembered for this machine alone."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime import Autoencoder, Classifier, Engine, ImageGenerator, Model, TextGenerator, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine import ort
from onnxferry.runtime.errors import ArtifactError, CheckFailedError, InputError
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.tuning import cache as tune_cache
from onnxferry.runtime.tuning import search as tune_search
from onnxferry.runtime.tuning import tune as tune_module
from onnxferry.runtime.tuning.inputs import fixed_sizes, make_feeds
from onnxferry.runtime.tuning.plan import Plan, Setting, Trial, Tuning, plan_from_json, plan_to_json
from onnxferry.runtime.tuning.search import Candidate
from onnxferry.runtime.tuning.tune import SECONDS, forget, tune
from onnxferry.runtime.tuning.tuned_engine import TunedEngine, _Fixed

Make = Callable[..., Path]
Speeds = Callable[[Setting], float]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ONNXFERRY_CACHE", str(folder))
    monkeypatch.setattr(cpu, "default_threads", lambda: 2)
    monkeypatch.setattr(tune_module, "installed_backends", dict)  # those have tests of their own
    monkeypatch.setattr(tune_search, "LoadMeter", Quiet)
    return folder


class Quiet:
    """A machine on which nothing else runs, whatever else runs here."""

    said = ""

    def words(self) -> str:
        return self.said


def rest_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between made-up times no core has to calm down."""
    monkeypatch.setattr(tune_search, "time", SimpleNamespace(sleep=lambda seconds: None))


class Timings:
    """Stands in for the clock: every setting takes what it is told, times a little noise that is the same each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: Speeds = lambda setting: 1e-3
        self.noise = 0.0
        self.asked: list[Setting] = []
        self.rng = np.random.default_rng(0)
        monkeypatch.setattr(tune_search, "time_runs", self)
        # Opening a file may take long where other work runs: no time passes.
        monkeypatch.setattr(tune_search, "clock", lambda: 0.0)
        monkeypatch.setattr(tune_module, "time", SimpleNamespace(perf_counter=lambda: 0.0))
        rest_for_nothing(monkeypatch)

    def __call__(self, candidate: Candidate, feeds: Sequence[Any], warm: bool) -> float:
        self.asked.append(candidate.setting)
        return self.seconds(candidate.setting) * float(np.exp(self.noise * self.rng.standard_normal()))


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> Timings:
    return Timings(monkeypatch)


def by_variant(**seconds: float) -> Speeds:
    return lambda setting: seconds.get(setting.variant or "itself", 1e-3)


def test_the_fastest_variant_wins(recogniser: Path, certify: Make, timings: Timings) -> None:
    certify(recogniser, "int8")
    certify(recogniser, "slim")
    timings.seconds = by_variant(itself=3e-3, int8=1e-3, slim=2e-3)
    timings.noise = 0.05
    tuning = tune(recogniser, [1, 16])
    assert list(tuning.plans) == [1, 16]
    for plan in tuning.plans.values():
        assert plan.setting.variant == "int8"
        assert plan.ratio == pytest.approx(3, rel=0.1)
        assert plan.default_seconds / plan.seconds == pytest.approx(3, rel=0.1)
        assert {trial.setting.variant for trial in plan.trials} == {"", "int8", "slim"}
        assert [trial.verdict for trial in plan.trials].count("chosen") == 1


SIZES = (("batch", 4), ("height", 6), ("width", 5))  # of the golden samples


@pytest.mark.parametrize("here", ["cpu", "cuda"])
def test_only_variants_of_the_device_are_tried(recogniser: Path, certify: Make, timings: Timings, here: str) -> None:
    """What is certified for CUDA was neither scored nor timed on the CPU, and the other way round."""
    problem = ort.cuda_problem() if here == "cuda" else None
    if problem:
        pytest.skip(f"CUDA cannot be used: {problem}")
    certify(recogniser, "int8")
    certify(recogniser, "float16", device="cuda")
    timings.seconds = by_variant(itself=3e-3, int8=1e-3, float16=1e-3)
    tag = {"cpu": "int8", "cuda": "float16"}[here]
    for device in (here, "auto") if here == "cuda" or ort.cuda_problem() else (here,):
        assert tune(recogniser, [1], device=device).plans[1].setting.variant == tag
    assert {setting.variant for setting in timings.asked} == {"", tag}
    assert [trial.setting.variant for trial in tune(recogniser, [1], providers=[here]).plans[1].trials].count(tag) > 0


@pytest.mark.parametrize(
    "better", [{"threads": 1}, {"graph_level": "extended"}, {"graph_level": "basic"}, {"binding": "run_into"}, {"sizes": SIZES}]
)
def test_threads_level_and_binding_may_win_too(recogniser: Path, timings: Timings, better: dict[str, Any]) -> None:
    wanted = dataclasses.replace(Setting(threads=2), **better)
    timings.seconds = lambda setting: 1e-3 if setting == wanted else 2e-3
    assert tune(recogniser, [4]).plans[4].setting == wanted


def changed_where(monkeypatch: pytest.MonkeyPatch, which: Callable[[Setting], bool], change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Engines of such settings give other features for four rows; golden samples have fewer."""
    opened = tune_module.open_as

    def wrong(setting: Setting, file: Path, **options: Any) -> Engine:
        engine = opened(setting, file, **options)
        run = engine.run

        def run_changed(feeds: Any, outputs: Any = None) -> Any:
            found = run(feeds, outputs)
            return {**found, "features": change(found["features"])} if len(feeds["image"]) == 4 else found

        if which(setting):
            monkeypatch.setattr(engine, "run", run_changed)
        return engine

    monkeypatch.setattr(tune_module, "open_as", wrong)


def test_a_graph_for_some_sizes_must_give_the_same(recogniser: Path, timings: Timings, monkeypatch: pytest.MonkeyPatch) -> None:
    timings.seconds = lambda setting: 1e-3 if setting.sizes else 2e-3
    changed_where(monkeypatch, lambda setting: bool(setting.sizes), lambda features: features + 1)
    plan = tune(recogniser, [4]).plans[4]
    assert plan.setting == Setting(threads=2)
    assert any("differs from the default's" in trial.verdict for trial in plan.trials if trial.setting.sizes)


def test_only_what_is_tried_is_opened(recogniser: Path, certify: Make, timings: Timings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variant is expected to gain stands in its certificate: other ways to put it together are thought of, and not opened for it."""
    certify(recogniser, "int8")
    timings.seconds = by_variant(itself=3e-3, int8=1e-3)
    opened: list[Setting] = []
    right = tune_module.open_as

    def noted(setting: Setting, file: Path, **options: Any) -> Engine:
        opened.append(setting)
        return right(setting, file, **options)

    monkeypatch.setattr(tune_module, "open_as", noted)
    monkeypatch.setattr(tune_search, "MOST_MORE", 1)
    plan = tune(recogniser, [1]).plans[1]
    assert plan.setting.variant == "int8"
    assert set(opened) <= {dataclasses.replace(trial.setting, binding="run") for trial in plan.trials}


@pytest.mark.parametrize(("rms", "wins"), [({"features": 0.0001}, False), ({"features": 0.5}, True), ({"gone": 0}, True), ("x", True)])
def test_a_variant_that_is_further_off_than_where_it_was_certified_cannot_win(
    recogniser: Path, certify: Make, timings: Timings, monkeypatch: pytest.MonkeyPatch, rms: Any, wins: bool
) -> None:
    """As with kernels that saturate on this CPU: its golden samples come out, other answers do not."""
    certify(recogniser, "int8", rms=rms)
    timings.seconds = by_variant(itself=3e-3, int8=1e-3)
    changed_where(monkeypatch, lambda setting: setting.variant == "int8", lambda features: features * 1.05)
    plan = tune(recogniser, [4]).plans[4]
    assert (plan.setting.variant == "int8") is wins
    if not wins:
        (verdict,) = {trial.verdict for trial in plan.trials if trial.setting.variant == "int8"}
        assert verdict == "failed: output 'features' is 5.0% off here, and was 0.0% off where it was certified"


def test_no_sizes_are_fixed_where_feeds_differ_or_none_is_open() -> None:
    def spec(*shape: Any) -> TensorSpec:
        return TensorSpec("x", "float32", shape)

    three, four = ({"x": np.zeros((2, n), np.float32)} for n in (3, 4))
    assert fixed_sizes([spec("batch", "n")], [three, three]) == (("batch", 2), ("n", 3))
    assert fixed_sizes([spec("batch", "n")], [three, four]) == ()
    assert fixed_sizes([spec("n", "n")], [three]) == ()
    assert fixed_sizes([spec(2, 3)], [three]) == ()
    assert fixed_sizes([spec(None, "n")], [three]) == (("n", 3),)


def test_each_batch_size_has_its_own_winner(recogniser: Path, certify: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    certify(recogniser, "int8")

    def seconds(candidate: Candidate, feeds: Sequence[Any], warm: bool) -> float:
        small = len(feeds[0]["image"]) == 1
        return 1e-3 if (candidate.setting.variant == "int8") is small else 2e-3

    monkeypatch.setattr(tune_search, "time_runs", seconds)
    rest_for_nothing(monkeypatch)
    plans = tune(recogniser).plans
    assert {size: plan.setting.variant for size, plan in plans.items()} == {1: "int8", 64: ""}


@pytest.mark.parametrize("ratio", [1.0, 1.01, 0.9])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_what_is_no_faster_than_the_noise_leaves_the_default(
    recogniser: Path, certify: Make, timings: Timings, ratio: float, noise: float
) -> None:
    certify(recogniser, "int8")
    timings.seconds = by_variant(itself=1e-3, int8=1e-3 / ratio)
    timings.noise = noise
    plan = tune(recogniser, [1]).plans[1]
    if noise == 0:
        assert plan.setting == Setting(threads=2)
        assert plan.ratio == 1
    else:  # equal ones may be taken for faster, and nothing is lost by that; a slower one may not
        assert timings.seconds(plan.setting) <= 1.001e-3
    assert next(trial.verdict for trial in plan.trials if trial.setting == plan.setting) == "chosen"


def test_verdicts_are_true(recogniser: Path, certify: Make, make_recogniser: Make, timings: Timings) -> None:
    for tag in ("int8", "slim", "best"):
        certify(recogniser, tag)
    certify(recogniser, "bad", make_recogniser(name="broken.onnx", sharpness=3.0))
    timings.seconds = lambda s: (
        {"": 2e-3, "best": 1e-3, "int8": 1.5e-3, "slim": 3e-3}[s.variant] * (1 if s == Setting(s.variant, 2) else 1.001)
    )
    plan = tune(recogniser, [1]).plans[1]
    trials = {t.setting: t for t in plan.trials}
    for variant, ratio, verdict in (("best", 2, "chosen"), ("", 1, "default"), ("int8", 4 / 3, "not fastest"), ("slim", 2 / 3, "slower")):
        found = trials[Setting(variant, 2)]
        assert (found.ratio, found.verdict) == (pytest.approx(ratio, rel=1e-3), verdict)
    refused = trials[Setting("bad", 2)]
    assert (refused.ratio, refused.verdict.partition(": ")[0]) == (None, "failed")
    timings.noise = 0.1  # now nobody can tell the bound ones from those that are not
    plan = tune(recogniser, [1], remember=False).plans[1]
    beside = dataclasses.replace(plan.setting, binding="run_into")
    assert all(t.verdict in ("within noise", "chosen") for t in plan.trials if t.setting == beside)


def test_the_verdict_of_who_leads_by_too_little(recogniser: Path, timings: Timings) -> None:
    timings.seconds = lambda setting: 1e-3 / (1.01 if setting.binding == "run_into" else 1)
    plan = tune(recogniser, [1]).plans[1]
    verdicts = [t.verdict for t in plan.trials if t.setting.binding == "run_into"]
    assert verdicts.count("under 2%") == 1  # of the best of them
    assert set(verdicts) <= {"under 2%", "within noise"}
    assert [t.verdict for t in plan.trials if t.setting == plan.setting == Setting(threads=2)] == ["chosen"]


def test_a_small_but_steady_win_counts(recogniser: Path, certify: Make, timings: Timings) -> None:
    certify(recogniser, "int8")
    timings.seconds = by_variant(itself=1e-3, int8=0.9e-3)
    timings.noise = 0.01
    assert tune(recogniser, [1]).plans[1].setting.variant == "int8"


def test_a_variant_that_fails_its_golden_samples_cannot_win(
    recogniser: Path, certify: Make, make_recogniser: Make, timings: Timings
) -> None:
    broken = make_recogniser(name="broken.onnx", sharpness=3.0)
    certify(recogniser, "int8", broken)
    certify(recogniser, "slim")
    timings.seconds = by_variant(itself=3e-3, int8=1e-4, slim=2e-3)
    for plan in tune(recogniser, [1, 8]).plans.values():
        assert plan.setting.variant == "slim"
        (verdict,) = {trial.verdict for trial in plan.trials if trial.setting.variant == "int8"}
        assert "failed" in verdict
        assert "does not give what it should on this machine" in verdict
        assert all(trial.seconds is None for trial in plan.trials if trial.setting.variant == "int8")


def test_a_variant_without_golden_samples_cannot_win(recogniser: Path, certify: Make, timings: Timings) -> None:
    path = certify(recogniser, "int8")
    model = onnx.load(path)
    metadata = {item.key: item.value for item in model.metadata_props if item.key != "onnxferry.goldens"}
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    timings.seconds = by_variant(itself=3e-3, int8=1e-4)
    plan = tune(recogniser, [1]).plans[1]
    assert plan.setting.variant == ""
    assert any("carries no golden samples" in trial.verdict for trial in plan.trials)


def test_a_file_that_is_broken_itself_is_refused(make_recogniser: Make, timings: Timings) -> None:
    with pytest.raises(CheckFailedError, match="does not give what it should on this machine"):
        tune(make_recogniser(sharpness=3.0), [1])


def test_rows_that_must_run_alone_are_tried_at_batch_1_only(recogniser: Path, certify: Make, timings: Timings) -> None:
    certify(recogniser, "int8", rows_alone=True)
    timings.seconds = by_variant(itself=3e-3, int8=1e-3)
    tuning = tune(recogniser)
    assert {size: plan.setting.variant for size, plan in tuning.plans.items()} == {1: "int8", 64: ""}
    assert {trial.setting.variant for trial in tuning.plans[64].trials} == {""}
    assert tuning.per_row == {"int8"}


def test_the_time_is_kept(recogniser: Path, certify: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on only where something is timed: nothing else here takes long."""
    for tag in ("int8", "slim", "fp16"):
        certify(recogniser, tag)
    now = [0.0]

    def slow(candidate: Candidate, feeds: Sequence[Any], warm: bool) -> float:
        now[0] += 0.7 * (len(feeds) + warm)
        return 0.7 if candidate.setting.variant else 0.9

    monkeypatch.setattr(tune_search, "time_runs", slow)
    rest_for_nothing(monkeypatch)
    monkeypatch.setattr(tune_search, "clock", lambda: now[0])
    plan = tune(recogniser, [64], seconds=20).plans[64]
    assert now[0] <= 20
    assert all(trial.seconds is not None for trial in plan.trials if trial.setting.variant and trial.setting.threads == 2)
    assert plan.setting.variant
    now[0] = 0.0
    plan = tune(recogniser, [32], seconds=3).plans[32]
    assert now[0] <= 3 + 2 * 0.7  # a first look at the default is always taken
    assert plan.setting == Setting(threads=2)
    assert {trial.verdict for trial in plan.trials} == {"chosen", tune_search.NO_TIME}


def test_a_batch_that_takes_too_long_is_not_run(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, rows = [0.0], list[int]()

    def slow(candidate: Candidate, feeds: Sequence[Any], warm: bool) -> float:
        rows.append(len(feeds[0]["image"]))
        now[0] += 2.0 * (len(feeds) + warm)
        return 2.0

    monkeypatch.setattr(tune_search, "time_runs", slow)
    rest_for_nothing(monkeypatch)
    monkeypatch.setattr(tune_search, "clock", lambda: now[0])
    tuning = tune(recogniser, [1, 64])
    assert set(rows) == {1}
    plan = tuning.plans[64]
    assert (plan.setting, plan.seconds, plan.measured) == (Setting(threads=2), 128.0, ())
    assert plan.unsure == "it was not run: one run would take about 128 s; give more --seconds"
    assert main(["tune", str(recogniser), "--batch", "1", "--batch", "64"]) == 0
    assert "batch 64: it was not run: one run would take about 128 s; give more --seconds\n" in capsys.readouterr().out
    assert tune(recogniser, [1]).remembered


def test_without_time_the_default_runs_once(recogniser: Path, certify: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large model each run takes long: those that nothing is compared with are not made."""
    certify(recogniser, "int8")
    runs = []
    real = tune_search.Pool.runs

    def counted(pool: tune_search.Pool, setting: Setting) -> tune_search.Runs:
        found = real(pool, setting)

        def run(feeds: Any) -> Any:
            runs.append(setting)
            now[0] += 60
            return found(feeds)

        return run

    now = [0.0]
    monkeypatch.setattr(tune_search.Pool, "runs", counted)
    monkeypatch.setattr(tune_search, "clock", lambda: now[0])
    tune(recogniser, [1], seconds=30)
    assert runs == [Setting(threads=2)]


def test_what_was_found_is_remembered(recogniser: Path, certify: Make, timings: Timings, cache: Path) -> None:
    certify(recogniser, "int8")
    timings.seconds = by_variant(itself=2e-3)
    first = tune(recogniser, [1])
    assert (first.remembered, first.not_kept) == (False, "")
    timings.asked.clear()
    again = tune(recogniser, [1])
    assert again.remembered
    assert again.plans == first.plans
    assert timings.asked == []
    more = tune(recogniser, [1, 8])  # what is missing is added, what is there is kept
    assert not more.remembered
    assert more.plans[1] == first.plans[1]
    timings.asked.clear()
    assert tune(recogniser, [8, 1]).remembered
    assert tune(recogniser, [8], remember=False).not_kept == "asked not to"
    assert timings.asked != []
    assert len(list(cache.iterdir())) == 1


def test_everything_that_the_answer_depends_on_is_in_the_key(
    recogniser: Path, certify: Make, make_recogniser: Make, timings: Timings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not tune(recogniser, [1]).remembered
    variant = certify(recogniser, "int8")
    assert not tune(recogniser, [1]).remembered
    certify(recogniser, "int8", budget="psnr 40")
    assert not tune(recogniser, [1]).remembered
    variant.unlink()
    assert tune(recogniser, [1]).remembered
    assert not tune(recogniser, [1], threads=1).remembered
    assert tune(recogniser, [1], device="cpu").remembered is (ort.cuda_problem() is not None)  # what "auto" is here counts
    assert not tune(recogniser, [1], providers=["cpu"]).remembered
    monkeypatch.setattr(cpu, "machine_name", lambda: "another CPU")
    assert not tune(recogniser, [1]).remembered
    make_recogniser(name=recogniser.name, sharpness=200.001)
    assert not tune(recogniser, [1]).remembered


def entry(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "",
        lambda text: "not JSON",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"schema": 4', '"schema": 3'),
        lambda text: text.replace('"rounds": [', '"rounds": [[[99, 1.0]], '),
        lambda text: text.replace('"busy": ""', '"busy": 5'),
        lambda text: text.replace('"machine": "', '"machine": "x'),
        lambda text: text.replace('"threads": 2', '"threads": 0'),
        lambda text: text.replace('"threads": 2', '"threads": 1024'),
        lambda text: text.replace('"threads": 2', '"threads": "2"'),
        lambda text: text.replace('"graph_level": "all"', '"graph_level": "most"'),
        lambda text: text.replace('"binding": "run"', '"binding": "fly"'),
        lambda text: text.replace('"variant": ""', '"variant": "../../evil"'),
        lambda text: text.replace('"backend": "onnxruntime"', '"backend": "../evil"'),
        lambda text: text.replace('"batch": 1', '"batch": 2'),
        lambda text: text.replace('"ratio": 1.0', '"ratio": -1.0'),
        lambda text: text.replace('"ratio": 1.0', '"ratio": NaN'),
        lambda text: "[" * 100_000,
        lambda text: text + " " * 5_000_000,
        lambda text: text.replace('"plans": {', '"plans": 5, "x": {'),
    ],
)
def test_a_corrupt_entry_is_made_again(recogniser: Path, timings: Timings, cache: Path, harm: Callable[[str], str]) -> None:
    plans = tune(recogniser, [1]).plans
    path = entry(cache)
    whole = path.read_text()
    assert harm(whole) != whole
    path.write_text(harm(whole))
    again = tune(recogniser, [1])
    assert not again.remembered
    assert again.plans[1].setting == plans[1].setting
    assert entry(cache) == path
    assert tune(recogniser, [1]).remembered


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no owner to ask for")
def test_an_entry_that_others_could_have_written_is_not_taken(
    recogniser: Path, timings: Timings, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(0)
    try:
        tune(recogniser, [1])
    finally:
        os.umask(old)
    assert entry(cache).stat().st_mode & 0o777 == 0o600
    entry(cache).chmod(0o666)
    assert not tune(recogniser, [1]).remembered
    assert tune(recogniser, [1]).remembered
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    assert not tune(recogniser, [1]).remembered


def test_an_entry_that_is_a_folder_or_no_text(recogniser: Path, timings: Timings, cache: Path) -> None:
    tune(recogniser, [1])
    path = entry(cache)
    path.write_bytes(b"\xff\xfe\x00")
    assert not tune(recogniser, [1]).remembered
    path.unlink()
    path.mkdir()
    found = tune(recogniser, [1])
    assert not found.remembered
    assert "cannot be written" in found.not_kept
    assert [other.name for other in cache.iterdir()] == [path.name]  # and no temporary file is left


def test_a_cache_folder_that_cannot_be_written_is_done_without(
    recogniser: Path, timings: Timings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "occupied"))
    found = tune(recogniser, [1])
    assert found.plans[1].setting == Setting(threads=2)
    assert "cannot be written" in found.not_kept
    assert main(["tune", str(recogniser), "--batch", "1"]) == 0
    assert "not remembered for the next time" in capsys.readouterr().out
    with load(recogniser, tune=True) as model:
        assert isinstance(model.engine, TunedEngine)


def test_a_read_only_cache_folder(recogniser: Path, timings: Timings, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root every folder can be written, so the refusal is made up."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tune_cache, "written_whole", refuse)
    found = tune(recogniser, [1])
    assert "cannot be written (Permission denied)" in found.not_kept


def test_two_writers_leave_one_whole_entry(cache: Path) -> None:
    key = {"file": "ab" * 32, "machine": "m"}
    documents = [{"plans": {}, "filler": str(i) * 20_000} for i in range(8)]
    start = threading.Barrier(8)

    def write(document: dict[str, Any]) -> str:
        start.wait()
        return "".join(tune_cache.write_entry(key, document) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, documents)) == {""}
    found = tune_cache.read_entry(key)
    assert found is not None
    assert {"plans": {}, "filler": found["filler"]} in documents
    assert len(list(cache.iterdir())) == 1


def test_without_a_folder_for_caches(recogniser: Path, timings: Timings, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", "")
    found = tune(recogniser, [1])
    assert "no folder for caches" in found.not_kept
    assert not tune(recogniser, [1]).remembered
    with pytest.warns(RuntimeWarning, match="measured again next time: .*; set ONNXFERRY_CACHE"):
        load(recogniser, tune=True, device="cpu").close()
    assert forget(recogniser) == 0
    assert not cache.exists()


def test_load_uses_what_was_tuned_for_other_batch_sizes(recogniser: Path, certify: Make, timings: Timings, cache: Path) -> None:
    certify(recogniser, "int8")
    timings.seconds = by_variant(itself=3e-3, int8=1e-3)
    tune(recogniser, [16])
    asked = len(timings.asked)
    with load(recogniser, tune=True) as model:
        assert isinstance(model.engine, TunedEngine)
        assert list(model.engine.tuning.plans) == [16]
        assert model.engine.tuning.remembered
        assert model.engine.setting(16).variant == model.engine.setting(1).variant == "int8"
        assert model.good_batch == 16
    assert len(timings.asked) == asked  # nothing was measured again
    assert list(json.loads(entry(cache).read_text())["plans"]) == ["16"]


def test_load_uses_what_the_verb_found(recogniser: Path, timings: Timings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(recogniser), "--batch", "16"]) == 0
    assert main(["tune", str(recogniser), "--batch", "3", "--device", "cpu"]) == 0
    assert f"load({str(recogniser)!r}, device='cpu', tune=True)" in capsys.readouterr().out
    asked = len(timings.asked)
    with load(recogniser, tune=True, device="cpu") as model:
        assert isinstance(model.engine, TunedEngine)
        assert list(model.engine.tuning.plans) == ([3, 16] if ort.cuda_problem() else [3])
    assert len(timings.asked) == asked


def test_measuring_with_other_inputs_keeps_the_other_sizes(doubler: Path, timings: Timings) -> None:
    tune(doubler, [1, 4])
    tune(doubler, [1], feeds=[{"x": np.full((1, 3), 5, np.float32)}])
    assert tune(doubler, [4]).remembered


def test_forgetting(recogniser: Path, timings: Timings, cache: Path, doubler: Path) -> None:
    tune(recogniser, [1])
    tune(recogniser, [1], threads=1)
    tune(doubler, [1])
    assert forget(recogniser) == 2
    assert not tune(recogniser, [1]).remembered
    assert tune(doubler, [1]).remembered
    assert forget(recogniser) == 1
    assert forget(recogniser) == 0


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([0], "a batch size must be a whole number from 1 to 65536, got 0"),
        ([-3], "got -3"),
        ([True], "got True"),
        ([1.5], "got 1.5"),
        (["1"], "got '1'"),
        ([10**9], "got 1000000000"),
        ([], "batches is empty"),
        (5, r"batches must be a list of whole numbers such as \[1, 64\], got 5"),
        ("1", "batches must be a list"),
    ],
)
def test_batch_sizes_that_make_no_sense(recogniser: Path, batches: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tune(recogniser, batches)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "20"])
def test_times_that_make_no_sense(recogniser: Path, seconds: Any) -> None:
    with pytest.raises(InputError, match="seconds must be a number above 0"):
        tune(recogniser, [1], seconds=seconds)


def write_shaped(path: Path, shape: list[Any], dtype: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "shaped",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_fixed_batch_is_the_only_one(tmp_path: Path, timings: Timings) -> None:
    path = write_shaped(tmp_path / "fixed.onnx", [3, 2])
    assert list(tune(path).plans) == [3]
    with pytest.raises(InputError, match="the model takes batches of 3 only, got 64; export it with a dynamic batch axis"):
        tune(path, [3, 64])
    with load(path, tune=True) as model:
        assert model.run({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        (["n", "length", 2], TensorProto.FLOAT, r"input 'x' \(n, length, 2\) leaves the size of axis 1 open, .*; give some inputs: feeds="),
        (
            ["n"],
            TensorProto.STRING,
            r"cannot generate random values for the input 'x' \(there are none of the type str\); give some inputs",
        ),
    ],
)
def test_inputs_that_cannot_be_made_up_can_be_given(tmp_path: Path, timings: Timings, shape: list[Any], dtype: int, words: str) -> None:
    path = write_shaped(tmp_path / "open.onnx", shape, dtype)
    with pytest.raises(InputError, match=words):
        tune(path, [1])
    with pytest.raises(InputError, match=words):
        load(path, tune=True)
    given = np.ones((2, 5, 2), np.float32) if dtype == TensorProto.FLOAT else np.array(["a", "b"])
    assert list(tune(path, feeds=[{"x": given}]).plans) == [1, 64]
    with load(path, tune=True) as model:  # it is remembered, so nothing need be made up
        assert isinstance(model.engine, TunedEngine)
        np.testing.assert_array_equal(model.run({"x": given})["y"], given)


def test_feeds_that_the_model_cannot_take(doubler: Path, timings: Timings) -> None:
    with pytest.raises(InputError, match="size 3 on axis 1"):
        tune(doubler, [1], feeds=[{"x": np.ones((1, 4), np.float32)}])
    with pytest.raises(InputError, match="the feeds name 'other', which is no input; the model takes x"):
        tune(doubler, [1], feeds=[{"x": np.ones((1, 3), np.float32), "other": np.ones(3)}])
    with pytest.raises(InputError, match="the feeds lack the input 'x'"):
        tune(doubler, [1], feeds=[{}])


def test_given_feeds_are_timed_even_where_others_were(doubler: Path, timings: Timings) -> None:
    assert not tune(doubler, [1]).remembered
    assert tune(doubler, [1]).remembered
    given = [{"x": np.full((1, 3), value, np.float32)} for value in (5.0, 9.0)]
    assert not tune(doubler, [1], feeds=given).remembered
    with Engine(doubler, device="cpu") as engine:
        made = make_feeds(None, engine.inputs, 1, samples=given)
    assert [round(float(each["x"].mean())) for each in made[:4]] == [5, 9, 5, 9]


@pytest.mark.parametrize("feeds", [{"x": np.ones((1, 3), np.float32)}, [5], [[np.ones(3)]]])
def test_feeds_that_are_none(doubler: Path, feeds: Any) -> None:
    with pytest.raises(InputError, match="feeds must be a list of dicts of arrays by input name"):
        tune(doubler, [1], feeds=feeds)


def test_feeds_fit_every_shipped_model_and_differ(zoo_copy: Make) -> None:
    for name, file in (
        ("digits", "digits.onnx"),
        ("shakespeare", "shakespeare.onnx"),
        ("digits-gan", "digits-gan.onnx"),
        ("digits-ae", "digits-ae.onnx"),
        ("digits-ae", "digits-ae.decoder.onnx"),
    ):
        with Engine(zoo_copy(name).with_name(file), device="cpu", threads=1) as engine:
            for batch in (1, 5):
                feeds = make_feeds(engine.contract, engine.inputs, batch)
                assert len(feeds) == 8
                first = engine.inputs[0].name
                outputs = [engine.run(feed) for feed in feeds]
                assert {len(array) for output in outputs for array in output.values()} == {batch}
                for feed in feeds[1:]:
                    if name != "shakespeare" or batch > 1:  # of which one byte may well be another's
                        assert (feed[first] != feeds[0][first]).any()
            again = make_feeds(engine.contract, engine.inputs, 5)
            np.testing.assert_array_equal(again[7][first], feeds[7][first])


def spec(name: str, dtype: str, *shape: Any) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def test_feeds_made_of_shapes_alone() -> None:
    inputs = [
        spec("a", "float16", "n", 3),
        spec("b", "int64", "n"),
        spec("c", "uint8", 2, "n"),
        spec("d", "bool"),
        spec("e", "optional(x)"),
    ]
    (one, *_) = make_feeds(None, inputs, 6)
    assert {name: (array.dtype.name, array.shape) for name, array in one.items()} == {
        "a": ("float16", (6, 3)),
        "b": ("int64", (6,)),
        "c": ("uint8", (2, 6)),
        "d": ("bool", ()),
    }
    assert set(one["b"].tolist()) <= {0, 1}
    with pytest.raises(InputError, match=r"more than 2 GiB\); give some inputs"):
        make_feeds(None, [spec("x", "float32", "n", 2**20)], 2**16)
    large = make_feeds(None, [spec("x", "bool", "n", 2**20)], 40)
    assert len(large) == 2  # they are held in memory together


def plan(batch: int, seconds: float = 1e-3, **setting: Any) -> Plan:
    return Plan(batch, Setting(threads=1, **setting), seconds, 2e-3, 2.0, (Trial(Setting(), None, None, "no time left"),))


def tuning_of(path: Path, *plans: Plan, per_row: frozenset[str] = frozenset()) -> Tuning:
    return Tuning(path, {each.batch: each for each in plans}, "a CPU", per_row)


def test_plans_survive_json() -> None:
    one = plan(8, variant="int8", sizes=(("batch", 8), ("n", 3)))
    text = json.loads(json.dumps(plan_to_json(one)))
    assert plan_from_json(text, 8, frozenset({"int8"})) == one
    assert plan_from_json(text, 9, frozenset({"int8"})) is None
    assert plan_from_json(text, 8, frozenset()) is None
    assert (text["measured"], text["unsure"]) == ([], "")
    for key in text:
        assert plan_from_json({name: value for name, value in text.items() if name != key}, 8, frozenset({"int8"})) is None
        assert plan_from_json({**text, key: "x" if key != "unsure" else 5}, 8, frozenset({"int8"})) is None
    for sizes in (5, [["n"]], [["n", 0]], [["n", True]], [[3, 3]], [["n", "3"]]):
        setting = {**text["setting"], "sizes": sizes}
        assert plan_from_json({**text, "setting": setting}, 8, frozenset({"int8"})) is None
    for junk in (None, 5, "x", [], [1]):
        assert plan_from_json(junk, 8, frozenset()) is None


def test_the_nearest_size_is_nearest_in_ratio(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path, plan(1, 1e-3), plan(64, 2e-3), plan(256, 1e-2))
    assert [tuning.nearest(n).batch for n in (0, 1, 2, 7, 8, 9, 64, 127, 128, 10**6)] == [1, 1, 1, 1, 64, 64, 64, 64, 256, 256]
    assert tuning.best_batch == 64


def test_a_tuned_engine_sends_each_batch_its_own_way(recogniser: Path, certify: Make, make_recogniser: Make) -> None:
    """The variant here has other answers, so that it shows who gave them."""
    certify(recogniser, "int8", make_recogniser(name="other.onnx", sharpness=1.0))
    tuning = tuning_of(recogniser, plan(1, variant="int8"), plan(64, graph_level="basic", binding="run_into"))
    with TunedEngine(tuning, device="cpu") as engine, Engine(recogniser, device="cpu") as plain:
        assert len(engine._sessions) == 1
        image = np.random.default_rng(0).integers(0, 256, (64, 5, 4, 1), np.uint8)
        for rows in (1, 7, 8, 9, 64, 64, 30, 64, 9):
            feeds = {"image": image[:rows]}
            same = np.allclose(engine.run(feeds)["probabilities"], plain.run(feeds)["probabilities"], atol=1e-6)
            assert same is (rows >= 8)
            assert list(engine.run(feeds, ["features"])) == ["features"]
        assert {s.variant: e.graph_level for s, e in engine._sessions.items()} == {"int8": "all", "": "basic"}
        outputs = {"features": np.empty((9, 1), np.float32)}
        engine.run_into({"image": image[:9]}, outputs)
        np.testing.assert_allclose(outputs["features"], plain.run({"image": image[:9]})["features"])
        shared = engine.run_dlpack({"image": image[:9]})["features"]
        np.testing.assert_allclose(np.from_dlpack(shared), outputs["features"])
        assert engine.contract is not None
        assert engine.contract.certificate == {}
        assert engine.path == recogniser
        assert "batches {1: int8, 64: as it is}" in repr(engine)
    assert "closed" in repr(engine)
    for call in (lambda: engine.run(feeds), lambda: engine.run_into(feeds, outputs), engine.close):
        if call == engine.close:
            call()
            continue
        with pytest.raises(InputError, match="is closed"):
            call()


def test_a_graph_for_some_sizes_runs_those_and_others_go_elsewhere(recogniser: Path) -> None:
    sizes = (("batch", 1), ("height", 5), ("width", 4))
    with TunedEngine(tuning_of(recogniser, plan(1, sizes=sizes)), device="cpu") as engine, Engine(recogniser, device="cpu") as plain:
        assert [spec.shape for spec in engine.inputs] == [spec.shape for spec in plain.inputs]
        assert [spec.shape for spec in engine.outputs] == [spec.shape for spec in plain.outputs]
        for shape, sessions in (((1, 5, 4, 1), 1), ((1, 6, 4, 1), 2), ((2, 5, 4, 1), 2), ((1, 5, 4, 1), 2)):
            feeds = {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
            np.testing.assert_allclose(engine.run(feeds)["probabilities"], plain.run(feeds)["probabilities"], atol=1e-6)
            assert len(engine._sessions) == sessions
        for wrong in ({}, {"image": 3}, {"image": np.zeros((1, 5, 4, 1))}, [1]):
            with pytest.raises(InputError):
                engine.run(wrong)  # type: ignore[arg-type]
        shared = engine.run_dlpack({"image": np.zeros((1, 5, 4, 1), np.uint8)})["features"]
        assert np.from_dlpack(shared).shape == (1, 1)


def test_a_tuned_engine_has_all_that_an_engine_has(recogniser: Path) -> None:
    with Engine(recogniser, device="cpu") as plain, TunedEngine(tuning_of(recogniser, plan(1)), device="cpu") as engine:
        for name in (name for name in dir(plain) if not name.startswith("_")):
            assert hasattr(engine, name), name
        for name, value in vars(Engine).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                assert name in vars(TunedEngine), f"{name} would reach for a session that a tuned engine has several of"
        assert (engine.inputs, engine.outputs, engine.metadata) == (plain.inputs, plain.outputs, plain.metadata)


@pytest.mark.parametrize("binding", ["run", "run_into"])
def test_bad_feeds_are_told_as_by_an_engine(recogniser: Path, binding: str) -> None:
    good = {"image": np.zeros((2, 3, 3, 1), np.uint8)}
    bad: list[Any] = [
        {},
        {"imagee": good["image"]},
        {"image": good["image"].astype(float)},
        {"image": good["image"][0]},
        {"image": [1]},
        5,
        None,
    ]
    bad += [{**good, "x": good["image"]}, [("image", good["image"])]]
    with Engine(recogniser, device="cpu") as plain, TunedEngine(tuning_of(recogniser, plan(1, binding=binding)), device="cpu") as engine:
        for _ in range(3):
            np.testing.assert_array_equal(engine.run(good)["features"], plain.run(good)["features"])
        for feeds in bad:
            with pytest.raises(InputError) as theirs:
                plain.run(feeds)
            with pytest.raises(InputError) as ours:
                engine.run(feeds)
            assert str(ours.value) == str(theirs.value)
        with pytest.raises(InputError, match="no output 'x'"):
            engine.run(good, ["x"])


def test_bound_runs_give_each_caller_arrays_of_its_own(recogniser: Path) -> None:
    with TunedEngine(tuning_of(recogniser, plan(1, binding="run_into")), device="cpu") as engine:
        images = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4, 1), np.uint8)
        with Engine(recogniser, device="cpu") as plain:
            wanted = [plain.run({"image": image})["features"] for image in images]
        kept = [engine.run({"image": image})["features"] for image in images]
        with ThreadPoolExecutor(8) as pool:
            shared = list(pool.map(lambda image: engine.run({"image": image})["features"], images))
        for one, other, right in zip(kept, shared, wanted, strict=True):
            np.testing.assert_array_equal(one, right)
            np.testing.assert_array_equal(other, right)
        cut = images.transpose(0, 2, 3, 1, 4)[:, :, :, 1:]  # not contiguous
        np.testing.assert_array_equal(engine.run({"image": cut[0]})["features"], engine.run({"image": cut[0].copy()})["features"])


def test_per_row_variants_never_share_a_run(recogniser: Path, certify: Make) -> None:
    certify(recogniser, "int8", rows_alone=True)
    alone = frozenset({"int8"})
    for plans, wanted in (
        ([plan(1, variant="int8")], {1: "int8", 2: "", 500: ""}),
        ([plan(1, variant="int8"), plan(64, variant="slim")], {1: "int8", 2: "slim", 64: "slim"}),
        ([plan(1), plan(64, variant="int8")], {1: "", 40: ""}),
    ):
        with TunedEngine(tuning_of(recogniser, *plans, per_row=alone), device="cpu") as engine:
            assert {rows: engine.setting(rows).variant for rows in wanted} == wanted


def test_awaited_runs_go_the_same_way(recogniser: Path) -> None:
    import asyncio

    feeds = {"image": np.full((1, 3, 3, 1), 200, np.uint8)}
    with TunedEngine(tuning_of(recogniser, plan(1)), device="cpu") as engine:
        np.testing.assert_array_equal(asyncio.run(engine.arun(feeds))["features"], engine.run(feeds)["features"])


FAMILIES = (("digits", Classifier), ("shakespeare", TextGenerator), ("digits-gan", ImageGenerator), ("digits-ae", Autoencoder))


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_load_tunes_all_four_families(
    zoo_copy: Make, certify: Make, timings: Timings, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Model]
) -> None:
    monkeypatch.setattr(tune_module, "BATCHES", (1, 4))  # to write 64 texts takes long
    timings.seconds = by_variant(itself=2e-3, slim=1e-3)
    path = zoo_copy(name)
    certify(path, "slim")
    with load(path, tune=True, device="cpu", threads=1) as model, load(path, device="cpu", threads=1) as plain:
        assert type(model) is kind
        assert isinstance(model.engine, TunedEngine)
        assert {each.setting.variant for each in model.engine.tuning.plans.values()} == {"slim"}
        assert (model.engine.path, model.labels) == (path, plain.labels)
        image = np.zeros((28, 28), np.uint8)
        if isinstance(model, Classifier) and isinstance(plain, Classifier):
            assert model.predict([image] * 3)[2].label == plain.predict([image] * 3)[2].label
        if isinstance(model, TextGenerator) and isinstance(plain, TextGenerator):
            assert model.generate("To be", max_bytes=40) == plain.generate("To be", max_bytes=40)
            assert model.generate_batch(["To be", "or"], max_bytes=9) == plain.generate_batch(["To be", "or"], max_bytes=9)
        if isinstance(model, ImageGenerator) and isinstance(plain, ImageGenerator):
            assert np.abs(model.sample(10).astype(int) - plain.sample(10)).max() <= 1
        if isinstance(model, Autoencoder) and isinstance(plain, Autoencoder):
            assert isinstance(model.decoder, TunedEngine)
            np.testing.assert_allclose(model.decode(plain.encode(image)), plain.decode(plain.encode(image)), atol=1)
            model.close()
            with pytest.raises(InputError, match="is closed"):
                model.decoder.run({"latent": np.zeros((1, 32), np.float32)})


def test_load_tunes_any_other_file(doubler: Path, timings: Timings) -> None:
    with load(doubler, tune=True, threads=1) as model:
        assert type(model) is Model
        assert model.engine.threads == 1
        assert {setting.threads for setting in timings.asked} == {1}
        np.testing.assert_array_equal(model.run({"x": np.ones((9, 3), np.float32)})["y"], np.full((9, 3), 2))


def test_load_takes_either_a_variant_or_tuning(recogniser: Path, certify: Make) -> None:
    certify(recogniser, "int8")
    with pytest.raises(InputError, match=r"give either variant=\.\.\., to choose one, or tune=True"):
        load(recogniser, variant="int8", tune=True)
    with pytest.raises(ArtifactError, match="no such file"):
        load(recogniser.with_name("none.onnx"), tune=True)


def test_predicting_many_uses_the_tuned_batch(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = tuning_of(recogniser, plan(1, 1e-3), plan(16, 2e-3), plan(64, 64e-3))
    sizes: list[int] = []
    with TunedEngine(tuning, device="cpu") as engine:
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda feeds, outputs=None: (sizes.append(len(feeds["image"])), run(feeds, outputs))[1])
        model = Classifier(engine)
        assert model.good_batch == 16
        assert len(model.predict(np.zeros((40, 3, 3, 1), np.uint8))) == 40
        assert len(model.predict(np.zeros((40, 3, 3, 1), np.uint8), batch_size=32)) == 40
    assert sizes == [16, 16, 8, 32, 8]


def test_threads_to_try(recogniser: Path, timings: Timings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "default_threads", lambda: 6)
    tune(recogniser, [1])
    assert {setting.threads for setting in timings.asked} == {1, 2, 4, 6}
    assert timings.asked[0].threads == 6  # the default is what load() does


def test_the_verb_shows_a_table_and_remembers(
    recogniser: Path, certify: Make, timings: Timings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    certify(recogniser, "int8")
    timings.seconds = by_variant(itself=3e-3, int8=1e-3)
    assert main(["tune", str(recogniser), "--batch", "1", "--batch", "8"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("int8", "3.00", "chosen", "batch 8: 1.00 ms, the default 3.00 ms: 3.00 × as fast, 8,000 items a second", "found in"):
        assert words in out, words
    assert main(["tune", str(recogniser), "--batch", "8"]) == 0
    assert "found before, and remembered" in capsys.readouterr().out
    assert main(["tune", str(recogniser), "--batch", "8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["remembered"] is True
    (file,) = document["files"]
    (found,) = file["plans"]
    assert found["setting"] == {
        "variant": "int8",
        "threads": 2,
        "graph_level": "all",
        "binding": "run",
        "sizes": [],
        "backend": "onnxruntime",
    }
    assert found["ratio"] == pytest.approx(3, rel=1e-3)
    assert main(["tune", str(recogniser), "--forget", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(recogniser), "forgotten": 1}
    assert main(["tune", str(recogniser), "--forget"]) == 0
    assert "forgot 0 entries" in capsys.readouterr().out


def test_the_table_fits_80_columns_and_says_below_why_one_was_refused(
    recogniser: Path, certify: Make, timings: Timings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    certify(recogniser, "float16", rms={"features": 0.0001})
    changed_where(monkeypatch, lambda setting: setting.variant == "float16", lambda features: features * 1.05)
    timings.seconds = lambda setting: 1e-3 if setting.sizes else 2e-3
    assert main(["tune", str(recogniser), "--batch", "4"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row for row in rows if "brightness.onnx" not in row and "found in" not in row and len(row) > 80] == []
    assert [row.split()[-1] for row in rows if "  4   float16" in row] == ["failed", "failed"]
    assert "batch 4, float16, 2, all, any, run: output 'features' is 5.0% off here" in "\n".join(rows)
    assert any(row.split()[5:] == ["run_into", "2.00", "within", "noise"] for row in rows if "fixed" in row)


def test_the_verb_counts_bytes_of_text_and_both_halves(
    zoo_copy: Make, timings: Timings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune_module, "BATCHES", (1, 4))  # to write 64 texts takes long
    timings.seconds = lambda setting: 48e-4
    assert main(["tune", str(zoo_copy("shakespeare")), "--threads", "1"]) == 0
    assert "batch 1: the default stays, 4.80 ms, 10,000 bytes a second" in capsys.readouterr().out
    path = zoo_copy("digits-ae")
    assert main(["tune", str(path), "--json", "--batch", "4"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(file["path"]).name for file in files] == ["digits-ae.onnx", "digits-ae.decoder.onnx"]
    with load(path, tune=True, device="auto") as model:
        assert isinstance(model, Autoencoder)


def test_the_verb_takes_inputs_from_a_file(tmp_path: Path, timings: Timings, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_shaped(tmp_path / "open.onnx", ["n", "length"])
    assert main(["tune", str(path)]) == 1
    assert "--feeds FILE.npz" in capsys.readouterr().err
    np.savez(tmp_path / "inputs.npz", x=np.ones((3, 7), np.float32))
    assert main(["tune", str(path), "--feeds", str(tmp_path / "inputs.npz")]) == 0
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    for name in ("none.npz", "one.npy", "broken.npz"):
        assert main(["tune", str(path), "--feeds", str(tmp_path / name)]) == 1
        assert "cannot be read as inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--batch", "0"], 1, "a batch size must be a whole number"),
        (["--batch", "many"], 2, "Invalid value for '--batch'"),
        (["--seconds", "0"], 1, "seconds must be a number above 0"),
        (["--device", "tpu"], 1, "unknown device 'tpu'; expected auto, cpu or cuda"),
    ],
)
def test_the_verb_refuses_in_one_line(
    recogniser: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main(["tune", str(recogniser), *arguments]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2 if code == 1 else 1), "the second line names the page of the documentation"
    assert words in err


def test_a_real_clock_finds_that_less_work_is_faster(recogniser: Path, tmp_path: Path, certify: Make) -> None:
    """The one test that measures: the file multiplies large matrices for nothing, and the variant does not."""
    model = onnx.load(recogniser)
    big = numpy_helper.from_array(np.full((300, 300), 1 / 300, np.float32), "big")
    scalar = helper.make_node("ReduceMax", ["burnt_19"], ["burnt"], keepdims=0)
    burns = [helper.make_node("MatMul", [f"burnt_{i - 1}" if i else "wide", "big"], [f"burnt_{i}"]) for i in range(20)]
    wide = helper.make_node("Mul", ["big", "first"], ["wide"])
    first = helper.make_node("ReduceMax", ["pixels"], ["first"], keepdims=0)
    used = helper.make_node("Mul", ["burnt", "nothing"], ["zero"])
    (cast,) = [node for node in model.graph.node if node.op_type == "Cast"]
    rest = [node for node in model.graph.node if node is not cast]
    (softmax,) = [node for node in rest if node.op_type == "Softmax"]
    softmax.input[0] = "logits_again"
    again = helper.make_node("Add", ["logits", "zero"], ["logits_again"])
    at = rest.index(softmax)
    nodes = [cast, first, wide, *burns, scalar, used, *rest[:at], again, *rest[at:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([big, numpy_helper.from_array(np.array(0, np.float32), "nothing")])
    burning = tmp_path / "burning.onnx"
    onnx.save(model, burning)
    certify(burning, "lean", recogniser)
    tuning = tune(burning, [1], device="cpu", threads=1)
    assert tuning.plans[1].setting.variant == "lean"
    assert tuning.plans[1].ratio > 1
    assert SECONDS == 20


def test_a_session_for_some_sizes_takes_any_size_of_an_axis_without_a_name() -> None:
    setting = Setting(sizes=(("height", 28),))
    fixed = _Fixed(setting, [TensorSpec("x", "float32", ("height", None, 3)), TensorSpec("y", "float32", ("height",))])
    y = np.zeros(28)
    assert fixed.fits({"x": np.zeros((28, 7, 3)), "y": y})
    assert fixed.fits({"x": np.zeros((28, 9, 3)), "y": y})
    assert not fixed.fits({"x": np.zeros((27, 7, 3)), "y": y})
    assert not fixed.fits({"x": np.zeros((28, 7)), "y": y})
    assert not fixed.fits({"x": np.zeros((28, 7, 3)), "y": np.zeros(27)})
    assert not fixed.fits({"x": np.zeros((28, 7, 3))})


def test_a_setting_that_memory_does_not_suffice_for_is_skipped(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "it needs about 9.0 GB of memory, and 1.0 GB are free"
    monkeypatch.setattr(tune_search, "shortage", lambda needed: words)
    plan = tune(recogniser, [1], seconds=5).plans[1]
    assert plan.setting.threads == 2  # the default is open already, and its buffers may be bound
    assert {trial.verdict for trial in plan.trials if trial.setting.binding == "run" and trial.setting != Setting(threads=2)} == {
        f"skipped: {words}"
    }
