"""The training loop of all families: what is trained is a ``Learner``, and Fabric decides where it runs.

A run is a folder:

    run.json        the exact command, the configuration, the data's name and hash, the versions
    metrics.jsonl   a line per epoch: training and validation metrics, learning rates, seconds; the last one has the test
    curves.png      the same as an image
    best.pt         the checkpoint (checkpoint.py) with the best validation, or the last if there is no validation
    last.pt         everything that is needed to resume, saved every epoch and every ``save_seconds`` within one

A run that was interrupted, by Ctrl-C or a kill, resumes bit for bit: an epoch's order and randomness are functions of
(seed, epoch), and ``last.pt`` holds the generator's state and the step within the epoch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError, TrainingError, first_line
from onnxferry.runtime.files import write_json, write_text_whole, written_whole
from onnxferry.runtime.formats import json_safe
from onnxferry.train.loop.checkpoint import load_checkpoint, load_plain, save_atomically
from onnxferry.train.loop.fabric_words import quiet
from onnxferry.train.loop.folder import check_same_run, one_run_at_a_time, record_of
from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.saved_state import check_alike, check_moments
from onnxferry.train.options import option


class Observer:
    """Callbacks for progress bars; these do nothing."""

    def began(self, learner: Learner) -> None: ...

    def started(self, learner: Learner, epoch: int, steps: int) -> None: ...

    def stepped(self, epoch: int, step: int, means: Mapping[str, float]) -> None: ...

    def validated(self, record: Mapping[str, Any], best: bool, shown: str) -> None: ...

    def tested(self, metrics: Mapping[str, float]) -> None: ...


SECONDS_BETWEEN_CURVES = 10.0
"""An image of the curves takes half a second, and an epoch of few images may take less."""


DEVICES = ("auto", "cpu", "cuda")


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Fabric's names: float32 throughout, or networks computed in 16 bits with float32 weights."""


