"""Image generation (family ``gan``): a class-conditional convolutional GAN (Goodfellow et al. 2014, arXiv 1406.2661), and its training.

The generator is DCGAN's (Radford et al. 2015, arXiv 1511.06434) with class-conditional batch normalisation (de Vries et
al. 2017, arXiv 1707.00683). Instead of transposed convolutions it upsamples before a convolution (Odena et al. 2016), and
the last time by sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158), so that nearly all arithmetic is done at half
the resolution, in about half the time. The discriminator has spectral normalisation (Miyato et al. 2018, arXiv 1802.05957) and
reads the class by projection (Miyato and Koyama 2018, arXiv 1802.05637). Both are trained with the hinge loss (Lim and Ye 2017, arXiv
1705.02894) and AdamW; what is evaluated and deployed is a moving average of the generator (Yazıcı et al. 2018, arXiv
1806.04498).

The best epoch is chosen by the Fréchet distance to held-out images, in a recogniser's features: gan_quality.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.grid import image_grid, save_image
from onnxferry.runtime.kinds import GAN
from onnxferry.train.data.images import ImageSplits, draw_stratified
from onnxferry.train.families.cnn import fast_layout
from onnxferry.train.families.gan_quality import Judge, quality
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.loop.ema import WeightAverage
from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.schedule import part_of, updates_per_epoch
from onnxferry.train.options import check_positive, option

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SIZES = (28, 32, 64)


MAX_JUDGED = 10_000
"""Images of each kind that quality is measured on, at most."""


FIRST_SUSPECT = 3
"""First epoch after which a collapse is reported."""


FINE = 8
"""Channels of the generator at full resolution."""


ENOUGH = 500
"""Training images below which a GAN is warned of."""


COLLAPSED = 0.1
"""A generator whose images of a class spread less than this share of the real ones' spread has collapsed."""


@dataclass(frozen=True)
class GanConfig:
    """Everything that is needed to rebuild the generator and its graph."""

    labels: tuple[str, ...]  # class names, in order
    channels: int = 1  # 1 grey, 3 colour
    size: int = 28  # side of the images, pixels: 28, 32 or 64
    noise: int = option(64, "numbers that an image is made from", min=1, max=4096)
    width: int = option(32, "channels before the last upsampling; twice as many before that", min=4, max=256)

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"images are made at sizes {', '.join(map(str, SIZES))}, got {self.size}")
        if self.noise < 1:
            raise InputError(f"noise must be at least 1 number, got {self.noise}")


@dataclass(frozen=True)
class GanOptions:
    """How it is trained."""

    epochs: int = option(40, "passes over the data", min=1)
    batch: int = option(64, "images per step, over all devices together", min=2)
    learning_rate: float = option(4e-4, "learning rate of both networks; it falls to a hundredth over the last half", min=0.0)
    weight_decay: float = 1e-4
    beta1: float = 0.0  # AdamW's; with momentum the two networks oscillate
    beta2: float = 0.99
    average: float = 0.999  # decay of the moving average, per step
    discriminator_width: int = option(32, "channels of the discriminator's first layer", min=4, max=256)

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")


class ClassNorm(nn.Module):
    """Batch normalization with a gain and a bias per class: x (batch, channels, h, w), label (batch,)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        shaped: Tensor = self.norm(x) * self.gain(label)[:, :, None, None] + self.bias(label)[:, :, None, None]
        return shaped


class Generator(nn.Module):
    """Noise float32 (batch, noise), label int64 (batch,) → images float32 (batch, channels, size, size) in -1 … 1."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        self.config = config
        classes, width, side = len(config.labels), config.width, config.size // 4
        self.shape = (2 * width, side, side)
        self.embed = nn.Embedding(classes, 16)
        self.head = nn.Linear(config.noise + 16, 2 * width * side**2)
        self.norms = nn.ModuleList(ClassNorm(channels, classes) for channels in (2 * width, 2 * width, 2 * width, width, FINE))
        self.coarse = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False)
        self.fine = nn.Conv2d(2 * width, width, 3, 1, 1, bias=False)
        self.enlarge = nn.Conv2d(width, 4 * FINE, 3, 1, 1, bias=False)
        self.pixels = nn.Conv2d(FINE, config.channels, 3, 1, 1)
        for module in (self.head, self.coarse, self.middle, self.fine, self.enlarge, self.pixels):
            nn.init.orthogonal_(module.weight)

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        x = self.head(torch.cat([noise, self.embed(label)], dim=1)).reshape(-1, *self.shape)
        x = F.relu(self.norms[0](x, label))
        x = F.relu(self.norms[1](self.coarse(x), label))
        x = F.relu(self.norms[2](self.middle(F.interpolate(x, scale_factor=2, mode="nearest")), label))
        x = F.relu(self.norms[3](self.fine(x), label))
        x = F.relu(self.norms[4](F.pixel_shuffle(self.enlarge(x), 2), label))
        return torch.tanh(self.pixels(x))


