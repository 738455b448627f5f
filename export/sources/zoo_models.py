"""``timm:resnet18`` and ``torchvision:resnet18``: a named architecture with its own weights and its own preparation of images.

The resize, crop and normalization that the library says for these weights go into the graph, and its class names behind. Weights come
from ``--weights``, or from the library's hub where that can be reached.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import Plan
from onnxferry.export.sources.named_models import NamedModel
from onnxferry.export.sources.pytorch.plan import plans as torch_plans
from onnxferry.export.sources.pytorch.weights import load_weights
from onnxferry.export.tasks.image_input import ImageInput
from onnxferry.export.tasks.plans import task_plans
from onnxferry.runtime.arguments import listed
from onnxferry.runtime.errors import ExportError, InputError, MissingExtraError, first_line

INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest"}
SECONDS = 5.0
"""For a connection to the hub."""

FITS = {"center": "crop", "squash": "stretch", "border": "pad"}
"""timm's crop modes."""


@dataclass(frozen=True)
class Prepared:
    """A model with what its library says of it."""

    module: torch.nn.Module
    image: ImageInput
    labels: tuple[str, ...]
    license: str = ""


def plans(named: NamedModel, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``example_inputs``: images, as :func:`export_model` takes them with ``image``, or None."""
    made = _timm(named) if named.library == "timm" else _torchvision(named)
    image = made.image
    if isinstance(options.image, ImageInput):
        image = options.image
    elif options.image:
        image = dataclasses.replace(image, **options.image)
    labels = list(options.labels) if options.labels is not None else list(made.labels) or None
    activation = options.activation if labels is None or options.activation != "auto" else "softmax"
    asked = dataclasses.replace(options, image=image, labels=labels, activation=activation)

    def make(pixels: Any, plain: ExportOptions) -> Sequence[Plan]:
        return torch_plans(made.module.eval(), tuple(map(torch.from_numpy, pixels)), plain, target)

    found = task_plans(make, "torch", example_inputs, asked)
    note = (
        f"images are prepared as {named.library} says for {named.name}: {image.height}x{image.width}, {image.fit}, {image.interpolation}; "
        "it rounds to whole levels after resizing, and the graph does not"
    )
    for plan in found:
        if isinstance(plan.source.notes, list):
            plan.source.notes.append(note)
    return [dataclasses.replace(each, contract=each.contract.replace(license=made.license)) if each.contract else each for each in found]


def _imported(library: str) -> Any:
    try:
        return __import__(library)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or library, "timm", f"models of {library}") from error
    except (RuntimeError, OSError, ImportError) as error:  # torchvision made for another torch: its operators are missing
        raise ExportError(
            f"{library} cannot be imported ({type(error).__name__}: {first_line(error)[:200]}): torchvision has to be one made "
            "for this torch, see https://pytorch.org/get-started/locally/"
        ) from error


def _timm(named: NamedModel) -> Prepared:
    timm = _imported("timm")
    if not timm.is_model(named.name.partition(".")[0]):
        near = timm.list_models(f"*{named.name.partition('.')[0][:8]}*")[:5]
        raise InputError(f"timm {timm.__version__} has no model {named.name!r}{f'; it has {listed(near)}' if near else ''}")
    module = _made(named, lambda own: timm.create_model(named.name, pretrained=own))
    said = timm.data.resolve_data_config({}, model=module)
    channels, height, width = said["input_size"]
    fit = FITS.get(said.get("crop_mode", "center"), "")
    interpolation = INTERPOLATIONS.get(said["interpolation"], "")
    if not fit or not interpolation or channels not in (1, 3):
        raise InputError(f"timm prepares images for {named.name} in a way that has no equivalent here ({said}): give image= (--image …)")
    resize = int(max(height, width) / said["crop_pct"]) if fit == "crop" else None
    image = ImageInput(
        height=height,
        width=width,
        channels=channels,
        scale=1 / 255,
        mean=tuple(said["mean"]),
        std=tuple(said["std"]),
        fit=fit,
        resize=resize,
        interpolation=interpolation,
    )
    config: Any = module.pretrained_cfg
    return Prepared(module, image, _imagenet_names(timm, config, int(module.num_classes)), str(config.get("license") or ""))


def _imagenet_names(timm: Any, config: Any, classes: int) -> tuple[str, ...]:
    """The class names that timm has for the data that these weights were trained on; empty where it has none."""
    subset = timm.data.infer_imagenet_subset(config)
    if subset is None:
        return ()
    info = timm.data.ImageNetInfo(subset)
    names = [str(name) for name in info.label_descriptions()]
    return _unique(names) if len(names) == classes else ()


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Two breeds may have one name: the second gets a number."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(made)


def _torchvision(named: NamedModel) -> Prepared:
    torchvision = _imported("torchvision")
    known = torchvision.models.list_models(module=torchvision.models)
    if named.name not in known:
        near = [name for name in known if named.name[:6] in name][:5]
        raise InputError(
            f"torchvision {torchvision.__version__} classifies with no {named.name!r}{f'; it has {listed(near)}' if near else ''}"
        )
    weights = torchvision.models.get_model_weights(named.name).DEFAULT
    module = _made(named, lambda own: torchvision.models.get_model(named.name, weights=weights if own else None))
    said = weights.transforms()
    (size,), (resize,) = said.crop_size, said.resize_size
    image = ImageInput(
        height=size,
        width=size,
        channels=3,
        scale=1 / 255,
        mean=tuple(said.mean),
        std=tuple(said.std),
        fit="crop",
        resize=resize,
        interpolation=INTERPOLATIONS[said.interpolation.value],
    )
    return Prepared(module, image, _unique([str(name) for name in weights.meta["categories"]]))


def _made(named: NamedModel, make: Any) -> Any:
    """With the given weights, else with the library's own. Raises ExportError where those cannot be downloaded."""
    if named.weights is not None:
        module = make(False)
        load_weights(module, named.weights)
        return module
    try:
        with _without_retries():
            return make(True)
    except Exception as error:
        raise ExportError(
            f"the weights of {named.library}:{named.name} cannot be downloaded ({type(error).__name__}: {first_line(error)[:100]}): "
            "give them as a file, weights= (--weights FILE.safetensors)"
        ) from error


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    """Where no hub can be reached, its client looks in its cache alone: else it tries for more than a minute."""
    try:
        socket.create_connection(("huggingface.co", 443), SECONDS).close()
    except OSError:
        from huggingface_hub import constants

        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before
        return
    yield
