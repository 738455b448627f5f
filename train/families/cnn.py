"""Recognition (family ``cnn``): a compact residual network, and its training.

The network is a stem and a stack of basic residual blocks (He, Zhang, Ren and Sun 2015, "Deep residual learning for
image recognition", arXiv 1512.03385) in three widths, with batch normalisation (Ioffe and Szegedy 2015) and global
average pooling. It is trained with cross-entropy with label smoothing, AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101),
a one-cycle learning rate (Smith and Topin 2017, arXiv 1708.07120) and an exponential moving average of the weights,
which is what is validated and deployed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import CNN
from onnxferry.train.data.augment import AugmentConfig, augment
from onnxferry.train.data.images import ImageSet, ImageSplits
from onnxferry.train.families.baselines import few_a_class, logistic_regression, majority
from onnxferry.train.families.start import Start, load_start, start_of
from onnxferry.train.families.unknown import UnknownHead
from onnxferry.train.loop.averaged import AveragedLearner, matrices_decayed
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.loop.schedule import part_of, updates_per_epoch
from onnxferry.train.options import check_positive, option
from onnxferry.train.preprocessing import Preprocessing, check_images

if TYPE_CHECKING:
    from lightning_fabric import Fabric


CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class CnnConfig:
    """Everything that is needed to rebuild the network and its whole-task graph."""

    labels: tuple[str, ...]  # class names, in the order of the outputs
    channels: int = 1  # of the image: 1 grey, 3 colour
    size: int = 28  # side of the network's input square, pixels
    framing: str = "fit"  # kind of preprocessing: see preprocessing.py
    width: int = option(24, "channels of the first stage; the stages are 1, 2 and 4 times as wide", min=4, max=512)
    blocks: tuple[int, int, int] = (1, 2, 2)  # residual blocks per stage
    dropout: float = 0.1  # share of the features that is dropped in training
    mean: tuple[float, ...] = (0.5,)  # of the preprocessed training images, per channel
    std: tuple[float, ...] = (0.5,)
    unknown_threshold: float = 0.0  # above 0: the network has a head for images of no class (unknown.py), and this is its threshold

    def __post_init__(self) -> None:
        check_images(self.framing, self.channels, self.size)

    @property
    def inner_channels(self) -> int:
        return 1 if self.framing == "ink" else self.channels


@dataclass(frozen=True)
class CnnOptions:
    """How it is trained."""

    epochs: int = option(30, "passes over the data", min=1)
    batch: int = option(128, "images per step, over all devices together", min=2)
    learning_rate: float = option(4e-3, "highest learning rate of the cycle", min=0.0)
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    class_weights: str = option("none", "none, or balanced: mistakes in rare classes cost more, as much as the class is rare")
    average: float = 0.998  # decay of the moving average, per step
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")
        if self.class_weights not in CLASS_WEIGHTS:
            raise InputError(f"unknown class weights {self.class_weights!r}; expected {' or '.join(CLASS_WEIGHTS)}")


class Block(nn.Module):
    """relu(x + f(x)), f two 3 × 3 convolutions; a 1 × 1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        nn.init.zeros_(self.norm2.weight)  # every block starts as the identity (Goyal et al. 2017, arXiv 1706.02677)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.short(x))


