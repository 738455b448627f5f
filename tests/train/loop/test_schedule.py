"""How many updates a run makes, what each reads, and the learning rate over any number of them."""

from __future__ import annotations

import pytest
import torch

from onnxferry.train.loop.schedule import Pace, one_cycle_schedule, pace, part_of, updates_per_epoch


@pytest.mark.parametrize(
    ("count", "made"),
    [
        (126, Pace(50, 16)),  # 180 photos: 8 updates an epoch
        (3500, Pace(18, 50)),  # as the preset has it
        (30, Pace(200, 16)),
        (3, Pace(400, 16)),
    ],
)
def test_small_sets_get_smaller_batches_and_more_epochs(count: int, made: Pace) -> None:
    assert pace(count, 18, 50, 400) == made
    assert made.epochs * updates_per_epoch(count, made.batch) >= 400


def test_what_the_user_gave_stays() -> None:
    assert pace(126, 3, 100, 400, epochs_given=True, batch_given=True) == Pace(3, 100)
    assert pace(126, 3, 50, 400, epochs_given=True) == Pace(3, 16)
    assert pace(126, 18, 100, 400, batch_given=True) == Pace(200, 100)


@pytest.mark.parametrize(("count", "batch"), [(126, 50), (126, 16), (130, 128), (5, 2), (3, 16)])
def test_every_image_is_read_once_an_epoch_in_even_batches(count: int, batch: int) -> None:
    steps = updates_per_epoch(count, batch)
    parts = [part_of(torch.arange(count), step, steps) for step in range(steps)]
    assert torch.equal(torch.cat(parts), torch.arange(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_processes_share_a_batch_evenly() -> None:
    shares = [part_of(torch.arange(9), 0, 2, rank, 3) for rank in range(3)]
    assert [share.tolist() for share in shares] == [[0, 1], [2, 3], [0, 1]]
    assert part_of(torch.arange(1), 0, 1, 1, 2).tolist() == [0]


@pytest.mark.parametrize("total", [1, 2, 3, 5, 10, 1000])
def test_any_number_of_updates_has_a_schedule(total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = one_cycle_schedule(optimizer, total, warm_up=0.2)
    rates = []
    for _ in range(total + 5):  # a few more than were planned, as after --resume with fewer epochs
        optimizer.step()
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
    assert all(0 < rate <= 0.4 for rate in rates)
    assert rates[0] == pytest.approx(0.04)
    assert rates[-1] == pytest.approx(4e-5)
