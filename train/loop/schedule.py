"""How many updates a run makes, which images each of them reads, and the learning rate over a run.

Epochs and batches follow from the size of the data where the user sets neither: a preset's numbers are for some thousands of images, and
with them 126 images would be trained on for 30 updates in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

UPDATES_PER_EPOCH = 8
"""Smallest number of updates an epoch is split into, as long as batches have at least SMALLEST_BATCH images."""


SMALLEST_BATCH = 16
"""Images: batch normalization measures them, and fewer make it noise."""


@dataclass(frozen=True)
class Pace:
    """Passes over the data, and images (or streams of text) per update."""

    epochs: int
    batch: int


def pace(count: int, epochs: int, batch: int, least_updates: int, *, epochs_given: bool = False, batch_given: bool = False) -> Pace:
    """A preset's ``epochs`` and ``batch``, made for large sets, for ``count`` images: at least ``least_updates`` updates.

    A small set gets smaller batches, then more epochs. What the user gave stays as it is.

        >>> pace(55_000, 30, 128, 600)
        Pace(epochs=30, batch=128)
        >>> pace(126, 30, 128, 600)  # 8 updates an epoch
        Pace(epochs=75, batch=16)
    """
    if not batch_given:
        batch = min(batch, max(SMALLEST_BATCH, count // UPDATES_PER_EPOCH))
    if not epochs_given:
        epochs = max(epochs, math.ceil(least_updates / updates_per_epoch(count, batch)))
    return Pace(epochs, batch)


def updates_per_epoch(count: int, batch: int) -> int:
    """The last batch counts though it is smaller: ceil(count / batch), at least 1."""
    return max(1, math.ceil(count / batch))


def part_of(order: Tensor, step: int, steps: int, rank: int = 0, world_size: int = 1) -> Tensor:
    """Of ``order`` int64 (n,), what update ``step`` of ``steps`` reads in process ``rank`` of ``world_size``.

    The updates are equally large to within one image, so none is of a few images only. Each process gets as many as the others: where
    they cannot be shared evenly, the first images are read by two.
    """
    begin, end = step * len(order) // steps, (step + 1) * len(order) // steps
    index = order[begin:end]
    share = max(1, math.ceil(len(index) / world_size))
    places = torch.arange(rank * share, (rank + 1) * share) % max(1, len(index))
    return index if world_size == 1 else index[places]


def one_cycle(done: float, warm_up: float = 0.05) -> float:
    """Share of the highest learning rate after the share ``done`` of a run: up from 0.1 to 1, down to 0.0001, on cosines.

    Smith and Topin 2017, arXiv 1708.07120. Of the share, so that any number of updates will do (torch's OneCycleLR divides by 0 for
    few), and a run that is resumed with other --epochs decays in time.
    """
    if done < warm_up:
        return 0.1 + 0.9 * (1 - math.cos(math.pi * done / warm_up)) / 2
    rest = min(1.0, (done - warm_up) / (1 - warm_up))
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * rest)) / 2


def one_cycle_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warm_up: float) -> torch.optim.lr_scheduler.LambdaLR:
    """``one_cycle`` for an optimizer whose learning rate is the highest."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step / max(1, total_steps), warm_up))
