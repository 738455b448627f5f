"""The parts of a bulk prediction on a Ray cluster: an actor a CPU holds the model, and the caller writes the parts that come back.

Images and the model's file are read where the actors run: on several machines their paths have to be the same on all of them.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from onnxferry.runtime.bulk.parts import PartOptions, PartPredictor
from onnxferry.runtime.errors import ArtifactError, InputError, MissingExtraError, OnnxFerryError, first_line

RETRIES = 3
"""Times that a part is given out again where its actor, or the machine of it, has died: it may be what kills them."""


def run_parts(pieces: Mapping[int, Sequence[str]], options: PartOptions, actors: int | None, done: Callable[[int, str], None]) -> None:
    """Predicts every piece and calls ``done`` with its number and the text of its part, in the order in which they are ready.

    ``actors``: None for one a CPU of the cluster but one, which the rest of Ray needs: with all of them taken it waits for ever. The
    cluster is that of RAY_ADDRESS, or one that is started on this machine and ends with the call.

    Raises what opening the model raises, ArtifactError where actors die again and again, InputError where the cluster cannot be reached or
    has too few CPUs, MissingExtraError without Ray.
    """
    with _cluster() as ray:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        count = min(actors or max(1, cpus - 1), max(1, len(pieces)))
        if count > cpus:
            raise InputError(f"the Ray cluster has {cpus} CPUs, fewer than the {count} processes that were asked for; give fewer")
        # A CPU each: fractions put several models on one CPU, or leave none for the tasks beside them.
        remote = ray.remote(num_cpus=1)(_Actor)
        pool = [remote.remote(options) for _ in range(count)]
        try:
            _spread(ray, pool, pieces, done)
        finally:
            for actor in pool:
                ray.kill(actor)


class _Actor:
    """Holds the model. An error of ours is a result: Ray would wrap it, and try again."""

    def __init__(self, options: PartOptions) -> None:
        self._predictor: PartPredictor | OnnxFerryError
        try:
            self._predictor = PartPredictor(options)
        except OnnxFerryError as error:
            self._predictor = error

    def text(self, names: Sequence[str]) -> str | OnnxFerryError:
        if isinstance(self._predictor, OnnxFerryError):
            return self._predictor
        return self._predictor.text(names)


def _spread(ray: Any, pool: Sequence[Any], pieces: Mapping[int, Sequence[str]], done: Callable[[int, str], None]) -> None:
    """Each actor has two pieces at a time. Those of one that died go to the others: another actor might wait for a CPU for ever."""
    waiting: dict[Any, tuple[int, Any]] = {}
    left = deque(pieces)
    tries: Counter[int] = Counter()
    alive = list(pool)

    def give(actor: Any, count: int) -> None:
        while left and sum(holder is actor for _, holder in waiting.values()) < count:  # memory does not grow with the inputs
            number = left.popleft()
            tries[number] += 1
            waiting[actor.text.remote(list(pieces[number]))] = number, actor

    while left or waiting:
        for actor in alive:
            give(actor, 2)
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        number, actor = waiting.pop(ready)
        try:
            text = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            alive = [each for each in alive if each is not actor]
            left.appendleft(number)
            if not alive or tries[number] > RETRIES:
                raise ArtifactError(
                    "the processes of the Ray cluster died while they predicted (out of memory, or their machines are gone); what is done "
                    "is kept: run it again to go on"
                ) from error
            continue
        except ray.exceptions.RayError as error:
            raise ArtifactError(f"a part could not be predicted on the Ray cluster: {first_line(error)}; run it again to go on") from error
        if isinstance(text, OnnxFerryError):
            raise text
        done(number, text)


@contextmanager
def _cluster() -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use otherwise
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "predicting on a Ray cluster") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS") or None, log_to_driver=False, configure_logging=False, include_dashboard=None)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise InputError(f"the Ray cluster cannot be used: {first_line(error)}; check RAY_ADDRESS") from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
