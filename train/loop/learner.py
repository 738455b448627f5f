"""The interface between a family and the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from onnxferry.train.loop.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_PARTS = {"train": "to train on", "validation": "to choose the epoch by", "test": "to test on"}


class Learner(ABC):
    """What the loop calls: ``setup`` builds the networks, ``step`` trains on a batch, ``checkpoint`` returns what is deployed."""

    family: str
    criterion: str = "loss"  # the validation metric by which the best checkpoint is chosen
    higher_is_better: bool = False
    tie_breaker: str = ""  # of equal ones, the checkpoint that has less of this validation metric

    def __init__(self, *, epochs: int, seed: int) -> None:
        self.epochs = epochs
        self.seed = seed

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """``config`` and ``data`` of the checkpoint, before there is a network."""

    def parts(self) -> dict[str, int]:
        """How many images, or bytes of text, are for training, validation and testing."""
        return {}

    def summary(self, what: str = "images") -> str:
        """What will be trained on and for how long, in one line."""
        parts, steps = self.parts(), self.steps_per_epoch()
        amounts = ", ".join(f"{parts[name]:,} {words}" for name, words in _PARTS.items() if name in parts)
        batch = getattr(getattr(self, "options", None), "batch", None)
        batches = f"batch {batch}, " if batch else ""
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs:,} epochs"
        return f"{what}: {amounts}; {batches}{epochs} of {steps:,} updates: {self.epochs * steps:,} updates"

    @abstractmethod
    def setup(self, fabric: Fabric, total_steps: int) -> None:
        """Build networks, optimizers and schedules, and set them up with ``fabric``. The random generator is already seeded."""

    @abstractmethod
    def steps_per_epoch(self) -> int: ...

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from step ``start`` on: a function of (seed, epoch) alone."""

    @abstractmethod
    def step(self, batch: Any) -> dict[str, Tensor]:
        """Forward, backward, optimizer and schedule. Returns scalars, which are averaged over the epoch; one is ``loss``."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics on the validation data, ``criterion`` among them; empty if there is none."""

    @abstractmethod
    def test(self) -> dict[str, float]:
        """Metrics on data that was used neither for training nor for choosing."""

    def baseline(self) -> dict[str, float]:
        """What simple models make of the same test data, for comparison."""
        return {}

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        """What a user should know of the result, each with what to do. ``metrics``: validation, test, baseline, epoch."""
        return []

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]: ...

    @abstractmethod
    def optimizers(self) -> dict[str, Any]: ...

    @abstractmethod
    def schedulers(self) -> dict[str, Any]: ...

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """What is deployed, in its present state: family, config, weights, data, examples. The loop adds metrics and provenance."""

    @abstractmethod
    def deploy(self, weights: Mapping[str, Tensor]) -> None:
        """Load a checkpoint's weights into the network that ``test`` uses."""

    def show(self, epoch: int, folder: Path) -> str:
        """After a validation: write an image into ``folder``, or return a line to print (a sample of text)."""
        return ""

    def extra_state(self) -> dict[str, Any]:
        """What else is needed to resume: tensors and plain containers (a carried recurrent state)."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        return None