class Discriminator(nn.Module):
    """Images float32 (batch, channels, size, size) in -1 … 1, label int64 (batch,) → how real each looks, (batch,)."""

    def __init__(self, config: GanConfig, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            spectral_norm(nn.Conv2d(config.channels, width, 4, 2, 1)),
            nn.LeakyReLU(0.1),
            spectral_norm(nn.Conv2d(width, 2 * width, 3, 1, 1)),
            nn.LeakyReLU(0.1),
            spectral_norm(nn.Conv2d(2 * width, 4 * width, 4, 2, 1)),
            nn.LeakyReLU(0.1),
            spectral_norm(nn.Conv2d(4 * width, 4 * width, 3, 1, 1)),
            nn.LeakyReLU(0.1),
        )
        self.head = spectral_norm(nn.Linear(4 * width, 1))
        self.embed = spectral_norm(nn.Embedding(len(config.labels), 4 * width))

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        features = self.body(images).sum(dim=(2, 3))
        score: Tensor = self.head(features)[:, 0] + (self.embed(label) * features).sum(dim=1)
        return score


class GeneratorTask(nn.Module):
    """The whole task: ``noise`` float32 (batch, noise), ``label`` int64 (batch,) → ``image`` uint8 (batch, size, size, channels)."""

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        return to_pixels(self.network(noise, label))


