"""Autoencoding (family ``ae``): a convolutional autoencoder, plain, variational or denoising, and its training.

The encoder is the recogniser's trunk (residual blocks, He et al. 2015, arXiv 1512.03385) and a linear map to the latents
(Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks"); the decoder mirrors it, and
upsamples by repeating pixels before a convolution (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
``variational``: the encoder gives a normal distribution, sampled by the reparameterization of Kingma and Welling 2013
(arXiv 1312.6114) and kept near the standard one with the weight ``kl`` (Higgins et al. 2017, beta-VAE). ``denoise``: noise is
added to the input, and the target is the clean image (Vincent et al. 2008).

Each report has the error of PCA with as many components beside the network's: the best a linear map can do.
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

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.grid import image_grid, save_image
from onnxferry.runtime.kinds import AUTOENCODER
from onnxferry.train.data.augment import AugmentConfig, augment
from onnxferry.train.data.images import ImageSplits
from onnxferry.train.families.cnn import Block, fast_layout, preprocess_all, start_convolutions, trunk
from onnxferry.train.families.pca import Pca, fit_pca
from onnxferry.train.loop.averaged import AveragedLearner
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.loop.schedule import part_of, updates_per_epoch
from onnxferry.train.options import check_positive, option
from onnxferry.train.preprocessing import Preprocessing, check_images

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MAX_SIZE = 96
"""Largest side of the input square: above it the trunk would halve three times."""


ANOMALY_QUANTILE = 0.99
"""Share of the held-out images that are below the anomaly threshold."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that is needed to rebuild the network and its two graphs."""

    channels: int = 1  # of the image: 1 grey, 3 colour
    size: int = 28  # side of the network's input square, pixels; a multiple of 4
    latent: int = option(32, "numbers that an image becomes")
    width: int = option(16, "channels of the first stage; the stages are 1, 2 and 4 times as wide", min=4, max=256)
    blocks: tuple[int, int, int] = (1, 1, 1)  # residual blocks per stage
    framing: str = "fit"  # kind of preprocessing: see preprocessing.py
    variational: bool = option(False, "learn a distribution of latents")
    linear: bool = False  # PCA beside both networks, which then learn what it cannot do: for few images
    mean: tuple[float, ...] = (0.5,)  # of the preprocessed training images, per channel
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        check_images(self.framing, self.channels, self.size)
        pixels = self.channels * self.size**2
        if not 1 <= self.latent <= pixels:
            raise InputError(f"latent must be from 1 to the image's own {pixels} numbers, got {self.latent}")
        if self.size % 4 or not 8 <= self.size <= MAX_SIZE:
            raise InputError(f"an autoencoder takes a size that is a multiple of 4, from 8 to {MAX_SIZE}, got {self.size}")


