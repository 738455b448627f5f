"""An engine that runs each batch size with the setting that tuning found fastest, in one or several sessions."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.artifact.variants import certified_variants
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.backends.choose import AnyEngine
from onnxferry.runtime.engine.batches import batch_axis
from onnxferry.runtime.engine.cuda.dlpack import DeviceArray
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.placement import Placement
from onnxferry.runtime.errors import InputError, OnnxFerryError, first_line
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.tuning.bound_run import BoundRun
from onnxferry.runtime.tuning.plan import Plan, Setting, Tuning
from onnxferry.runtime.tuning.plan_check import MAX_FILE, PlanCheck, is_due
from onnxferry.runtime.tuning.tune import SECONDS, open_as, tuning_for

_KNOWN_SIZES = 4096  # batch sizes whose setting is kept after the first look-up


_Run = Callable[[Mapping[str, np.ndarray], Sequence[str] | None], dict[str, np.ndarray]]


class TunedEngine:
    """Runs each batch size the way that tuning found fastest. Used as an :class:`Engine`; contract and path are the tuned file's.

    A batch goes to the setting of the tuned size that is nearest in ratio. Sessions are opened when a batch first needs them;
    that of the smallest tuned size at once, so that a file that cannot be opened fails here. ``device`` and the rest: as of
    :class:`Engine`, and as they were for :func:`tune`; ``limits`` only count for a ``tuning`` without ``files``.
    """

    def __init__(
        self,
        tuning: Tuning,
        *,
        device: str = "auto",
        providers: Sequence[ort.Provider] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.tuning = tuning if tuning.files else replace(tuning, files=_files(tuning.path, limits))
        self._asked_device, self._asked_providers = device, providers
        self._switch = threading.Lock()
        self._sessions: dict[Setting, AnyEngine] = {}
        self._ways: dict[Setting, _Way] = {}
        self._way_of_rows: dict[int, _Way] = {}
        self._is_closed = False
        model = self.tuning.files[""]
        self.path: Path | None = model.path
        self.contract: Contract | None = model.contract
        self.metadata: dict[str, str] = dict(model.summary.metadata)
        self.per_row: bool = model.per_row
        self._checks: dict[Setting, list[PlanCheck]] = {}
        smallest = next(iter(tuning.plans.values()))
        main = self._engine(smallest.setting)
        self.threads: int = main.threads
        self.graph_level: str = main.graph_level
        self.placement: tuple[Placement, ...] = main.placement
        self.device: str = main.device
        self.device_reason: str = main.device_reason
        self.providers: tuple[str, ...] = main.providers
        # A session for fixed sizes knows only those; the file has them open.
        of: Any = model.summary if smallest.setting.sizes else main
        self.inputs: tuple[TensorSpec, ...] = of.inputs
        self.optional_inputs: tuple[TensorSpec, ...] = of.optional_inputs
        self.outputs: tuple[TensorSpec, ...] = of.outputs
        self._axis = batch_axis(self.inputs, self.optional_inputs)
        if tuning.keep is not None and self.device == "cpu" and model.summary.weight_bytes <= MAX_FILE:
            for plan in filter(is_due, tuning.plans.values()):
                self._checks.setdefault(plan.setting, []).append(self._check_of(plan))

    @property
    def best_batch(self) -> int:
        """The batch size to group many inputs by: of those tuned, the one with the least time per row."""
        return self.tuning.best_batch

    def setting(self, rows: int) -> Setting:
        """The setting for a batch of that many rows."""
        return self._way_for_rows(rows).setting

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        way = self._way_for(feeds)
        for check in way.checks:
            check.seen(feeds)
        if timeout is None:
            return (way.run or way.opened(self._engine(way.setting)))(feeds, outputs)
        return self._engine(way.setting).run(feeds, outputs, timeout=timeout)

    def run_into(self, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, timeout: float | None = None) -> None:
        self._engine(self.setting_for(feeds)).run_into(feeds, outputs, timeout=timeout)

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return self._engine(next(iter(self.tuning.plans.values())).setting).empty(shape, dtype)  # all of them run on one device

    async def arun(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        setting = self.setting_for(feeds)
        engine = self._sessions.get(setting)
        if engine is None:  # opening a session takes time, and must not block the event loop
            engine = await asyncio.to_thread(self._engine, setting)
        return await engine.arun(feeds, outputs, timeout=timeout)

    def run_dlpack(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, DeviceArray]:
        array: Any = feeds.get(self._axis.inputs[0]) if self._axis is not None and isinstance(feeds, Mapping) else None
        shape = tuple(getattr(array, "shape", ()))  # of any framework's array
        setting = self.setting(int(shape[0]) if shape else 1)
        engine = self._engine(replace(setting, sizes=()) if setting.sizes else setting)
        if not isinstance(engine, Engine):  # arrays of other frameworks are ONNX Runtime's alone
            engine = self._engine(self._plain(setting))
        if not isinstance(engine, Engine):
            raise TypeError("the default setting is not of ONNX Runtime")
        return engine.run_dlpack(feeds, outputs)

    def stop_checks(self) -> None:
        """Plans are not checked in use from now on: for what measures other programs in the same process."""
        checks, self._checks = self._checks, {}
        for way in list(self._ways.values()):
            way.checks = ()
        for check in (each for some in checks.values() for each in some):
            check.close()

    def close(self) -> None:
        with self._switch:
            self._is_closed = True
            engines = list(self._sessions.values())
            self._sessions.clear()
            self.stop_checks()
            self._ways, self._way_of_rows = {}, {}
        for engine in engines:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("an open engine cannot be pickled or copied: pass its path, and open it in each process")

    def __repr__(self) -> str:
        plans = ", ".join(f"{size}: {plan.setting.variant or 'as it is'}" for size, plan in self.tuning.plans.items())
        return f"TunedEngine({self.path}, {'closed' if self._is_closed else f'device={self.device!r}'}, batches {{{plans}}})"

    def setting_for(self, feeds: Mapping[str, np.ndarray]) -> Setting:
        """The setting for these feeds: by their number of rows; one with fixed sizes only if the feeds have them."""
        return self._way_for(feeds).setting

    def _way_for(self, feeds: Mapping[str, np.ndarray]) -> _Way:
        # Invalid feeds, whose rows cannot be counted, go to the session for one row, which reports the error.
        axis = self._axis
        rows = axis.rows(feeds) if axis is not None and (type(feeds) is dict or isinstance(feeds, Mapping)) else 1
        way = self._way_of_rows.get(rows) or self._way_for_rows(rows)
        if way.foreign and not all(getattr(array, "size", 1) for array in feeds.values()):
            return self._way_of(self._plain(way.setting))  # for inputs without elements, OpenVINO gives outputs of other shapes
        return way if way.fixed is None or way.fixed.fits(feeds) else self._way_of(way.fixed.otherwise)

    def _way_for_rows(self, rows: int) -> _Way:
        ways = self._way_of_rows  # read before the tuning, which a check may change: what it then finds is kept nowhere
        way = ways.get(rows)
        if way is None:
            found = self.tuning.nearest(rows).setting
            if rows != 1 and found.variant in self.tuning.per_row:  # its rows would change each other's results
                others = {size: plan for size, plan in self.tuning.plans.items() if plan.setting.variant not in self.tuning.per_row}
                found = replace(self.tuning, plans=others).nearest(rows).setting if others else self._plain(found)
            way = self._way_of(found)
            if len(ways) < _KNOWN_SIZES:
                ways[rows] = way
        return way

    def _way_of(self, setting: Setting) -> _Way:
        return self._ways.get(setting) or self._ways.setdefault(setting, _Way(setting, self.inputs, self._checks.get(setting, ())))

    def _check_of(self, plan: Plan) -> PlanCheck:
        default = plan.measured[-1].settings[0]

        def open_default() -> AnyEngine:
            return open_as(default, self.tuning.files[default.variant], device=self._asked_device, providers=self._asked_providers)

        def run(feeds: Mapping[str, np.ndarray]) -> object:
            way = self._way_of(plan.setting)
            return (way.run or way.opened(self._engine(way.setting)))(feeds, None)

        def is_for(feeds: Mapping[str, np.ndarray]) -> bool:
            return self.tuning.nearest(self._axis.rows(feeds) if self._axis is not None else 1).batch == plan.batch

        return PlanCheck(plan, run, open_default, self._decided, is_for)

    def _decided(self, plan: Plan, default: AnyEngine | None) -> None:
        """What a check found. One that gave way is not used any more, unless that would change the texts of given seeds meanwhile."""
        if self.tuning.keep is not None:
            self.tuning.keep(plan)
        known = self.tuning.plans[plan.batch].setting
        if default is None or (self.tuning.text and known.variant):
            if default is not None:
                default.close()
            return
        with self._switch:
            if self._is_closed or plan.setting in self._sessions:
                default.close()
            else:
                self._sessions[plan.setting] = default
            self.tuning = replace(self.tuning, plans={**self.tuning.plans, plan.batch: plan})
            self._way_of_rows = {}

    def _plain(self, setting: Setting) -> Setting:
        return replace(setting, variant="", graph_level="all", binding="run", sizes=(), backend=ort.ONNXRUNTIME)

    def _engine(self, setting: Setting) -> AnyEngine:
        engine = self._sessions.get(setting)
        if engine is not None:
            return engine
        with self._switch:
            if self._is_closed:
                raise InputError(f"{self.path} is closed; open it again with load(…, tune=True)")
            engine = self._sessions.get(setting) or self._opened(setting)
            self._sessions[setting] = engine
        return engine

    def _opened(self, setting: Setting) -> AnyEngine:
        """Settings that differ only in their binding share a session. The default runs, with a warning, where a back end or a variant is
        not what it was when it was tuned."""
        for other, engine in self._sessions.items():
            if replace(other, binding=setting.binding) == setting:
                return engine
        try:
            return open_as(setting, self.tuning.files[setting.variant], device=self._asked_device, providers=self._asked_providers)
        except OnnxFerryError as error:
            plain = self._plain(setting)
            if plain == setting:
                raise
            words = f"{self.path} runs with its default setting, as the tuned one cannot be opened: {first_line(error)}"
            warnings.warn(words, RuntimeWarning, stacklevel=4)
            return self._sessions.get(plain) or open_as(
                plain, self.tuning.files[""], device=self._asked_device, providers=self._asked_providers
            )


class _Way:
    """What a run with one setting needs: looked up once, as a small model's run takes no longer than a few look-ups."""

    __slots__ = ("checks", "fixed", "foreign", "run", "setting")

    def __init__(self, setting: Setting, inputs: Sequence[TensorSpec], checks: Sequence[PlanCheck]) -> None:
        self.setting = setting
        self.checks = checks
        self.foreign = setting.backend != ort.ONNXRUNTIME
        self.fixed = _Fixed(setting, inputs) if setting.sizes else None
        self.run: _Run | None = None  # once its session is open

    def opened(self, engine: AnyEngine) -> _Run:
        """The run, on the setting's session."""
        self.run = BoundRun(engine).run if self.setting.binding == "run_into" else engine.run
        return self.run


