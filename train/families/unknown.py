"""Whether an image is of any class at all: a small head beside a trained recogniser.

A softmax must share its certainty among the classes, whatever it is shown. This head looks at the recogniser's last feature map and answers
with the probability that the image is of none of them. It is trained after the recogniser, whose weights stay as they are, on the training
images and on others that are of no class (outlier exposure: D. Hendrycks, M. Mazeika and T. Dietterich 2019, arXiv 1812.04606). The
threshold is then set on images that were trained on by neither: at most ``REFUSED`` of them lie above it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.train.loop.schedule import one_cycle_schedule

REFUSED = 0.0075
"""Share of the validation images, which are all of some class, that lie above the threshold."""


UPDATES = 2000
BATCH = 256  # half of them of a class


class UnknownHead(nn.Module):
    """The feature maps of a recogniser's second and last stage → logits float32 (batch,): above 0, more likely of no class than of one.

    It sees the finer maps too, and where a feature stands, which the recogniser's average over the last maps forgets.
    ``channels``: of the last stage, which has twice as many as the second; ``side``: of the last stage's maps.
    """

    INNER, HIDDEN = 24, 48

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels // 2, self.INNER, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(channels, self.INNER, 1)
        self.both = nn.Conv2d(2 * self.INNER, 16, 3, padding=1)
        self.placed = nn.Linear(16 * side * side, self.HIDDEN)
        self.pooled = nn.Linear(2 * channels, self.HIDDEN)
        self.out = nn.Linear(self.HIDDEN, 1)

    def forward(self, middle: Tensor, last: Tensor) -> Tensor:
        both = F.relu(self.both(torch.cat([F.relu(self.fine(middle)), F.relu(self.coarse(last))], dim=1)))
        pooled = self.pooled(torch.cat([last.mean(dim=(2, 3)), last.amax(dim=(2, 3))], dim=1))
        logits: Tensor = self.out(F.relu(self.placed(both.flatten(1)) + pooled))[:, 0]
        return logits


@dataclass(frozen=True, eq=False)
class Fitted:
    head: UnknownHead
    threshold: float  # probability above which an image is taken to be of no class


def fit_unknown(
    maps: Callable[[Tensor], tuple[Tensor, Tensor]],
    known: Callable[[Tensor], Tensor],
    others: Callable[[Tensor], Tensor],
    counts: tuple[int, int],
    held_out: Tensor,
    *,
    updates: int = UPDATES,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Fitted:
    """Train a head, and set its threshold.

    ``maps``: images float32 (n, channels, size, size) in 0 to 1 → the feature maps that the head takes. ``known``, ``others``: indices
    int64 (n,) below ``counts`` → such images, augmented, of a class and of none. ``held_out``: images of a class, uint8 (n, channels, size,
    size). ``progress`` is called with the step and the loss.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.no_grad():
            _, last = maps(known(torch.zeros(1, dtype=torch.int64)))
        head = UnknownHead(last.shape[1], last.shape[2])
        optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.02)
        schedule = one_cycle_schedule(optimizer, updates, warm_up=0.1)
        half = BATCH // 2
        targets = torch.cat([torch.zeros(half), torch.ones(half)])
        for step in range(updates):
            images = torch.cat([known(torch.randint(counts[0], (half,))), others(torch.randint(counts[1], (half,)))])
            with torch.no_grad():
                features = maps(images)
            loss = F.binary_cross_entropy_with_logits(head(*features), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(step + 1, float(loss.detach()))
    scores = unknown_scores(maps, head.eval(), held_out)
    return Fitted(head, threshold_for(scores))


def unknown_scores(maps: Callable[[Tensor], tuple[Tensor, Tensor]], head: UnknownHead, images: Tensor) -> Tensor:
    """uint8 (n, channels, size, size) → probabilities of no class, float32 (n,)."""
    parts = [images[start : start + 500].float() / 255 for start in range(0, len(images), 500)]
    with torch.inference_mode():
        return torch.cat([torch.sigmoid(head(*maps(part))) for part in parts])


def threshold_for(scores: Tensor) -> float:
    """The least threshold above which at most ``REFUSED`` of ``scores`` float32 (n,) lie: one of 0.5 to 1.

    Not below 0.5: what is more likely of some class than of none is never refused.
    """
    ranked = torch.sort(scores).values
    kept = len(ranked) - int(REFUSED * len(ranked))
    return max(0.5, float(ranked[kept - 1])) if kept else 0.5
