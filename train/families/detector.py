"""Detection (family ``detector``): a one-stage network that says where which objects are, and its training.

A residual trunk in four strides, a small feature pyramid (Lin et al. 2017, arXiv 1612.03144) back to cells of 4 pixels, and one map for
all: per cell how likely the middle of an object of each class lies in it, and the object's box. No anchors (Tian et al. 2019, "FCOS",
arXiv 1904.01355; Zhou et al. 2019, "Objects as points", arXiv 1904.07850), no second stage (Redmon et al. 2016, "You only look once",
arXiv 1506.02640). Boxes that overlap a better one are dropped: non-maximum suppression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.evaluation.average_precision import average_precision
from onnxferry.runtime.kinds import DETECTOR_FAMILY
from onnxferry.train.data.detection import DetectionSplits, batch_size_of_images
from onnxferry.train.data.scenes import Scene
from onnxferry.train.families.cnn import Block, start_convolutions
from onnxferry.train.families.detector_boxes import box_loss, choice_loss, heat_loss, non_maximum_suppression, targets
from onnxferry.train.loop.averaged import AveragedLearner, matrices_decayed
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.loop.schedule import updates_per_epoch
from onnxferry.train.options import check_positive, option
from onnxferry.train.preprocessing import check_images, foreground

if TYPE_CHECKING:
    from lightning_fabric import Fabric


STRIDE = 4
"""Pixels of a cell of the map."""


GRAIN = 16
"""The sides of what the network sees are multiples of it."""


TYPICAL = 24.0
"""Side of a box, pixels, that the network says at the start."""


LARGEST_LOG = 5.0
"""Of a box's side by the typical one, the greatest logarithm that counts."""


MAX_BOXES = 300
"""Per image."""


LEAST_WEIGHT = 1e-12
"""So that nothing divides by zero where every score is 0."""


SCORE_THRESHOLD, IOU_THRESHOLD = 0.3, 0.45
"""Defaults of the exported file's inputs; of the latter, where the training says nothing else."""


@dataclass(frozen=True)
class DetectorConfig:
    """Everything that is needed to rebuild the network and its whole-task graph."""

    labels: tuple[str, ...]  # class names, in the order of the outputs
    channels: int = 1  # of the image: 1 grey, 3 colour
    size: int = option(320, "longer side to which larger images are reduced, pixels; smaller ones stay as they are", min=32, max=1280)
    framing: str = "ink"  # ink: only how far a pixel is from the background; fit: the pixels
    width: int = option(16, "channels of the first stage; the others are 2, 4 and 4 times as wide", min=4, max=128)
    blocks: tuple[int, int] = (3, 5)  # residual blocks at strides 8 and 16
    iou_threshold: float = option(IOU_THRESHOLD, "overlap above which a box is dropped, if not asked for another", min=0.0, max=1.0)

    def __post_init__(self) -> None:
        check_images(self.framing, self.channels, self.size)

    @property
    def inner_channels(self) -> int:
        return 1 if self.framing == "ink" else self.channels


@dataclass(frozen=True)
class DetectorOptions:
    """How it is trained."""

    epochs: int = option(100, "passes over the data", min=1)
    batch: int = option(32, "images per step, over all devices together", min=2)
    learning_rate: float = option(3e-3, "highest learning rate of the cycle", min=0.0)
    weight_decay: float = 0.02
    box_weight: float = option(2.0, "weight of the boxes' loss beside the classes'", min=0.0)
    choice_weight: float = option(0.0, "weight of the loss of one class against the others, where an object is", min=0.0)
    side: int = option(160, "pixels: training images have about as many as a square of this side", min=32, max=1280)
    average: float = 0.999  # decay of the moving average, per step

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")