def trunk(channels: int, size: int, width: int, blocks: tuple[int, int, int]) -> tuple[nn.Sequential, nn.Sequential]:
    """Stem and stages, shared by recognisers and encoders: (batch, channels, size, size) → (batch, 4 width, size / 4, size / 4)."""
    stride = max(1, size // 56)  # large images are reduced to at most 56 × 56 … 112 at once
    kernel = 3 if stride == 1 else 2 * stride + 1
    stem = nn.Sequential(nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    stages: list[nn.Module] = []
    inputs = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            outputs = width * 2**stage
            stages.append(Block(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
            inputs = outputs
    whole = nn.Sequential(*stages)
    start_convolutions(stem, whole)
    return stem, whole


def map_side(size: int, blocks: tuple[int, int, int]) -> int:
    """Side of the last feature map of ``trunk``."""
    side = size
    for stride in (max(1, size // 56), *(2 for count in blocks[1:] if count)):
        side = -(-side // stride)
    return side


def fast_layout(*widths: int) -> torch.memory_format:
    """Channels last, which trains faster on the CPU, where it is safe for convolutions of these ``widths``.

    torch 2.13's oneDNN (AVX2) corrupts memory there with 4 or 6 channels, and with 8 it ends the process in the backward pass; with 16,
    24, … 56, each at batches of 2 to 128, nothing was found.
    """
    return torch.channels_last if all(width % 8 == 0 and width >= 16 for width in widths) else torch.contiguous_format


def start_convolutions(*parts: nn.Module) -> None:
    """He et al. 2015 (arXiv 1502.01852)."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Cnn(nn.Module):
    """Preprocessed images float32 (batch, channels, size, size) in 0 … 1 → logits (batch, classes), features (batch, 4 width)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config = config
        shape = (1, config.inner_channels, 1, 1)
        self.register_buffer("mean", torch.tensor(config.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(config.std).reshape(shape))
        self.stem, self.stages = trunk(config.inner_channels, config.size, config.width, config.blocks)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(4 * config.width, len(config.labels))
        self.unknown: UnknownHead | None = None
        if config.unknown_threshold > 0:
            self.unknown = UnknownHead(4 * config.width, map_side(config.size, config.blocks))

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The feature maps of the second stage, float32 (batch, 2 width, …, …), and of the last, (batch, 4 width, side, side)."""
        third = sum(self.config.blocks[:2])
        middle = self.stages[:third](self.stem((images - self.mean) / self.std))
        return middle, self.stages[third:](middle)

    def classify(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """The last stage's maps → logits, features."""
        features = last.mean(dim=(2, 3))
        return self.head(self.dropout(features)), features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(self.maps(images)[1])


class Recogniser(nn.Module):
    """The whole task: ``image`` uint8 (batch, height, width, channels) → probabilities, class_index, features.

    And ``unknown`` float32 (batch,), the probability that the image is of no class, if the network has a head for it.
    """

    def __init__(self, network: Cnn) -> None:
        super().__init__()
        self.preprocess = Preprocessing(network.config.framing, network.config.size)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        middle, last = self.network.maps(self.preprocess(image))
        logits, features = self.network.classify(last)
        probabilities = torch.softmax(logits, dim=1)
        known = (probabilities, probabilities.argmax(dim=1), features)
        return known if self.network.unknown is None else (*known, torch.sigmoid(self.network.unknown(middle, last)))


def model_from_config(config: Mapping[str, Any]) -> Cnn:
    return Cnn(config_from(CnnConfig, config))


def preprocess_all(images: np.ndarray, preprocess: Preprocessing, chunk: int = 1000) -> Tensor:
    """uint8 (n, height, width, channels) → uint8 (n, inner channels, size, size): done once, before training."""
    pieces = []
    with torch.inference_mode():
        for start in range(0, len(images), chunk):
            framed = preprocess(torch.from_numpy(np.ascontiguousarray(images[start : start + chunk])))
            pieces.append((framed * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(pieces).clone()


class CnnLearner(AveragedLearner):
    family = CNN.name
    criterion = "accuracy"
    higher_is_better = True
    tie_breaker = "loss"

    def __init__(
        self,
        data: ImageSplits,
        options: CnnOptions,
        *,
        framing: str,
        width: int = CnnConfig.width,
        seed: int = 0,
        init: Start | Checkpoint | None = None,
    ) -> None:
        """``init``: a trained network, from whose trunk this one starts (families/start.py); then width and blocks are its own, and of an
        autoencoder of images of the same size and channels framing and normalization too."""
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        self.options = options
        self.init = start_of(init) if isinstance(init, Checkpoint) else init
        self.class_weights: Tensor | None = None  # float32 (classes,)
        _, size, _, channels = data.train.images.shape
        same: Mapping[str, Any] | None = None
        if self.init is not None:
            width, made_for = self.init.width, self.init.made_for
            if made_for is not None and (made_for["channels"], made_for["size"]) == (channels, size):
                same = made_for
                framing = str(made_for["framing"])
        preprocess = Preprocessing(framing, size)
        self.images = preprocess_all(data.train.images, preprocess)  # uint8 (n, c, size, size)
        self.labels = torch.from_numpy(data.train.labels)
        scaled = self.images.float() / 255
        mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3)).clamp(min=1e-3)
        self.config = CnnConfig(
            labels=data.classes,
            channels=channels,
            size=size,
            framing=framing,
            width=width,
            mean=tuple(round(v, 4) for v in mean.tolist()),
            std=tuple(round(v, 4) for v in std.tolist()),
        )
        if self.init is not None:
            self.config = dataclasses.replace(self.config, blocks=self.init.blocks)
        if same is not None:
            self.config = dataclasses.replace(self.config, mean=tuple(same["mean"]), std=tuple(same["std"]))

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        network = Cnn(self.config).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.init is not None:
            load_start(network, self.init, self.images[:: max(1, len(self.images) // 256)][:256].float() / 255)
        optimizer = torch.optim.AdamW(matrices_decayed(network, self.options.weight_decay), lr=self.options.learning_rate)
        self.prepare(fabric, network, optimizer, average=self.options.average, total_steps=total_steps, warm_up=0.2)
        self.class_weights = None
        if self.options.class_weights == "balanced":  # as scikit-learn's: n / (classes x images of the class)
            counts = torch.bincount(self.labels, minlength=len(self.config.labels)).clamp(min=1)
            self.class_weights = (len(self.labels) / (len(counts) * counts.float())).to(fabric.device)

    @property
    def memory_format(self) -> torch.memory_format:
        return fast_layout(self.config.width)

    def steps_per_epoch(self) -> int:
        return updates_per_epoch(len(self.labels), self.options.batch)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.labels)))
        steps = self.steps_per_epoch()
        for step in range(start, steps):
            index = part_of(order, step, steps, self.fabric.global_rank, self.fabric.world_size)
            yield self.images[index].to(self.fabric.device), self.labels[index].to(self.fabric.device)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        with torch.no_grad():
            images = augment(images.float() / 255, self.options.augment).contiguous(memory_format=self.memory_format)
        logits, _ = self.network(images)
        loss = F.cross_entropy(logits.float(), labels, self.class_weights, label_smoothing=self.options.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach(), "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()}

    def _score(self, split: ImageSet) -> dict[str, float]:
        network = self.average.module.eval()
        images = preprocess_all(split.images, Preprocessing(self.config.framing, self.config.size))
        right, loss = 0, 0.0
        with torch.inference_mode():
            for start in range(0, len(images), 500):
                labels = torch.from_numpy(split.labels[start : start + 500]).to(self.fabric.device)
                logits, _ = network(images[start : start + 500].to(self.fabric.device).float() / 255)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                right += int((logits.argmax(dim=1) == labels).sum())
        return {"loss": loss / len(images), "accuracy": right / len(images), "n": len(images)}

    def validate(self) -> dict[str, float]:
        return self._score(self.data.validation) if len(self.data.validation.labels) else {}

    def test(self) -> dict[str, float]:
        return self._score(self.data.test)

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        if self.init is not None:
            data["started from"] = self.init.name
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def baseline(self) -> dict[str, float]:
        train, test = self.data.train, self.data.test
        return {
            "majority": majority(train.labels, test.labels),
            "logistic_regression": logistic_regression(train, test, len(self.data.classes)),
        }

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        accuracy, baseline = metrics["test"]["accuracy"], metrics["baseline"]
        found = few_a_class(self.data)
        longer = f"train longer (--epochs {2 * self.epochs}), at another --size, in --color, or from a trained start (--init fashion)"
        if accuracy <= baseline["majority"] < 1:
            found.append(
                f"{accuracy:.2%} of the test images are right, and always answering the most frequent class gives "
                f"{baseline['majority']:.2%}: nothing was learned; {longer}"
            )
        elif accuracy < 1 and accuracy <= baseline["logistic_regression"]:
            found.append(
                f"{accuracy:.2%} of the test images are right, no more than logistic regression on 20 x 20 grey pixels gets "
                f"({baseline['logistic_regression']:.2%}); {longer}"
            )
        return found

    def checkpoint(self) -> Checkpoint:
        weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in self.average.module.state_dict().items()}
        first = [int(np.flatnonzero(self.data.test.labels == c)[0]) for c in np.unique(self.data.test.labels)]
        examples = {
            "image": torch.from_numpy(self.data.test.images[first[:16]]).clone(),
            "label": torch.from_numpy(self.data.test.labels[first[:16]]).clone(),
        }
        return Checkpoint(family=self.family, weights=weights, examples=examples, **self.described())
