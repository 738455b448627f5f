"""Back ends beside ONNX Runtime: they give the same results, in float32, and every reason why one cannot be used is one clear line."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxferry.runtime import Classifier, Engine, load
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.backends import choose, plugins
from onnxferry.runtime.engine.backends import openvino as openvino_module
from onnxferry.runtime.engine.backends.openvino import OpenVINOEngine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.engine.runner import BufferRunner, Runner
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError, MissingExtraError, TimeLimitError
from onnxferry.runtime.tuning import search as tune_search
from onnxferry.runtime.tuning import tune as tune_module
from onnxferry.runtime.tuning.plan import Plan, Setting, Tuning
from onnxferry.runtime.tuning.tune import tune
from onnxferry.runtime.tuning.tuned_engine import TunedEngine

Make = Callable[..., Path]

needs_openvino = pytest.mark.skipif(not choose.version_of("openvino"), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))


def image(rows: int, side: int = 5) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(rows).integers(0, 256, (rows, side, side, 1), np.uint8)}


@needs_openvino
def test_it_gives_what_onnx_runtime_gives(recogniser: Path) -> None:
    with OpenVINOEngine(recogniser, threads=1) as engine, Engine(recogniser, device="cpu", threads=1) as known:
        assert isinstance(engine, Runner)
        assert isinstance(engine, BufferRunner)
        assert replay(engine).passed
        assert (engine.device, engine.threads, engine.path, engine.precision) == ("cpu", 1, recogniser, "float32")
        assert [spec.name for spec in engine.outputs] == [spec.name for spec in known.outputs]
        kept = []
        for rows in (1, 3, 64):
            feeds = image(rows)
            found, wanted = engine.run(feeds), known.run(feeds)
            kept.append((found, {name: array.copy() for name, array in found.items()}))
            for name, array in wanted.items():
                assert found[name].dtype == array.dtype
                assert found[name].shape == array.shape
                np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)  # as golden samples in float32
        for found, copy in kept:  # outputs are the caller's: later runs leave them alone
            for name, array in copy.items():
                np.testing.assert_array_equal(found[name], array)
        with pytest.raises(InputError, match="no elements"):  # its outputs would have other shapes
            engine.run(image(0))
        name = engine.outputs[0].name
        assert list(engine.run(image(2), [name])) == [name]
        read_only = image(2)
        read_only["image"].flags.writeable = False
        np.testing.assert_array_equal(engine.run(read_only)[name], engine.run(image(2))[name])
        into = {name: np.empty_like(wanted[name])}
        engine.run_into(feeds, into)
        np.testing.assert_array_equal(into[name], engine.run(feeds)[name])
        np.testing.assert_array_equal(asyncio.run(engine.arun(feeds))[name], into[name])


@needs_openvino
def test_many_threads_share_one(recogniser: Path) -> None:
    with OpenVINOEngine(recogniser, threads=1) as engine:
        wanted = [engine.run(image(rows)) for rows in range(1, 5)]
        wrong: list[int] = []

        def work(rows: int) -> None:
            for _ in range(20):
                found = engine.run(image(rows))
                if any(not np.array_equal(found[name], array) for name, array in wanted[rows - 1].items()):
                    wrong.append(rows)

        threads = [threading.Thread(target=work, args=(rows,)) for rows in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


@needs_openvino
def test_its_arguments_are_checked_as_an_engines(recogniser: Path) -> None:
    engine = OpenVINOEngine(recogniser, threads=1)
    for feeds, message in (
        ({}, "input 'image' is missing"),
        ({"picture": image(1)["image"]}, "has no input 'picture'"),
        ({"image": image(1)["image"].astype(np.float32)}, "must be uint8"),
        ({"image": image(1)["image"][..., 0]}, "must have 4 axes"),
    ):
        with pytest.raises(InputError, match=message):
            engine.run(feeds)
    with pytest.raises(InputError, match="no output 'nothing'"):
        engine.run(image(1), ["nothing"])
    with pytest.raises(InputError, match="ONNX Runtime's alone"):
        engine.run_dlpack(image(1))
    assert engine.run(image(1), timeout=30)
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="is closed"):
        engine.run(image(1))
    with pytest.raises(InputError, match="precision must be"):
        OpenVINOEngine(recogniser, precision="int3")


@needs_openvino
def test_a_run_ends_at_its_time_limit(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that never ends by itself is asked to, and its request is not used again."""
    engine = OpenVINOEngine(recogniser, threads=1)
    cancelled = threading.Event()
    endless = types.SimpleNamespace(
        set_tensor=lambda *_: None, start_async=lambda: None, wait_for=lambda _: cancelled.wait(0.01) and False, cancel=cancelled.set
    )
    engine._requests = [endless]
    with pytest.raises(TimeLimitError, match="was not run within"):
        engine.run(image(1), timeout=0.05)
    assert cancelled.is_set()
    assert endless not in engine._requests
    assert engine.run(image(1))