def one_of(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


@dataclass(frozen=True)
class LoopConfig:
    """Where and how a run is made. Raises InputError for an unknown device or precision."""

    out: Path
    command: str = ""
    device: str = option("auto", one_of(DEVICES))
    # DDP: gloo on the CPU, nccl on CUDA.
    devices: int = option(1, "processes, each on a device of its own", min=1)
    precision: str = option("32-true", f"{one_of(PRECISIONS)} (on CUDA)")
    resume: bool = option(False, "continue the run in --out where it was cut off")
    save_seconds: float = option(60.0, "seconds between two saves within an epoch", min=0.0)
    patience: int = option(0, "epochs without a better validation after which training ends; 0: all epochs are made", min=0)

    def __post_init__(self) -> None:
        for name, value, known in (("device", self.device, DEVICES), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}; expected {one_of(known)}")


class InterruptedTrainingError(TrainingError):
    """Stopped by Ctrl-C or SIGTERM; everything is saved."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def fit(learner: Learner, config: LoopConfig, observer: Observer | None = None) -> dict[str, Any]:
    """Train ``learner`` into ``config.out``. Returns {"validation": …, "test": …, "epoch": best epoch, "seconds": …}.

    Raises TrainingError if the loss is not finite (the last good checkpoint is kept), if there is nothing to resume, or if
    the folder already holds a run and ``resume`` is off; InterruptedTrainingError after a signal.
    """
    observer = observer or Observer()
    _check_device(config)
    last = config.out / "last.pt"
    if config.resume and not last.exists():
        raise TrainingError(f"nothing to resume in {config.out}: no last.pt there; start the run without --resume")
    if not config.resume and last.exists():
        raise TrainingError(f"{config.out} already holds a run; continue it with --resume, or name another folder with --out")
    if config.patience and not learner.parts().get("validation", 1):
        raise InputError("--patience needs a validation part: leave out --validation 0, or --patience")
    # Of several processes, the first one starts the others.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    folder: AbstractContextManager[None] = one_run_at_a_time(config.out) if first else nullcontext()
    with folder, _deferred_signals() as stop:
        return _fit(learner, config, observer, stop)


def _fit(learner: Learner, config: LoopConfig, observer: Observer, stop: _Stop) -> dict[str, Any]:
    fabric = _fabric(config)
    out = config.out
    how = {"devices": config.devices, "precision": config.precision}
    if config.resume:
        check_same_run(out, learner, how)
    fabric.seed_everything(learner.seed, verbose=False)
    observer.began(learner)
    learner.setup(fabric, total_steps=learner.steps_per_epoch() * learner.epochs)
    state = _State()
    if config.resume:
        state = _restore(learner, fabric, load_plain(out / "last.pt"))
    elif fabric.is_global_zero:
        write_json(
            out / "run.json", {"command": config.command, **record_of(learner), "device": config.device, **how, "versions": versions()}
        )
        (out / "metrics.jsonl").unlink(missing_ok=True)
    if fabric.is_global_zero:
        _truncate_metrics(out / "metrics.jsonl", state.epoch)
    while state.epoch < learner.epochs and not _has_waited(config, state):
        _one_epoch(learner, fabric, config, state, observer, stop)
    result = _finish(learner, fabric, out, state)
    observer.tested(result["test"])
    return result


def _has_waited(config: LoopConfig, state: _State) -> bool:
    """Early stopping: the validation has not become better for ``patience`` epochs."""
    return bool(config.patience and state.epoch and state.epoch - state.best_epoch >= config.patience)


@dataclass
class _State:
    """The state of a run: the current epoch, its steps that are done, the sums of their metrics, and the best result so far."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    best: float | None = None
    tie: float | None = None  # the best one's tie breaker
    best_epoch: int = -1
    elapsed: float = 0.0  # of the whole run, in earlier processes too
    drawn: float = 0.0  # elapsed when the curves were drawn last


def _check_device(config: LoopConfig) -> None:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("CUDA was asked for, and this torch finds no CUDA device; give --device cpu, or see: onnxferry doctor")
    if config.precision == "16-mixed" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise TrainingError("16-mixed is for CUDA, and this run is on the CPU; give --precision bf16-mixed, or 32-true")


def _fabric(config: LoopConfig) -> Fabric:
    strategy = "ddp" if config.devices > 1 else "auto"
    fabric = Fabric(accelerator=config.device, devices=config.devices, strategy=strategy, precision=config.precision)  # type: ignore[arg-type]
    with quiet():
        fabric.launch()
    return fabric


def _one_epoch(learner: Learner, fabric: Fabric, config: LoopConfig, state: _State, observer: Observer, stop: _Stop) -> None:
    steps = learner.steps_per_epoch()
    epoch = state.epoch
    if state.step == 0:
        # Each process draws its own augmentation and dropout; the order of the data is shared.
        torch.manual_seed((learner.seed * 1_000_003 + epoch) * 4099 + fabric.global_rank)
        state.sums, state.seconds = {}, 0.0
    for module in learner.modules().values():
        module.train()
    observer.started(learner, epoch, steps)
    begun = saved = time.monotonic()
    before = state.seconds
    pending: list[dict[str, Tensor]] = []
    for batch in learner.batches(epoch, state.step):
        pending.append(learner.step(batch))
        state.step += 1
        if len(pending) >= 10 or state.step == steps:
            # Reading a value waits for the device, so it is done every ten steps.
            _add(state.sums, pending, fabric)
            means = {name: total / state.step for name, total in state.sums.items()}
            if not math.isfinite(means["loss"]):
                raise TrainingError(
                    f"the loss is {means['loss']} in epoch {epoch + 1}, step {state.step}: training stopped, "
                    f"the best checkpoint so far is kept in {config.out}; try a lower --learning-rate"
                )
            observer.stepped(epoch, state.step, means)
            now = time.monotonic()
            state.seconds = before + now - begun
            if stop.is_set() or (now - saved > config.save_seconds and state.step < steps):
                _save(learner, fabric, config.out / "last.pt", state)
                saved = now
            if stop.is_set():
                again = f"{config.command} --resume" if config.command else "--resume"
                raise InterruptedTrainingError(
                    f"stopped in epoch {epoch + 1}, update {state.step} of {steps}; everything is saved: continue with: {again}",
                    stop.number,
                )
    _after_epoch(learner, fabric, config, state, observer)


def _add(sums: dict[str, float], pending: list[dict[str, Tensor]], fabric: Fabric) -> None:
    for name in pending[0]:
        total = torch.stack([metrics[name].detach().float() for metrics in pending]).sum()
        if fabric.world_size > 1:
            total = fabric.all_reduce(total, reduce_op="mean")  # type: ignore[assignment]
        sums[name] = sums.get(name, 0.0) + float(total)
    pending.clear()


def _after_epoch(learner: Learner, fabric: Fabric, config: LoopConfig, state: _State, observer: Observer) -> None:
    begun = time.monotonic()
    for module in learner.modules().values():
        module.eval()
    validation = learner.validate()
    score = validation.get(learner.criterion)
    for name in (learner.criterion, "loss"):  # of a loss that is no number, the accuracy is one all the same
        if not math.isfinite(value := validation.get(name, 0.0)):
            raise TrainingError(
                f"the validation's {name} is {value} after epoch {state.epoch + 1}: training stopped, the best checkpoint so far is kept; "
                "try a lower --learning-rate"
            )
    tie = validation.get(learner.tie_breaker)
    better = score is None or state.best is None or (score > state.best if learner.higher_is_better else score < state.best)
    if not better and score == state.best and tie is not None and state.tie is not None:
        better = tie < state.tie
    seconds = round(state.seconds + time.monotonic() - begun, 2)
    record = {
        "epoch": state.epoch + 1,
        "train": {name: total / state.step for name, total in state.sums.items()},
        "validation": validation,
        "learning_rate": {name: s.get_last_lr()[0] for name, s in learner.schedulers().items()},
        "seconds": seconds,
        "best": better,
    }
    state.elapsed += seconds
    if better:
        state.best, state.tie, state.best_epoch = score, tie, state.epoch + 1
    shown = ""
    if fabric.is_global_zero:
        if better:
            checkpoint = learner.checkpoint()
            dataclasses.replace(
                checkpoint,
                metrics={**checkpoint.metrics, "epoch": state.epoch + 1, "validation": validation},
                provenance={"command": config.command, "seed": learner.seed, **versions()},
            ).save(config.out / "best.pt")
        with (config.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(json_safe(record), allow_nan=False) + "\n")
        if state.elapsed - state.drawn > SECONDS_BETWEEN_CURVES:
            draw_curves(config.out)
            state.drawn = state.elapsed
        shown = learner.show(state.epoch + 1, config.out)
    state.epoch, state.step, state.sums, state.seconds = state.epoch + 1, 0, {}, 0.0
    _save(learner, fabric, config.out / "last.pt", state)
    observer.validated(record, better, shown)


def _finish(learner: Learner, fabric: Fabric, out: Path, state: _State) -> dict[str, Any]:
    """Test the checkpoint that was chosen. Writes the metrics into best.pt and metrics.jsonl."""
    for module in learner.modules().values():
        module.eval()
    load_checkpoint(out / "best.pt", learner.family)  # what another program left there is refused
    chosen = load_plain(out / "best.pt")
    try:
        learner.deploy(chosen["weights"])
    except (RuntimeError, KeyError) as error:
        raise TrainingError(f"{out / 'best.pt'} is of another network ({first_line(error)}): train again, with another --out") from error
    test = learner.test()
    metrics = {**chosen["metrics"], "test": test}
    if baseline := learner.baseline():
        metrics["baseline"] = baseline
    warnings = [*learner.warnings(metrics), *still_improving(learner, _records(out / "metrics.jsonl"))]
    if warnings:
        metrics["warnings"] = warnings
    if fabric.is_global_zero:
        save_atomically({**chosen, "metrics": metrics}, out / "best.pt")
        draw_curves(out)
        _truncate_metrics(out / "metrics.jsonl", learner.epochs)
        extra = {name: metrics[name] for name in ("baseline", "warnings") if name in metrics}
        with (out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(json_safe({"test": test, "epoch": state.best_epoch, **extra}), allow_nan=False) + "\n")
    fabric.barrier()
    return {**metrics, "seconds": round(state.elapsed, 1)}


def _save(learner: Learner, fabric: Fabric, path: Path, state: _State) -> None:
    if fabric.world_size > 1:
        gathered = fabric.all_gather(torch.get_rng_state())
        generators = torch.as_tensor(gathered).reshape(fabric.world_size, -1).cpu()
    else:
        generators = torch.get_rng_state()[None]
    content = {
        "onnxferry": "run",
        "family": learner.family,
        "state": dataclasses.asdict(state),
        "modules": {name: _bare(module).state_dict() for name, module in learner.modules().items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in learner.optimizers().items()},
        "schedulers": {name: scheduler.state_dict() for name, scheduler in learner.schedulers().items()},
        "extra": learner.extra_state(),
        "precision": fabric.strategy.precision.state_dict(),  # 16-mixed: the scale of the loss, which rounding depends on
        "generators": generators,
        "cuda": torch.cuda.get_rng_state() if fabric.device.type == "cuda" else None,
    }
    if fabric.is_global_zero:
        save_atomically(content, path)
    fabric.barrier()


_UNFIT = (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError, OverflowError)
"""What torch raises for a state that is of another run, or of none."""


def _restore(learner: Learner, fabric: Fabric, content: dict[str, Any]) -> _State:
    if content.get("onnxferry") != "run" or content.get("family") != learner.family:
        raise TrainingError(f"last.pt is of the family {content.get('family')!r}, not {learner.family!r}: name another --out")
    try:
        for name, module in learner.modules().items():
            _bare(module).load_state_dict(content["modules"][name])
        for name, optimizer in learner.optimizers().items():
            check_alike("param_groups", optimizer.state_dict()["param_groups"], content["optimizers"][name]["param_groups"])
            optimizer.load_state_dict(content["optimizers"][name])
            check_moments(optimizer)
        for name, scheduler in learner.schedulers().items():
            check_alike(name, scheduler.state_dict(), content["schedulers"][name])
            scheduler.load_state_dict(content["schedulers"][name])
        check_alike("extra", learner.extra_state(), content["extra"])
        learner.load_extra_state(content["extra"])
        if content.get("precision"):  # empty without a scaler, and absent in earlier files
            fabric.strategy.precision.load_state_dict(content["precision"])
        if len(content["generators"]) != fabric.world_size:
            raise TrainingError(f"the run was made on {len(content['generators'])} devices: resume it with as many (--devices)")
        torch.set_rng_state(content["generators"][fabric.global_rank])
        if content["cuda"] is not None and fabric.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda"])
        saved = content["state"]
        check_alike("state", dataclasses.asdict(_State()) | {"sums": None, "best": None}, saved)
        check_alike("sums", dict.fromkeys(saved["sums"], 0.0), saved["sums"])
        check_alike("best", 0.0, saved["best"])
        check_alike("tie", 0.0, saved["tie"])
        state = _State(**saved)
        if not (0 <= state.epoch <= learner.epochs and 0 <= state.step <= learner.steps_per_epoch()):
            raise ValueError(f"it is in epoch {state.epoch + 1}, step {state.step}")
        return state
    except _UNFIT as error:
        reason = first_line(error)
        raise TrainingError(f"last.pt does not fit these options ({reason}): resume with the command in run.json plus --resume") from error


def _bare(module: nn.Module) -> nn.Module:
    """Without Fabric's and DDP's wrappers, so that a file does not depend on the number of devices."""
    while hasattr(module, "module") and type(module).__name__ in ("_FabricModule", "DistributedDataParallel"):
        module = module.module  # type: ignore[assignment]
    return module


class _Stop(threading.Event):
    """Set by a signal; ``number``: which."""

    number: int = signal.SIGINT


@contextmanager
def _deferred_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM set the event, which is checked between two steps, where the state is consistent."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _: object) -> None:
        stop.number = number
        stop.set()

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def versions() -> dict[str, str]:
    return {"torch": str(torch.__version__), "python": platform.python_version(), "platform": platform.system()}


def _truncate_metrics(path: Path, epochs: int) -> None:
    """Keep the lines of the first ``epochs`` epochs: what a killed process wrote after its last save is computed again.

    Its last line may be incomplete, and is then not one of an epoch that was saved.
    """
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (record := _record(line)) and record["epoch"] <= epochs]
        write_text_whole(path, "".join(line + "\n" for line in kept))