class Canvas(nn.Module):
    """``image`` uint8 (batch, height, width, channels) → what the network sees, float32 (batch, channels or 1, h, w), and the scale.

    An image whose longer side is above ``size`` is averaged down to it; others keep their size. To the right and below, background is added
    until both sides are multiples of 16. ``scale``: float32 (), pixels of the image per pixel of the result.
    """

    def __init__(self, framing: str, size: int) -> None:
        super().__init__()
        self.framing = framing
        self.size = size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        pixels = foreground(pixels)[:, None] if self.framing == "ink" else (pixels - 0.5) * 4.0
        height, width = image.shape[1], image.shape[2]
        longest = torch.sym_max(torch.sym_max(height, width), self.size)  # type: ignore[no-untyped-call]
        one = pixels.new_ones(())
        longest_side = torch.maximum(one * height, one * width).clamp(min=float(self.size))
        rows = self._weights(height, longest, longest_side)
        columns = self._weights(width, longest, longest_side)
        return torch.matmul(torch.matmul(rows, pixels), columns.transpose(0, 1)), longest_side / self.size

    def _weights(self, length: int, longest: int, longest_side: Tensor) -> Tensor:
        """The averaging of one axis, (new length, length). The first pixels of both begin at the same edge.

        In units of 1 / ``size`` of the image's pixel all places are whole numbers, which float32 holds exactly.
        """
        new = ((length * self.size + longest - 1) // longest + GRAIN - 1) // GRAIN * GRAIN
        source = torch.arange(length, dtype=torch.float32, device=longest_side.device) * self.size
        target = (torch.arange(new, dtype=torch.float32, device=longest_side.device) * longest_side)[:, None]
        overlap = torch.minimum(target + longest_side, source + self.size) - torch.maximum(target, source)
        return overlap.clamp(min=0.0) / longest_side


class Network(nn.Module):
    """Float32 (batch, channels, h, w), both sides multiples of 16 → logits (batch, classes, h/4, w/4), boxes (batch, 4, h/4, w/4)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        width, classes = config.width, len(config.labels)
        self.stem = nn.Sequential(_convolution(config.inner_channels, width, 2), _convolution(width, 2 * width, 2))
        self.stage8 = _stage(2 * width, 4 * width, config.blocks[0])
        self.stage16 = _stage(4 * width, 4 * width, config.blocks[1])
        self.merge8 = _convolution(4 * width, 2 * width, 1)
        self.merge4 = _convolution(2 * width, 2 * width, 1)
        self.head = nn.Conv2d(2 * width, classes + 4, 1)
        start_convolutions(self.stem, self.stage8, self.stage16, self.merge8, self.merge4)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.head.bias[:classes] = -4.0  # type: ignore[index]  # nothing is likely at the start: Lin et al. 2017, section 4.1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x)
        middle = self.stage8(fine)
        coarse = self.stage16(middle)
        middle = self.merge8(middle + F.interpolate(coarse, scale_factor=2.0))
        said = self.head(self.merge4(fine + F.interpolate(middle, scale_factor=2.0)))
        classes = len(self.config.labels)
        return said[:, :classes], _boxes(said[:, classes:])


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(blocks)))


def _boxes(raw: Tensor) -> Tensor:
    """Per cell how far the box's middle is from the cell's, in cells, and its sides' logarithm → left, top, right, bottom in pixels."""
    raw = raw.float()
    rows = (torch.arange(raw.shape[2], dtype=torch.float32, device=raw.device) + 0.5)[:, None]
    columns = (torch.arange(raw.shape[3], dtype=torch.float32, device=raw.device) + 0.5)[None, :]
    x, y = (raw[:, 0] + columns) * STRIDE, (raw[:, 1] + rows) * STRIDE
    half = torch.exp(raw[:, 2:].clamp(max=LARGEST_LOG)) * (TYPICAL / 2)
    return torch.stack([x - half[:, 0], y - half[:, 1], x + half[:, 0], y + half[:, 1]], dim=1)


class Candidates(nn.Module):
    """``image`` uint8 (batch, height, width, channels) → a candidate per cell: boxes float32 (batch, cells, 4), in the image's pixels and
    cut at its edges; scores float32 (batch, cells), 0 to 1; class_index int64 (batch, cells).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.canvas = Canvas(network.config.framing, network.config.size)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, scale = self.canvas(image)
        logits, boxes = self.network(seen)
        scores = torch.sigmoid(logits.max(dim=1).values)
        boxes, logits = agreed(torch.cat([boxes, logits], dim=1), scores).split([4, logits.shape[1]], dim=1)  # type: ignore[no-untyped-call]
        index = logits.argmax(dim=1)
        one = scale.new_ones(())
        edge = torch.stack([one * image.shape[2], one * image.shape[1], one * image.shape[2], one * image.shape[1]])
        corners = (boxes.flatten(2).transpose(1, 2) * scale).clamp(min=0.0)
        return torch.minimum(corners, edge), scores.flatten(1), index.flatten(1)


def agreed(said: Tensor, scores: Tensor) -> Tensor:
    """What each cell says as the mean of what the 3 × 3 cells around it say, weighted by the square of their scores.

    Several cells near the middle of an object have learnt its box and its class; their errors differ. ``said`` (batch, channels, h, w),
    scores (batch, h, w).
    """
    weight = (scores**2)[:, None]
    return F.avg_pool2d(said * weight, 3, 1, 1) / F.avg_pool2d(weight, 3, 1, 1).clamp(min=LEAST_WEIGHT)


class Detector(nn.Module):
    """The whole task in PyTorch, which the exported file is compared with.

    ``image`` uint8 (batch, height, width, channels), two thresholds → of all objects, image after image and the likeliest first: boxes
    float32 (objects, 4), scores (objects,), class_index int64 (objects,), image_index int64 (objects,).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.candidates = Candidates(network)

    def forward(
        self, image: Tensor, score_threshold: float = SCORE_THRESHOLD, iou_threshold: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes, scores, index = self.candidates(image)
        usual = self.candidates.network.config.iou_threshold
        return suppressed(boxes, scores, index, score_threshold, usual if iou_threshold is None else iou_threshold)


def suppressed(
    boxes: Tensor, scores: Tensor, index: Tensor, score_threshold: float, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :class:`Candidates` gives → what :class:`Detector` gives: a place has one object, whatever its class."""
    kept = [non_maximum_suppression(b, s, iou_threshold, score_threshold, MAX_BOXES) for b, s in zip(boxes, scores, strict=True)]
    which = torch.cat([torch.full_like(each, number) for number, each in enumerate(kept)] or [index.new_zeros(0)])
    places = torch.cat(kept) if kept else index.new_zeros(0)
    return boxes[which, places], scores[which, places], index[which, places], which


def model_from_config(config: Mapping[str, Any]) -> Network:
    return Network(config_from(DetectorConfig, config))


class DetectorLearner(AveragedLearner):
    family = DETECTOR_FAMILY.name
    criterion = "map"
    higher_is_better = True
    tie_breaker = "loss"

    def __init__(
        self,
        data: DetectionSplits,
        options: DetectorOptions,
        *,
        framing: str,
        seed: int = 0,
        init: Checkpoint | None = None,
        **network: Any,
    ) -> None:
        """``network``: fields of DetectorConfig, those that a user chooses. ``init``: a trained detector, from whose weights this one
        starts; of other classes, without the last layer's."""
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        self.options = options
        self.init = init
        self.config = DetectorConfig(labels=data.classes, channels=data.channels, framing=framing, **network)

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        # On a CPU with 16-bit matrix units channels last is three times as fast; without them it is slower.
        mixed = getattr(fabric.strategy.precision, "precision", "") != "32-true"
        self.memory_format = torch.channels_last if mixed and self.config.width >= 16 else torch.contiguous_format
        network = Network(self.config)
        if self.init is not None:
            start_from(network, self.init)
        network = network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(matrices_decayed(network, self.options.weight_decay), lr=self.options.learning_rate)
        self.prepare(fabric, network, optimizer, average=self.options.average, total_steps=total_steps, warm_up=0.1)
        self.canvas = Canvas(self.config.framing, self.config.size)

    def steps_per_epoch(self) -> int:
        return updates_per_epoch(len(self.data.train), self.options.batch)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images uint8 (batch, height, width, channels) of one size, boxes float32 (batch, objects, 4), labels int64 (batch, objects)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data.train))
        share = -(-self.options.batch // self.fabric.world_size)
        for step in range(start, self.steps_per_epoch()):
            shape = batch_size_of_images(np.random.default_rng((self.seed, epoch, step)), self.options.side)
            begin = step * self.options.batch + self.fabric.global_rank * share
            places = order[np.arange(begin, begin + share) % len(order)]
            rng = np.random.default_rng((self.seed, epoch, step, 1 + self.fabric.global_rank))
            scenes = [self.data.train.scene(rng, int(place), *shape) for place in places]
            images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
            boxes, labels = _padded(scenes)
            yield images.to(self.fabric.device), boxes.to(self.fabric.device), labels.to(self.fabric.device)

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        images, boxes, labels = batch
        with torch.no_grad():
            seen, scale = self.canvas(images)
            seen = seen.contiguous(memory_format=self.memory_format)
        logits, found = self.network(seen)
        logits, found = logits.float(), found.float()
        height, width = logits.shape[2:]
        heat, wanted, label, weight = targets(boxes / scale, labels, len(self.config.labels), height, width, STRIDE)
        classes, places = heat_loss(logits, heat), box_loss(found, wanted, weight)
        loss = classes + self.options.box_weight * places
        if self.options.choice_weight:
            loss = loss + self.options.choice_weight * choice_loss(logits, label, weight)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=10.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach(), "classes": classes.detach(), "boxes": places.detach()}

    def _score(self, scenes: Sequence[Scene]) -> dict[str, float]:
        detector = Detector(self.average.module).eval()  # type: ignore[arg-type]
        found = []
        with torch.inference_mode():
            for scene in scenes:
                image = torch.from_numpy(scene.image)[None].to(self.fabric.device)
                boxes, scores, index, _ = detector(image, 0.05)
                found.append((boxes.numpy(force=True), scores.numpy(force=True), index.numpy(force=True)))
        result = average_precision(found, [(scene.boxes, scene.labels) for scene in scenes])
        return {"loss": 1 - result.at_50, "map": result.mean, "map50": result.at_50, "map75": result.at_75, "n": len(scenes)}

    def validate(self) -> dict[str, float]:
        return self._score(self.data.validation) if len(self.data.validation) else {}

    def test(self) -> dict[str, float]:
        return self._score(self.data.test)

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        if self.init is not None:
            data["started from"] = f"a detector trained on {self.init.data.get('name', 'other data')}"
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        if metrics["test"]["map50"] >= 0.2:
            return []
        return [
            f"the mean average precision of the test images at an IoU of 0.5 is {metrics['test']['map50']:.2%}: little was learned; train "
            f"longer (--epochs {2 * self.epochs}), or give more images"
        ]

    def checkpoint(self) -> Checkpoint:
        weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in self.average.module.state_dict().items()}
        examples = {}
        for number, scene in enumerate(self.data.test[:6]):
            examples[f"image{number}"] = torch.from_numpy(scene.image)[None].clone()
        return Checkpoint(family=self.family, weights=weights, examples=examples, **self.described())


def start_from(network: Network, start: Checkpoint) -> None:
    """Copies a trained detector's weights. Raises InputError for a run of another family or width."""
    if start.family != DETECTOR_FAMILY.name:
        raise InputError(f"--init takes a run of train detector, and this is one of train {start.family}")
    own = network.state_dict()
    same = start.config.get("labels") == network.config.labels or list(start.config.get("labels", ())) == list(network.config.labels)
    given = {name: weight for name, weight in start.weights.items() if same or not name.startswith("head.")}
    for name, weight in given.items():
        if name not in own or own[name].shape != weight.shape:
            raise InputError(
                f"--init is a detector of another shape ({name} differs): give the same --width, and images of as many channels"
            )
    network.load_state_dict({**own, **given})


def _padded(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Boxes float32 (batch, objects, 4) and labels int64 (batch, objects), -1 where an image has fewer objects than another."""
    most = max(1, *(len(scene.labels) for scene in scenes))
    boxes, labels = torch.zeros(len(scenes), most, 4), torch.full((len(scenes), most), -1, dtype=torch.int64)
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.labels)] = torch.from_numpy(scene.boxes)
        labels[row, : len(scene.labels)] = torch.from_numpy(scene.labels)
    return boxes, labels