@needs_openvino
def test_a_graph_for_fixed_sizes_takes_no_others(recogniser: Path) -> None:
    with OpenVINOEngine(recogniser, threads=1, sizes={"batch": 2}) as engine, Engine(recogniser, device="cpu", threads=1) as known:
        for name, array in known.run(image(2)).items():
            np.testing.assert_allclose(engine.run(image(2))[name], array, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match="must have size 2 on axis 0"):
            engine.run(image(3))


@needs_openvino
def test_load_takes_it(recogniser: Path) -> None:
    with load(recogniser, backend="openvino", threads=1) as model:
        assert isinstance(model, Classifier)
        assert isinstance(model.engine, OpenVINOEngine)
        assert model.engine.providers == ("OpenVINO",)
        assert len(model.predict([image(1)["image"][0]])) == 1
    with load(recogniser, backend="onnxruntime") as model:
        assert isinstance(model.engine, Engine)


@needs_openvino
def test_what_it_cannot_run_is_one_line() -> None:
    with pytest.raises(ArtifactError, match=r"^OpenVINO \S+ cannot run \S+: .*[Ss]can") as caught:
        load("shakespeare", backend="openvino")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "openvyno"}, "backend must be one of .* did you mean 'openvino'"),
        ({"backend": 3}, "backend must be one of"),
        ({"backend": "openvino", "tune": True}, "either backend=.* or tune=True"),
        ({"backend": "openvino", "providers": ["cpu"]}, "either backend=.* or providers="),
        ({"backend": "openvino", "device": "cuda"}, "runs on the CPU"),
        ({"backend": "openvino", "isolated": True}, "isolated=True runs the file as it is"),
    ],
)
def test_arguments_that_do_not_go_together(recogniser: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(recogniser, **arguments)


def test_one_that_is_not_installed(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_module.openvino.cache_clear()
    openvino_module._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    try:
        with pytest.raises((MissingExtraError, DeviceError), match=r"openvino|OpenVINO"):
            load(recogniser, backend="openvino")
    finally:
        openvino_module.openvino.cache_clear()
    with pytest.raises(DeviceError, match="a wheel that is not installed: pip install onnxruntime-ep-nothing"):
        load(recogniser, backend="onnxruntime-ep-nothing")


def plugin(monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    module = types.ModuleType("onnxruntime_ep_made")
    for name, value in members.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_made", module)


def test_a_plugin_that_does_not_register(recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch)
    with pytest.raises(DeviceError, match="onnxruntime-ep-made is installed but cannot be used"):
        load(recogniser, backend="onnxruntime-ep-made")
    ort._trial.cache_clear()
    library = tmp_path / "libmade.so"
    library.write_bytes(b"no library")
    plugin(monkeypatch, get_library_path=lambda: str(library), get_ep_name=lambda: "MadeExecutionProvider")
    with pytest.raises(DeviceError, match="onnxruntime-ep-made does not register with ONNX Runtime") as caught:
        load(recogniser, providers=["onnxruntime-ep-made", "cpu"])
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError, match="no other provider beside a plugin's"):
        plugins.add_all(None, [("onnxruntime-ep-made", {}), ("CUDAExecutionProvider", {})], 1, None)


def test_a_plugin_without_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, get_library_path=lambda: "lib", get_ep_name=lambda: "MadeExecutionProvider")
    kinds = types.SimpleNamespace(CPU=0, NPU=2)
    device = types.SimpleNamespace(ep_name="MadeExecutionProvider", device=types.SimpleNamespace(type=2))
    runtime = types.SimpleNamespace(
        __version__="1.31", register_execution_provider_library=print, get_ep_devices=lambda: [device], OrtHardwareDeviceType=kinds
    )
    with pytest.raises(DeviceError, match="offers no CPU here"):
        plugins.registered("onnxruntime-ep-made", runtime)
    old = types.SimpleNamespace(__version__="1.20.0")
    with pytest.raises(DeviceError, match=r"needs ONNX Runtime 1\.23 or newer, and 1\.20\.0 is installed"):
        plugins.registered("onnxruntime-ep-made", old)


@needs_openvino
@pytest.mark.parametrize("name", ["sentiment-en", "sentiment-zh", "digit-scenes"])
def test_other_answers_than_the_golden_samples_are_refused(name: str) -> None:
    """As OpenVINO 2026.4 gives them for these; where a version gives the right ones, it is taken."""
    with choose.open_backend("openvino", describe(find_model(name)), threads=1) as engine:
        right = replay(engine).passed
    if right:
        load(name, backend="openvino", threads=1).close()
        return
    with pytest.raises(DeviceError, match=r"openvino \S+ does not give the golden samples of .*: sample \d+, output .*; leave backend out"):
        load(name, backend="openvino", threads=1)


def test_a_back_end_that_answers_otherwise_is_closed(recogniser: Path) -> None:
    engine = Engine(recogniser, device="cpu")
    run = engine.run

    def otherwise(feeds: Any, outputs: Any = None, **options: Any) -> dict[str, np.ndarray]:
        return {name: array + 1 for name, array in run(feeds, outputs, **options).items()}

    assert choose.verified(engine, "openvino", "m.onnx") is engine
    engine.run = otherwise  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"does not give the golden samples of m.onnx: sample 0, output '\w+': .*; leave backend out"):
        choose.verified(engine, "openvino", "m.onnx")
    assert "closed" in repr(engine)


