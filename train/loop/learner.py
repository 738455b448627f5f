"""What fit needs of a family."""

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
    """What the loop needs of a family. ``setup`` builds, ``step`` learns, ``checkpoint`` says what is deployed."""

    family: str
    criterion: str = "loss"  # the validation metric that chooses the best checkpoint
    higher_is_better: bool = False

    def __init__(self, *, epochs: int, seed: int) -> None:
        self.epochs = epochs
        self.seed = seed

    @abstractmethod
    def setup(self, fabric: Fabric, total_steps: int) -> None:
        """Build networks, optimisers and schedules, and hand them to ``fabric``. The generator is seeded before."""

    @abstractmethod
    def steps_per_epoch(self) -> int: ...

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from step ``start`` on: a function of (seed, epoch) and of nothing else."""

    @abstractmethod
    def step(self, batch: Any) -> dict[str, Tensor]:
        """Forward, backward, optimiser and schedule. Returns scalars, which are averaged over the epoch; ``loss`` is one."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics on held-out data, ``criterion`` among them; empty where nothing is held out."""

    @abstractmethod
    def test(self) -> dict[str, float]:
        """Metrics on data that neither training nor choosing has seen."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]: ...

    @abstractmethod
    def optimizers(self) -> dict[str, Any]: ...

    @abstractmethod
    def schedulers(self) -> dict[str, Any]: ...

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """What is deployed, as it is now: family, config, weights, data, examples. The loop adds metrics and provenance."""

    @abstractmethod
    def deploy(self, weights: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's weights where ``test`` uses them."""

    def show(self, epoch: int, folder: Path) -> str:
        """After a validation: write an image into ``folder``, or return a line worth printing (a sample of text)."""
        return ""

    def extra_state(self) -> dict[str, Any]:
        """What else a continuation needs: tensors and plain containers (a carried recurrent state)."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        return None