def to_pixels(images: Tensor) -> Tensor:
    """float32 (batch, channels, height, width) in -1 … 1 → uint8 (batch, height, width, channels)."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def model_from_config(config: Mapping[str, Any]) -> Generator:
    return Generator(config_from(GanConfig, config))


class GanLearner(Learner):
    family = GAN.name
    criterion = "frechet"

    def __init__(
        self,
        data: ImageSplits,
        options: GanOptions,
        judge: Judge,
        *,
        noise: int = GanConfig.noise,
        width: int = GanConfig.width,
        seed: int = 0,
    ) -> None:
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        self.options = options
        self.judge = judge
        _, size, _, channels = data.train.images.shape
        self.config = GanConfig(labels=data.classes, channels=channels, size=size, noise=noise, width=width)
        self.images = torch.from_numpy(data.train.images).permute(0, 3, 1, 2).contiguous()  # uint8 (n, c, size, size)
        self.labels = torch.from_numpy(data.train.labels)
        self._real: dict[str, np.ndarray] = {}  # features by part

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        self.fabric = fabric
        # The networks without Fabric's wrappers: where only activations are needed, no gradients are synchronized.
        self.bare_generator = Generator(self.config).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.bare_discriminator = Discriminator(self.config, self.options.discriminator_width)
        self.bare_discriminator.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.average = WeightAverage(self.bare_generator, self.options.average)
        how = {
            "lr": self.options.learning_rate,
            "betas": (self.options.beta1, self.options.beta2),
            "weight_decay": self.options.weight_decay,
        }
        optimizers = [torch.optim.AdamW(m.parameters(), **how) for m in (self.bare_generator, self.bare_discriminator)]  # type: ignore[arg-type]
        self.generator, self.generator_optimizer = fabric.setup(self.bare_generator, optimizers[0])
        self.discriminator, self.discriminator_optimizer = fabric.setup(self.bare_discriminator, optimizers[1])
        self.average.to(fabric.device)
        half = total_steps / 2
        self.schedules = {
            name: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.01, min(1.0, (total_steps - step) / half)))
            for name, optimizer in zip(("generator", "discriminator"), optimizers, strict=True)
        }

    @property
    def memory_format(self) -> torch.memory_format:
        return fast_layout(self.config.width, self.options.discriminator_width)

    def steps_per_epoch(self) -> int:
        return updates_per_epoch(len(self.labels), self.options.batch)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.labels)))
        steps = self.steps_per_epoch()
        for step in range(start, steps):
            index = part_of(order, step, steps, self.fabric.global_rank, self.fabric.world_size)
            yield self.images[index].to(self.fabric.device), self.labels[index].to(self.fabric.device)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        real, labels = (batch[0].float() / 127.5 - 1).contiguous(memory_format=self.memory_format), batch[1]
        fake = self.generator(self._noise(len(labels)), labels)
        # Real and generated in one pass: half the synchronization, and one power iteration for both.
        scores = self.discriminator(torch.cat([real, fake.detach()]), torch.cat([labels, labels])).float()
        on_real, on_fake = scores.chunk(2)
        discriminator_loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(discriminator_loss)
        self.discriminator_optimizer.step()

        # The same images, scored by the updated discriminator.
        self.bare_discriminator.requires_grad_(False)
        with self.fabric.autocast():
            generator_loss = -self.bare_discriminator(fake, labels).float().mean()
        self.generator_optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(generator_loss)
        self.generator_optimizer.step()
        self.bare_discriminator.requires_grad_(True)
        for schedule in self.schedules.values():
            schedule.step()
        self.average.update_parameters(self.bare_generator)
        losses = {"generator": generator_loss.detach(), "discriminator": discriminator_loss.detach()}
        return {"loss": losses["generator"] + losses["discriminator"], **losses}

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self.config.noise, device=self.fabric.device)

    def make(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """Images from the averaged generator, uint8 (n, size, size, channels), one for each label int64 (n,)."""
        network = self.average.module.eval()
        noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(labels), self.config.noise), dtype=np.float32))
        made = [np.zeros((0, self.config.size, self.config.size, self.config.channels), np.uint8)]
        with torch.inference_mode():
            for start in range(0, len(labels), 500):
                asked = torch.from_numpy(labels[start : start + 500]).to(self.fabric.device)
                made.append(to_pixels(network(noise[start : start + 500].to(self.fabric.device), asked)).cpu().numpy())
        return np.concatenate(made)

    def _features(self, part: str) -> np.ndarray:
        if part not in self._real:
            self._real[part] = self.judge(getattr(self.data, part).images[:MAX_JUDGED])[0]
        return self._real[part]

    def _quality(self, part: str, seed: int) -> dict[str, float]:
        held_out = getattr(self.data, part)
        labels = held_out.labels[:MAX_JUDGED]
        features, read = self.judge(self.make(labels, seed))
        return {**quality(self._features(part), features), "agreement": float((read == labels).mean()), "n": len(labels)}

    def validate(self) -> dict[str, float]:
        return self._quality("validation", 1) if len(self.data.validation.labels) else {}

    def test(self) -> dict[str, float]:
        """On the test images, beside the floor: as many real training images instead of generated ones."""
        count = min(len(self.data.test), len(self.data.train), MAX_JUDGED)
        floor = quality(self._features("test"), self.judge(self.data.train.images[draw_stratified(self.data.train.labels, count, 0)])[0])
        return {**self._quality("test", 2), "floor_frechet": floor["frechet"], "floor_coverage": floor["coverage"]}

    def deploy(self, weights: Mapping[str, Tensor]) -> None:
        self.average.module.load_state_dict(dict(weights))

    def modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}

    def optimizers(self) -> dict[str, Any]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def schedulers(self) -> dict[str, Any]:
        return dict(self.schedules)

    def show(self, epoch: int, folder: Path) -> str:
        """samples.png: a row of ten images per class, from the same noise every epoch; a warning if the generator has collapsed."""
        classes = min(len(self.config.labels), 10)
        labels = np.repeat(np.arange(classes), 10)
        made = self.make(labels, 3)
        save_image(image_grid(made, 10, scale=2), folder / "samples.png")
        index = [np.flatnonzero(self.data.train.labels == label)[:10] for label in range(classes)]
        real = spread([self.data.train.images[i] for i in index])
        ours = spread([made[labels == label] for label in range(classes)])
        # The average of the first epochs still contains the random start, whose images are all alike.
        if epoch >= FIRST_SUSPECT and real and ours < COLLAPSED * real:
            return (
                f"the generator has collapsed: its images of a class differ by {ours:.3g} levels, real ones by {real:.3g}; "
                "stop, and try another --seed or a lower --learning-rate"
            )
        return ""

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        found, agreement, chance = [], metrics["test"]["agreement"], 1 / len(self.data.classes)
        if len(self.data.train) < ENOUGH:
            found.append(
                f"{len(self.data.train)} images are too few to learn to generate others: expect copies or noise; "
                f"give some thousands, {ENOUGH} at least"
            )
        if len(self.data.classes) > 1 and agreement < chance + (1 - chance) / 4:
            found.append(
                f"{agreement:.2%} of the generated images are read as the class that was asked for, and chance gives {chance:.2%}: "
                f"the images show little of their class; train longer (--epochs {2 * self.epochs}), or on more images"
            )
        return found

    def checkpoint(self) -> Checkpoint:
        weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in self.average.module.state_dict().items()}
        labels = np.arange(max(16, len(self.config.labels))) % len(self.config.labels)
        noise = np.random.default_rng(0).standard_normal((len(labels), self.config.noise), dtype=np.float32)
        return Checkpoint(
            family=self.family,
            weights=weights,
            examples={"noise": torch.from_numpy(noise), "label": torch.from_numpy(labels)},
            **self.described(),
        )


def spread(classes: list[np.ndarray]) -> float:
    """Mean standard deviation of a pixel within a class, in levels. ``classes``: uint8 (n, height, width, channels) each."""
    return float(np.mean([images.astype(np.float64).std(axis=0).mean() for images in classes if len(images) > 1] or [0.0]))