def certificate(**changes: Any) -> dict[str, Any]:
    entry = {"version": choose.version_of("openvino"), "precision": "bfloat16", "cpu_features": [], **changes}
    return {"backend": "openvino", "backends": {"openvino": entry}}


@needs_openvino
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2020.1"}, "is certified for openvino 2020.1, and .* is installed"),
        ({"cpu_features": ["amx_from_the_future"]}, "certified for CPUs with amx_from_the_future, which this one lacks"),
        ({"precision": "float8"}, "precision 'float8', which this version does not know"),
    ],
)
def test_reduced_precision_needs_a_certificate_that_holds_here(
    recogniser: Path, certify: Make, changes: dict[str, Any], message: str
) -> None:
    file = certify(recogniser, "bf16", **certificate(**changes))
    with pytest.raises(ArtifactError, match=message):
        choose.open_backend("openvino", describe(file))
    with pytest.raises(ArtifactError, match=message):
        load(recogniser, variant="bf16", backend="openvino")


def test_eight_bits_need_a_certificate_of_the_back_end(recogniser: Path, certify: Make) -> None:
    """That of ONNX Runtime says nothing of another one's kernels."""
    file = certify(recogniser, "int8")
    with pytest.raises(ArtifactError, match="is certified for onnxruntime alone, not for openvino"):
        choose.open_backend("openvino", describe(file))
    with pytest.raises(ArtifactError, match="is certified for onnxruntime alone"):
        load(recogniser, variant="int8", backend="openvino")