@dataclass(frozen=True)
class AutoencoderOptions:
    """How it is trained."""

    epochs: int = option(25, "passes over the data", min=1)
    batch: int = option(128, "images per step, over all devices together", min=2)
    learning_rate: float = option(3e-3, "highest learning rate of the cycle", min=0.0)
    weight_decay: float = 0.01
    kl: float = option(0.5, "weight of the divergence, against the squared error summed over an image (variational)")
    denoise: float = option(0.0, "standard deviation of the noise that is added to the input and to be removed, images being 0 to 1")
    average: float = 0.998  # decay of the moving average, per step
    augment: AugmentConfig | None = None  # of the training images, for few of them

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")
        for name in ("kl", "denoise"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")


class Encoder(nn.Module):
    """Preprocessed images float32 (batch, channels, size, size) in 0 … 1 → mean, log variance (batch, latent); None if plain."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        shape = (1, config.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(config.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(config.std).reshape(shape))
        self.stem, self.stages = trunk(config.channels, config.size, config.width, config.blocks)
        # Fewer channels before the large linear map, which would be most of the file otherwise.
        few = 2 * config.width
        self.squeeze = nn.Sequential(nn.Conv2d(4 * config.width, few, 1, bias=False), nn.BatchNorm2d(few), nn.ReLU())
        self.variational = config.variational
        self.head = nn.Linear(few * (config.size // 4) ** 2, config.latent * (2 if config.variational else 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        latent = self.head(self.squeeze(self.stages(self.stem((images - self.mean) / self.std))).flatten(1))
        if not self.variational:
            return latent, None
        mean, log_variance = latent.chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 12)


class Decoder(nn.Module):
    """Latents float32 (batch, latent) → images float32 (batch, channels, size, size) in 0 … 1."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, side = config.width, config.size // 4
        self.shape = (2 * width, side, side)
        self.head = nn.Linear(config.latent, 2 * width * side**2)
        self.widen = nn.Sequential(nn.ReLU(), nn.Conv2d(2 * width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU())
        self.coarse = Block(4 * width, 4 * width, 1)
        self.middle = Block(4 * width, 2 * width, 1)
        self.fine = Block(2 * width, width, 1)
        self.pixels = nn.Conv2d(width, config.channels, 3, 1, 1)
        start_convolutions(self.widen)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.coarse(self.widen(self.head(latent).reshape(-1, *self.shape)))
        x = self.middle(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.fine(F.interpolate(x, scale_factor=2, mode="nearest"))
        return torch.sigmoid(self.pixels(x))


class LinearEncoder(Encoder):
    """PCA's latents, each of variance 1 on the training images, plus what the network adds, which is nothing at first."""

    centre: Tensor
    components: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        numbers = config.channels * config.size**2
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("components", torch.zeros(numbers, config.latent))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        added, log_variance = super().forward(images)
        return added + (images.flatten(1) - self.centre) @ self.components, log_variance


class LinearDecoder(Decoder):
    """PCA's reconstruction plus what the network adds, from -1 to 1, which is nothing at first."""

    centre: Tensor
    components: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        numbers = config.channels * config.size**2
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("components", torch.zeros(config.latent, numbers))
        nn.init.zeros_(self.pixels.weight)
        if self.pixels.bias is not None:
            nn.init.zeros_(self.pixels.bias)

    def forward(self, latent: Tensor) -> Tensor:
        added = 2 * super().forward(latent) - 1
        made = added + (latent @ self.components + self.centre).reshape(added.shape)
        return made if self.training else made.clamp(0, 1)


class Autoencoder(nn.Module):
    """Preprocessed images → reconstruction of the same shape, mean and log variance of the latents.

    A variational one decodes a sample of that distribution in training, and otherwise its mean.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = LinearEncoder(config) if config.linear else Encoder(config)
        self.decoder = LinearDecoder(config) if config.linear else Decoder(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        mean, log_variance = self.encoder(images)
        latent = mean
        if self.training and log_variance is not None:
            latent = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return self.decoder(latent), mean, log_variance


def start_from_pca(network: Autoencoder, pca: Pca, images: Tensor) -> None:
    """Set the linear parts: ``pca`` of the training ``images`` uint8 (n, channels, size, size)."""
    components, centre = pca.components.float(), pca.mean.float()
    if not isinstance(network.encoder, LinearEncoder) or not isinstance(network.decoder, LinearDecoder):
        raise TypeError("this autoencoder has no linear part")
    spread = ((images.flatten(1).float() / 255 - centre) @ components).std(dim=0, correction=0).clamp(min=1e-4)
    count = components.shape[1]  # fewer than the latents where there are fewer images
    network.encoder.components[:, :count].copy_(components / spread)
    network.decoder.components[:count].copy_((components * spread).T)
    network.encoder.centre.copy_(centre)
    network.decoder.centre.copy_(centre)


def to_pixels(images: Tensor) -> Tensor:
    """float32 (batch, channels, height, width) in 0 … 1 → uint8 (batch, height, width, channels)."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class EncoderTask(nn.Module):
    """The first file: ``image`` uint8 (batch, height, width, channels) → reconstruction, latent, anomaly_score.

    The score is the mean squared error of the reconstruction, over the input square's pixels in 0 … 1.
    """

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.preprocess = Preprocessing(network.config.framing, network.config.size)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        framed = self.preprocess(image)
        reconstruction, latent, _ = self.network(framed)
        return to_pixels(reconstruction), latent, ((reconstruction - framed) ** 2).mean(dim=(1, 2, 3))


class DecoderTask(nn.Module):
    """The second file: ``latent`` float32 (batch, latent) → ``image`` uint8 (batch, size, size, channels)."""

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return to_pixels(self.decoder(latent))


def model_from_config(config: Mapping[str, Any]) -> Autoencoder:
    return Autoencoder(config_from(AutoencoderConfig, config))


class AutoencoderLearner(AveragedLearner):
    family = AUTOENCODER.name
    criterion = "mse"

    def __init__(
        self,
        data: ImageSplits,
        options: AutoencoderOptions,
        *,
        latent: int = AutoencoderConfig.latent,
        width: int = AutoencoderConfig.width,
        variational: bool = AutoencoderConfig.variational,
        linear: bool = AutoencoderConfig.linear,
        seed: int = 0,
    ) -> None:
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        self.options = options
        _, size, _, channels = data.train.images.shape
        self.config = AutoencoderConfig(channels=channels, size=size, latent=latent, width=width, variational=variational, linear=linear)
        preprocess = Preprocessing(self.config.framing, size)
        self.images = preprocess_all(data.train.images, preprocess)  # uint8 (n, c, size, size)
        self.held_out = preprocess_all(data.validation.images, preprocess) if len(data.validation) else self.images[:0]
        self.tested = preprocess_all(data.test.images, preprocess)
        scaled = self.images.float() / 255
        mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3)).clamp(min=1e-3)
        self.config = dataclasses.replace(
            self.config, mean=tuple(round(v, 4) for v in mean.tolist()), std=tuple(round(v, 4) for v in std.tolist())
        )
        self.pca: Pca = fit_pca(self.images, latent)

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        network = Autoencoder(self.config)
        if self.config.linear:
            start_from_pca(network, self.pca, self.images)
        network = network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay)
        self.prepare(fabric, network, optimizer, average=self.options.average, total_steps=total_steps, warm_up=0.2)

    @property
    def memory_format(self) -> torch.memory_format:
        return fast_layout(self.config.width)

    def steps_per_epoch(self) -> int:
        return updates_per_epoch(len(self.images), self.options.batch)

    def batches(self, epoch: int, start: int) -> Iterator[Tensor]:
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.images)))
        steps = self.steps_per_epoch()
        for step in range(start, steps):
            index = part_of(order, step, steps, self.fabric.global_rank, self.fabric.world_size)
            yield self.images[index].to(self.fabric.device)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        clean = batch.float() / 255
        if self.options.augment is not None:
            with torch.no_grad():
                clean = augment(clean, self.options.augment)
        clean = clean.contiguous(memory_format=self.memory_format)
        read = clean + torch.randn_like(clean) * self.options.denoise if self.options.denoise else clean
        reconstruction, mean, log_variance = self.network(read)
        # Summed over the image, so that the divergence has the same weight at every size.
        error = ((reconstruction.float() - clean) ** 2).sum(dim=(1, 2, 3)).mean()
        loss, metrics = error, {}
        if log_variance is not None:
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
            loss = error + self.options.kl * divergence
            metrics["kl"] = divergence.detach()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach(), "mse": error.detach() / clean[0].numel(), **metrics}

    def errors(self, images: Tensor) -> np.ndarray:
        """Images uint8 (n, c, size, size) → mean squared error of each, pixels in 0 … 1: float64 (n,)."""
        network = self.average.module.eval()
        found = [np.zeros(0)]
        with torch.inference_mode():
            for start in range(0, len(images), 500):
                framed = images[start : start + 500].to(self.fabric.device).float() / 255
                found.append(((network(framed)[0] - framed) ** 2).mean(dim=(1, 2, 3)).cpu().double().numpy())
        return np.concatenate(found)

    def _score(self, images: Tensor) -> dict[str, float]:
        mse, linear = float(self.errors(images).mean()), self.pca.mse(images)
        return {"mse": mse, "pca_mse": linear, "of_pca": mse / max(linear, 1e-12), "n": len(images)}

    def validate(self) -> dict[str, float]:
        return self._score(self.held_out) if len(self.held_out) else {}

    def test(self) -> dict[str, float]:
        return self._score(self.tested)

    def show(self, epoch: int, folder: Path) -> str:
        """reconstructions.png: originals, each above its reconstruction."""
        images = (self.held_out if len(self.held_out) else self.images)[:20]
        with torch.inference_mode():
            made = to_pixels(self.average.module.eval()(images.to(self.fabric.device).float() / 255)[0].cpu()).numpy()
        originals = images.permute(0, 2, 3, 1).numpy()
        rows = [part for first in (0, 10) for part in (originals[first : first + 10], made[first : first + 10])]
        save_image(image_grid(np.concatenate(rows), min(10, len(images)), scale=2), folder / "reconstructions.png")
        return ""

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        ratio = metrics["test"]["of_pca"]
        if ratio <= 1:
            return []
        return [
            f"the error is {ratio:.2f} times that of PCA with as many numbers, so the network has not learned what a linear map does: "
            f"train longer (--epochs {2 * self.epochs}), on more images, or with another --latent"
        ]

    def checkpoint(self) -> Checkpoint:
        weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in self.average.module.state_dict().items()}
        # Without a validation part the threshold is set on training images, a little too low for new ones.
        judged = self.held_out if len(self.held_out) else self.images[:5000]
        first = [int(np.flatnonzero(self.data.test.labels == c)[0]) for c in np.unique(self.data.test.labels)][:16]
        return Checkpoint(
            family=self.family,
            weights=weights,
            metrics={"anomaly_threshold": float(np.quantile(self.errors(judged), ANOMALY_QUANTILE)), "anomaly_quantile": ANOMALY_QUANTILE},
            examples={"image": torch.from_numpy(self.data.test.images[first]).clone()},
            **self.described(),
        )