class _Fixed:
    """Which feeds fit a session with fixed sizes, and the setting for all others."""

    def __init__(self, setting: Setting, inputs: Sequence[TensorSpec]) -> None:
        sizes: dict[Any, int] = dict(setting.sizes)
        self.otherwise = replace(setting, sizes=())
        shapes = [(spec.name, tuple(sizes.get(size, size) for size in spec.shape)) for spec in inputs if spec.ranked]
        self.shapes = [(name, shape) for name, shape in shapes if None not in shape]
        self.open = [(name, shape) for name, shape in shapes if None in shape]  # an axis without a name stays dynamic

    def fits(self, feeds: Any) -> bool:
        try:
            for name, shape in self.shapes:
                if feeds[name].shape != shape:
                    return False
            return not self.open or all(_matches(feeds[name].shape, shape) for name, shape in self.open)
        except (AttributeError, KeyError, TypeError):  # not arrays, or one is missing: the session without fixed sizes reports it
            return False


def _matches(shape: tuple[int, ...], declared: tuple[Any, ...]) -> bool:
    return len(shape) == len(declared) and all(want is None or want == size for want, size in zip(declared, shape, strict=True))


def _files(path: Path, limits: Limits | None) -> dict[str, Description]:
    model = describe(path, limits)
    return {"": model, **{variant.tag: variant.file for variant in certified_variants(model)}}


def open_tuned(
    model: Description,
    *,
    device: str = "auto",
    threads: int | None = None,
    providers: Sequence[ort.Provider] | None = None,
    seconds: float = SECONDS,
) -> TunedEngine:
    """Opens a model the way it was tuned, for whatever batch sizes; tunes it first if it was not. Errors as of :func:`tune`."""
    tuning = tuning_for(model, device=device, threads=threads, providers=providers, seconds=seconds)
    return TunedEngine(tuning, device=device, providers=providers)