def _record(line: str) -> dict[str, Any]:
    """A line of metrics.jsonl; empty if the line is incomplete, or none that the loop wrote of an epoch."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        return {}
    return record if all(isinstance(record.get(part), dict) for part in ("train", "validation")) else {}


def _records(path: Path) -> list[dict[str, Any]]:
    """Of each epoch, in order."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [record for line in lines if "train" in (record := _record(line))]


def still_improving(learner: Learner, records: list[dict[str, Any]]) -> list[str]:
    """A warning if the last epoch was the best, by more than 1 % of what the first nine tenths had reached."""
    scores = [record["validation"].get(learner.criterion) for record in records]
    if len(scores) != learner.epochs or not all(isinstance(score, int | float) for score in scores):
        return []
    errors = [1 - score if learner.higher_is_better else score for score in scores]
    earlier = errors[: max(1, len(errors) * 9 // 10)] if len(errors) > 1 else []
    if errors[-1] > 0 and (not earlier or (errors[-1] <= min(errors) and errors[-1] < 0.99 * min(earlier))):
        return [f"the last epoch was the best, so training longer would give more: --epochs {2 * learner.epochs}"]
    return []


def draw_curves(out: Path) -> None:
    """curves.png from metrics.jsonl: one panel per metric, training and validation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = _records(out / "metrics.jsonl")
    if not records:
        return
    names = [n for n in dict.fromkeys([*records[0]["train"], *records[0]["validation"]]) if n != "n"]
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for column, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), column + 1)
        for part in ("train", "validation"):
            points = [(r["epoch"], r[part][name]) for r in records if isinstance(r[part].get(name), int | float)]
            if points:
                axes.plot(*zip(*points, strict=True), label=part, marker=".")
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend()
    with written_whole(out / "curves.png") as image:
        figure.savefig(image, dpi=100)
