"""A trained start for a recogniser (transfer learning): the trunk of a network that was trained before, for images of any size and colour.

From a run of ``train ae`` or ``train cnn``, or from an exported .onnx file, a shipped one for example. The convolutions are taken over;
the head is new. The first convolution is adapted where the images have other channels: grey to colour repeats its weights and divides
them by 3 (a grey image gives what it gave), colour to grey adds them. Where it is of another size (images from 112 pixels on), it starts
at random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.errors import CheckpointError, InputError
from onnxferry.runtime.kinds import AUTOENCODER, CNN
from onnxferry.runtime.onnx_file.protobuf import LENGTH, REPEATED, ProtobufReader
from onnxferry.runtime.onnx_file.reader import read_file
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.tensors import read_tensor
from onnxferry.train.loop.checkpoint import Checkpoint, load_checkpoint

STEM = "stem.0.weight"


@dataclass(frozen=True, eq=False)
class Start:
    """The trunk of a trained network."""

    name: str  # in words
    weights: Mapping[str, Tensor]  # of the modules ``stem`` and ``stages``
    folded: bool  # an exported file: each normalization is part of the convolution before it, whose bias is NAME_bias
    width: int
    blocks: tuple[int, int, int]
    made_for: Mapping[str, Any] | None = None  # the configuration of its images (channels, size, framing, mean, std), if it is known
    data: Mapping[str, Any] = field(default_factory=dict)  # what it was trained on

    def __post_init__(self) -> None:
        if STEM not in self.weights or self.width < 4:
            raise InputError(f"{self.name} holds no recogniser and no encoder of onnxferry train: give a run of train cnn or train ae")


def find_start(name: str | os.PathLike[str]) -> Start:
    """Of a run's folder or checkpoint, an .onnx file that was exported from one, or the name of a shipped model.

    Raises CheckpointError, ArtifactError or InputError for what is none of them.
    """
    path = Path(name)
    if path.is_dir() or path.suffix == ".pt":
        return start_of(load_checkpoint(path))
    return _from_file(find_model(name))


def start_of(checkpoint: Checkpoint) -> Start:
    """Of an autoencoder's or a recogniser's checkpoint."""
    if checkpoint.family not in (AUTOENCODER.name, CNN.name):
        raise CheckpointError(f"the run is of the family {checkpoint.family!r}: give one of train cnn or train ae")
    config = checkpoint.config
    return Start(
        name=f"a run of train {checkpoint.family}",
        weights=_trunk({name.removeprefix("encoder."): weight for name, weight in checkpoint.weights.items()}),
        folded=False,
        width=int(config["width"]),
        blocks=_three(config["blocks"]),
        made_for=config if checkpoint.family == AUTOENCODER.name else None,
        data=checkpoint.data,
    )


def _from_file(path: Path) -> Start:
    tensors = dict(_float_tensors(path))
    for prefix in ("network.encoder.", "network."):
        trunk = _trunk({name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)})
        if STEM in trunk:
            break
    width = len(trunk[STEM]) if STEM in trunk else 0
    outputs = [len(weight) for name, weight in trunk.items() if name.endswith("conv1.weight")]
    blocks = (outputs.count(width), outputs.count(2 * width), outputs.count(4 * width))
    return Start(path.stem, trunk, folded=True, width=width, blocks=blocks, data={"name": path.stem})


def _three(blocks: Any) -> tuple[int, int, int]:
    one, two, three = blocks
    return int(one), int(two), int(three)


def _trunk(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.startswith(("stem.", "stages."))}


def _float_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The float32 tensors of an .onnx file that lie in it as raw bytes, after the file was checked."""
    content = read_file(path, Limits()).content or path.read_bytes()
    reader = ProtobufReader(content, 10_000_000)
    for _, _, graph, graph_end in reader.fields(0, len(content), {7: LENGTH}):
        for _, _, start, end in reader.fields(graph, graph_end, {5: LENGTH | REPEATED}):
            header = read_tensor(reader, start, end, 1000)
            for _, _, at, stop in reader.fields(start, end, {9: LENGTH}):
                if header.element.onnx == "float":
                    array = np.frombuffer(content[at:stop], "<f4").reshape(header.shape)
                    yield header.name, torch.from_numpy(array.astype(np.float32))


def load_start(network: nn.Module, start: Start, images: Tensor) -> None:
    """Into ``network``'s ``stem`` and ``stages``. ``images``: preprocessed float32 (n, channels, size, size), for an exported file.

    There the normalizations are gone. Each is set so that with the mean and variance that it measures on ``images`` it changes nothing:
    the network then does in training what the file does.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(("stem.", "stages."))}
    weights = dict(start.weights)
    weights[STEM] = _adapted(weights[STEM], own[STEM])
    if not start.folded:
        network.load_state_dict({**network.state_dict(), **{name: weights[name] for name in own}})
        return
    convolutions = {name: weights[name] for name, tensor in own.items() if tensor.ndim == 4}
    network.load_state_dict({**network.state_dict(), **convolutions})
    handles = []
    for convolution, norm in _pairs(network):
        # As the exporter calls it that folds, or as a network does that was built again from a file.
        bias = weights.get(f"{convolution}.weight_bias", weights.get(f"{convolution}.bias"))
        handles.append(norm.register_forward_pre_hook(_neutral(torch.zeros(norm.num_features) if bias is None else bias)))
    network.train()
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()


def _adapted(weight: Tensor, own: Tensor) -> Tensor:
    """The first convolution's weights (outputs, channels, k, k) for the channels of ``own``; ``own`` itself if k is another."""
    if weight.shape[2:] != own.shape[2:]:
        return own
    if weight.shape[1] == own.shape[1]:
        return weight
    return weight.repeat(1, 3, 1, 1) / 3 if own.shape[1] == 3 else weight.sum(dim=1, keepdim=True)


def _pairs(network: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Each convolution's name and the normalization after it."""
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            head, _, last = name.rpartition(".")
            after = f"{head}.{last.replace('conv', 'norm')}" if last.startswith("conv") else f"{head}.{int(last) + 1}"
            norm = modules[after]
            if isinstance(norm, nn.BatchNorm2d):
                yield name, norm


def _neutral(bias: Tensor) -> Any:
    def hook(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.bias.data.copy_(mean + bias)
        count = inputs[0].numel() / inputs[0].shape[1]
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance * count / max(1.0, count - 1))  # type: ignore[union-attr]

    return hook
