"""Boxes of detectors: what the network should say about them, the losses, and non-maximum suppression."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SPREAD = 0.1
"""Standard deviation of a target's bell around the middle of a box, as a share of the box's side; at least half a cell."""


BOX_ABOVE = 0.3
"""Cells where the bell is higher learn the box too."""


def targets(boxes: Tensor, labels: Tensor, classes: int, height: int, width: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a map of ``height`` × ``width`` cells of ``stride`` pixels should say.

    ``boxes``: float32 (batch, objects, 4), left, top, right, bottom in pixels. ``labels``: int64 (batch, objects), -1 where there is none.
    Returns the heat of each class, float32 (batch, classes, height, width), 1 in the cell that holds a box's middle and a bell around it
    (Zhou, Wang and Krähenbühl 2019, "Objects as points", arXiv 1904.07850); the box of each cell, (batch, 4, height, width); its label,
    int64 (batch, height, width); and how much the cell should learn both, 0 to 1, (batch, height, width).
    """
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    there = labels >= 0
    middle_x, middle_y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    bell_x = _bell(columns, middle_x, boxes[..., 2] - boxes[..., 0], stride)  # (batch, objects, width)
    bell_y = _bell(rows, middle_y, boxes[..., 3] - boxes[..., 1], stride)
    peak_x = columns == (middle_x / stride).floor().clamp(0, width - 1)[..., None]
    peak_y = rows == (middle_y / stride).floor().clamp(0, height - 1)[..., None]
    bell = bell_y[..., :, None] * bell_x[..., None, :]
    bell = torch.where(peak_y[..., :, None] & peak_x[..., None, :], torch.ones_like(bell), bell) * there[..., None, None]
    heat = bell.new_zeros(len(boxes), classes + 1, height, width)
    index = torch.where(there, labels, classes)[..., None, None].expand_as(bell)
    heat.scatter_reduce_(1, index, bell, "amax")
    weight, nearest = bell.max(dim=1)  # (batch, height, width)
    at = nearest.flatten(1)[..., None].expand(-1, -1, 4)
    chosen = boxes.gather(1, at).transpose(1, 2).reshape(len(boxes), 4, height, width)
    label = labels.gather(1, nearest.flatten(1)).reshape_as(nearest)
    return heat[:, :classes], chosen, label, weight * (weight > BOX_ABOVE)


def _bell(cells: Tensor, middle: Tensor, side: Tensor, stride: int) -> Tensor:
    spread = (SPREAD * side).clamp(min=stride / 2)[..., None]
    return torch.exp(-0.5 * (((cells + 0.5) * stride - middle[..., None]) / spread) ** 2)


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """The focal loss of "Objects as points" (after Lin et al. 2017, arXiv 1708.02002), per object. Both (batch, classes, height, width)."""
    chance = torch.sigmoid(logits)
    peak = heat == 1
    hit = (1 - chance) ** 2 * F.logsigmoid(logits)
    miss = (1 - heat) ** 4 * chance**2 * F.logsigmoid(-logits)
    return -torch.where(peak, hit, miss).sum() / peak.sum().clamp(min=1)


def box_loss(found: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """1 - generalized IoU (Rezatofighi et al. 2019, arXiv 1902.09630), the mean by ``weight``. Boxes (batch, 4, height, width)."""
    there = weight > 0
    a, b = found.movedim(1, -1)[there], wanted.movedim(1, -1)[there]  # (cells, 4)
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    whole = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - shared
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    giou = shared / whole.clamp(min=1e-6) - (around - whole) / around.clamp(min=1e-6)
    return ((1 - giou) * weight[there]).sum() / weight.sum().clamp(min=1)


def choice_loss(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """The cross-entropy of one class against the others, the mean by ``weight``: the focal loss asks of each class for itself, and cares
    little for one that is nearly as likely as the right one. Logits (batch, classes, height, width), the others (batch, height, width).
    """
    there = weight > 0
    each = F.cross_entropy(logits.movedim(1, -1)[there], label[there], reduction="none")
    return (each * weight[there]).sum() / weight.sum().clamp(min=1)


def non_maximum_suppression(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, most: int) -> Tensor:
    """The boxes that stay, int64 (kept,), best first: as ONNX's NonMaxSuppression chooses them for one image and one class.

    ``boxes``: float32 (n, 4). ``scores``: float32 (n,). A box is left out where its score is not above ``score_threshold``, or where it
    overlaps a better one that stays by more than ``iou_threshold``. ``most``: so many stay at most.
    """
    candidates = torch.nonzero(scores > score_threshold)[:, 0]
    order = candidates[torch.argsort(scores[candidates], descending=True, stable=True)]
    chosen = boxes[order]
    low, high = torch.maximum(chosen[:, None, :2], chosen[None, :, :2]), torch.minimum(chosen[:, None, 2:], chosen[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = (chosen[:, 2:] - chosen[:, :2]).prod(dim=1)
    overlaps = (shared / (areas[:, None] + areas[None] - shared) > iou_threshold).numpy(force=True)
    kept: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool).numpy()
    for position in range(len(order)):
        if not gone[position]:
            kept.append(position)
            if len(kept) == most:
                break
            gone |= overlaps[position]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
