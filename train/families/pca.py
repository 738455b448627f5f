"""Principal component analysis of images (Pearson 1901): the best linear map to as many numbers, which an autoencoder should beat.

scikit-learn's PCA gives the same errors to 1e-15, but needs all images as float64 at once: 719 MB for MNIST, against 219 MB in
batches here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EXACT = 4096
"""Up to so many numbers per image the covariance is diagonalized; above, a randomized method finds the components."""


FITTED_ON = 5000
"""Images that the randomized method uses."""


@dataclass(frozen=True, eq=False)
class Pca:
    mean: Tensor  # float64 (numbers,)
    components: Tensor  # float64 (numbers, count), orthonormal

    def mse(self, images: Tensor) -> float:
        """Mean squared error of the reconstruction of uint8 (n, …), as pixels in 0 … 1."""
        total = 0.0
        for start in range(0, len(images), 1000):
            centred = images[start : start + 1000].flatten(1).double() / 255 - self.mean
            total += float(((centred - centred @ self.components @ self.components.T) ** 2).sum())
        return total / max(1, images.numel())


def fit_pca(images: Tensor, count: int) -> Pca:
    """The first ``count`` components of uint8 images (n, …), or as many as there are."""
    flat = images.flatten(1)
    numbers = flat.shape[1]
    if numbers > EXACT:
        some = flat[torch.linspace(0, len(flat) - 1, min(len(flat), FITTED_ON)).long()].double() / 255
        mean = some.mean(dim=0)
        state = torch.random.get_rng_state()
        _, _, components = torch.pca_lowrank(some - mean, q=min(count, *some.shape), center=False, niter=4)
        torch.random.set_rng_state(state)  # a report must not change the training's random numbers
        return Pca(mean, components)
    total, square = torch.zeros(numbers, dtype=torch.float64), torch.zeros(numbers, numbers, dtype=torch.float64)
    for start in range(0, len(flat), 5000):
        part = flat[start : start + 5000].double() / 255
        total += part.sum(dim=0)
        square += part.T @ part
    mean = total / len(flat)
    _, vectors = torch.linalg.eigh(square / len(flat) - torch.outer(mean, mean))
    return Pca(mean, vectors[:, -min(count, numbers) :])
