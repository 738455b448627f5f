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


class Learner(ABC):
    """What the loop calls: ``setup`` builds the networks, ``step`` trains on a batch, ``checkpoint`` returns what is deployed."""

    family: str
    criterion: str = "loss"  # the validation metric by which the best checkpoint is chosen
    higher_is_better: bool = False

    def __init__(self, *, epochs: int, seed: int) -> None:
        self.epochs = epochs
        self.seed = seed

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