@needs_openvino
def test_a_certified_precision_is_the_one_that_runs(recogniser: Path, certify: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def opened(model: Any, **options: Any) -> str:
        asked.append(options["precision"])
        return "engine"

    monkeypatch.setattr(choose, "OpenVINOEngine", opened)
    assert choose.open_backend("openvino", describe(certify(recogniser, "bf16", **certificate()))) == "engine"
    assert choose.open_backend("openvino", describe(recogniser)) == "engine"
    assert asked == ["bfloat16", "float32"]


class Times:
    """Seconds of a run, by setting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: Callable[[Setting], float]) -> None:
        monkeypatch.setattr(tune_search, "time_runs", lambda candidate, feeds, warm: of(candidate.setting))
        monkeypatch.setattr(tune_search, "time", types.SimpleNamespace(sleep=lambda seconds: None))
        monkeypatch.setattr(tune_search, "LoadMeter", lambda: types.SimpleNamespace(words=str))  # whatever else runs here


@needs_openvino
def test_the_tuner_takes_a_back_end_that_is_faster_and_keeps_it(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Times(monkeypatch, lambda setting: 1e-3 if setting.backend == "openvino" else 2e-3)
    tuning = tune(recogniser, [1, 4], threads=1)
    assert {plan.setting.backend for plan in tuning.plans.values()} == {"openvino"}
    again = tune_module.tuning_for(describe(recogniser), threads=1)
    assert again.remembered
    with TunedEngine(again) as engine, Engine(recogniser, device="cpu", threads=1) as known:
        for rows in (1, 3, 4, 0):
            for name, array in known.run(image(rows)).items():
                np.testing.assert_allclose(engine.run(image(rows))[name], array, rtol=1e-4, atol=1e-5)
        assert engine.providers == ("OpenVINO",)
        assert list(engine.run_dlpack(image(4)))  # ONNX Runtime's, for arrays of other frameworks


@needs_openvino
def test_a_back_end_that_is_wrong_is_never_chosen(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Times(monkeypatch, lambda setting: 1e-3 if setting.backend == "openvino" else 2e-3)
    right = OpenVINOEngine._result
    monkeypatch.setattr(OpenVINOEngine, "_result", lambda self, request, name: right(self, request, name) + 1)
    plan = tune(recogniser, [1], threads=1).plans[1]
    assert plan.setting.backend == "onnxruntime"
    reasons = [trial.verdict for trial in plan.trials if trial.setting.backend == "openvino"]
    assert reasons
    assert all(reason.startswith("failed: ") for reason in reasons)


def test_the_default_runs_where_the_tuned_back_end_is_gone(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(8, Setting(threads=1, backend="onnxruntime-ep-nothing"), 1e-3, 2e-3, 2.0, ())
    with pytest.warns(RuntimeWarning, match="runs with its default setting.*not installed") as caught:
        engine = TunedEngine(Tuning(recogniser, {8: plan}, "a CPU"), device="cpu")
    assert len(caught) == 1
    assert engine.run(image(2))
    assert engine.run(image(8))
    engine.close()


def test_installed_back_ends_are_part_of_what_a_plan_is_for(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Times(monkeypatch, lambda setting: 2e-3)
    monkeypatch.setattr(tune_module, "installed_backends", lambda: {})
    assert not tune(recogniser, [1], threads=1).remembered
    assert tune(recogniser, [1], threads=1).remembered
    monkeypatch.setattr(tune_module, "installed_backends", lambda: {"onnxruntime-ep-nothing": "9"})
    situation = tune_module.situation_of(describe(recogniser), "auto", 1, None)
    assert situation.known_plans() == {}
    assert situation.why_unknown() == "the installed back ends or their versions have changed since it was tuned"
    with pytest.warns(RuntimeWarning, match="is tuned again: the installed back ends"):
        tuning = tune_module.tuning_for(describe(recogniser), threads=1)
    verdicts = [trial.verdict for trial in tuning.plans[1].trials if trial.setting.backend != "onnxruntime"]
    assert verdicts
    assert all("not installed" in verdict for verdict in verdicts)
    providers = tune_module.situation_of(describe(recogniser), "auto", 1, ["cpu"])
    assert providers.backends == {}  # the list says what is to be tried


def test_a_torn_entry_is_one_clear_line(recogniser: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Times(monkeypatch, lambda setting: 2e-3)
    monkeypatch.setattr(tune_module, "installed_backends", lambda: {})
    tune(recogniser, [1], threads=1)
    entry = next((tmp_path / "cache").glob("tune-*.json"))
    for torn in (entry.read_bytes()[:100], b'{"schema": 1}', b"[]", b"\xff"):
        entry.write_bytes(torn)
        with pytest.warns(RuntimeWarning, match="is tuned again: .*torn, of another version"):
            assert not tune_module.tuning_for(describe(recogniser), threads=1, seconds=0.01).remembered
    situation = tune_module.situation_of(describe(recogniser), "auto", 1, None)
    assert situation.known_plans()
    for field, words in (("machine", "the CPU or what it can do has changed"), ("onnxruntime", "version of ONNX Runtime has changed")):
        key = {**situation.key(), field: "another"}
        assert tune_module.cache.problem_of(key).startswith(words.removeprefix("the "), 4) or words in tune_module.cache.problem_of(key)


@needs_openvino
def test_no_time_left_keeps_the_default(recogniser: Path) -> None:
    plan = tune(recogniser, [1], threads=1, seconds=1e-3, remember=False).plans[1]
    assert plan.setting == dataclasses.replace(plan.setting, backend="onnxruntime", variant="")
    assert "no time left" in {trial.verdict for trial in plan.trials}
