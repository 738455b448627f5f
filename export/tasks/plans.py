"""The plan of a model with an image in front of it, classes behind it, or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.export.options import ExportOptions, Feeds
from onnxferry.export.source import InputSpec, Plan, Source
from onnxferry.export.tasks.classifier_head import as_labels, head_for, head_note
from onnxferry.export.tasks.image_input import ImageInput, as_image_input, drawn_images
from onnxferry.export.tasks.source import IMAGE, TaskSource
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.kinds import MODEL, RECOGNISER

MakePlans = Callable[[Any, ExportOptions], Sequence[Plan]]
"""What a framework's own plans are made by, from example inputs and options."""


EXAMPLE_IMAGES = 8
"""Drawn images that a model is traced with, and that show whether it gives probabilities."""


SIZE = "image='28x28x1' (--image HEIGHTxWIDTHxCHANNELS)"

GOLDEN_SIDE = 64
"""Longest side of a golden sample's images, so that they fit in the file."""


def task_plans(make: MakePlans, package: str, example_inputs: Any, options: ExportOptions) -> Sequence[Plan]:
    """``package``: the framework's, "" where it reads files."""
    plain = dataclasses.replace(options, labels=None, image=None, activation="auto", scores=None)
    if options.image is None or isinstance(options.image, Mapping):  # the size is the model's own
        fields = options.image or {}
        try:
            (plan,) = make(example_inputs, plain)
        except InputError as error:
            if not fields:
                raise
            raise InputError(f"{error}; or say the size of its image: {SIZE}") from error
        image = _as_it_is(plan.source.inputs)
        if image is None and not fields:
            return [_with_head(plan, None, "", options)]
        image = _with_fields(image, fields, plan.source.inputs)
        return [_with_head(_as_images(plan, plain), image, image.layout, options)]
    image = as_image_input(options.image)
    plan, layout = _of_images(make, package, example_inputs, image, plain)
    return [_with_head(plan, image, layout, options)]


def _of_images(make: MakePlans, package: str, example_inputs: Any, image: ImageInput, options: ExportOptions) -> tuple[Plan, str]:
    """The model on images, in the first layout that it takes."""
    if example_inputs is not None and not (isinstance(example_inputs, Mapping) and set(example_inputs) <= {IMAGE}):
        raise InputError(
            "with an image in front of the model, the examples are images: give None, or {'image': uint8 (n, height, width, channels)}"
        )
    given = [] if not example_inputs else [dict(example_inputs)]
    samples = [*given, *options.samples]
    plain = dataclasses.replace(options, samples=(), golden=True, dynamic_shapes=None)
    if package == "":
        layouts: Sequence[str] = ()
    elif image.layout != "auto":
        layouts = (image.layout,)
    else:
        layouts = {"sklearn": ("flat",), "keras": ("nhwc", "nchw", "nhw", "flat")}.get(package, ("nchw", "flat", "nhwc", "nhw"))
    if not layouts:  # it brings an example of its own, whose shape says it
        (plan,) = make(None, plain)
        return _checked(plan, samples, options), _layout_of(_only(plan.source), image)
    drawn = drawn_images(image.height, image.width, image.channels, EXAMPLE_IMAGES)
    first: Exception | None = None
    for layout in layouts:
        if layout == "nhw" and image.channels != 1:
            continue
        pixels = image.arranged(drawn, layout)
        shapes = [{0: "batch"}] if package == "torch" else None
        try:
            (plan,) = make((pixels,) if package == "torch" else pixels, dataclasses.replace(plain, dynamic_shapes=shapes))
        except (ExportError, InputError) as error:
            first = first or error
            continue
        return _checked(plan, samples, options), layout
    raise first or InputError("the model takes no image")


def _checked(plan: Plan, samples: Sequence[Feeds], options: ExportOptions) -> Plan:
    """With the samples and golden samples that are images already."""
    _only(plan.source)
    goldens = options.golden if isinstance(options.golden, Sequence) else None
    for feeds in (*samples, *(goldens or ())):
        if set(feeds) != {IMAGE}:
            raise InputError(
                f"samples hold {', '.join(map(repr, feeds))}, expected the one array 'image', uint8 (n, height, width, channels)"
            )
    named = {f"sample {number}": feeds for number, feeds in enumerate(samples)}
    return dataclasses.replace(plan, samples=named, goldens=options.chosen_goldens(None))


def _only(source: Source) -> InputSpec:
    if len(source.inputs) != 1:
        names = ", ".join(spec.name for spec in source.inputs)
        raise InputError(f"an image goes into a model with one input, and this one has {len(source.inputs)}: {names}")
    return source.inputs[0]


def _layout_of(spec: InputSpec, image: ImageInput) -> str:
    """How an input of that shape takes such an image. Raises InputError where it does not."""
    high, wide, deep = image.height, image.width, image.channels
    shapes = {"nchw": (deep, high, wide), "nhwc": (high, wide, deep), "nhw": (high, wide), "flat": (high * wide * deep,)}
    if spec.dtype == "str" or spec.dtype == "bool":
        raise InputError(f"the input {spec.name!r} takes {spec.dtype}, no image")
    for layout, shape in shapes.items():
        fits = len(spec.shape) == len(shape) + 1 and all(isinstance(s, str) or s == n for s, n in zip(spec.shape[1:], shape, strict=True))
        if fits and (layout != "nhw" or deep == 1) and image.layout in ("auto", layout):
            return layout
    raise InputError(f"an image of {high}x{wide}x{deep} does not fit the model's input {spec.name!r}, {spec.dtype} {spec.shape}")


def _as_it_is(inputs: Sequence[InputSpec]) -> ImageInput | None:
    """For labels alone: the image that an input of four axes takes, with its values as they are; None where the input is none."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype in ("str", "bool", "int64", "int32"):
        return None
    shape = inputs[0].traced[1:]
    if any(isinstance(size, str) for size in inputs[0].shape[1:]):
        return None
    for layout, (deep, high, wide) in (("nchw", shape), ("nhwc", (shape[2], *shape[:2]))):
        if deep in (1, 3) and min(high, wide) > 3:
            return ImageInput(height=high, width=wide, channels=deep, layout=layout)
    return None


def _with_fields(image: ImageInput | None, fields: Mapping[str, Any], inputs: Sequence[InputSpec]) -> ImageInput:
    """The image that the model's own input has, made as these fields of :class:`ImageInput` say."""
    if image is None:
        shapes = ", ".join(f"{spec.name}: {spec.dtype} {spec.shape}" for spec in inputs)
        raise InputError(f"the model's input does not say the size of an image ({shapes}): give it, {SIZE}")
    if fields.get("layout", "auto") not in ("auto", image.layout):
        raise InputError(
            f"layout={fields['layout']!r} does not fit the model's input, which is {image.layout}: leave it out, or give {SIZE}"
        )
    try:
        return dataclasses.replace(image, **{**fields, "layout": image.layout})
    except TypeError as error:
        raise InputError(f"image must be an ImageInput, a size such as '28x28x1', or a dict of ImageInput's fields ({error})") from error


def _as_images(plan: Plan, options: ExportOptions) -> Plan:
    if options.samples or not isinstance(options.golden, bool):
        raise InputError("the model takes images: say how they are made, with image= (--image HEIGHTxWIDTHxCHANNELS --scale …)")
    return dataclasses.replace(plan, samples={}, goldens=options.chosen_goldens(None))


def _with_head(plan: Plan, image: ImageInput | None, layout: str, options: ExportOptions) -> Plan:
    labels = as_labels(options.labels) if options.labels is not None else plan.labels
    notes = []
    head = None
    bare = TaskSource(plan.source, image, layout, None)
    if labels:
        try:
            outputs = bare.run(_telling(bare))
        except (ExportError, InputError):
            raise
        except Exception as error:
            raise ExportError(f"the model fails on images ({type(error).__name__}: {error})") from error
        head = head_for(outputs, labels, options.activation, options.scores)
        notes.append(head_note(head, outputs))
    elif options.activation != "auto" or options.scores is not None:
        raise InputError("activation and scores say how classes are made of an output: give labels= (--labels), too")
    if image is not None and image.plain and np.dtype(plan.source.inputs[0].dtype).kind == "f":
        notes.append("pixels go into the model as 0 to 255: give --scale 1/255, or mean and std, if it was trained on other values")
    source = TaskSource(plan.source, image, layout, head, notes)
    batch = source.inputs[0].shape[0] if image is not None else "batch"
    if isinstance(batch, int) and batch > 1:
        raise InputError(f"the model takes {batch} images at once, no more and no fewer: export it with a batch that is open, or of 1")
    goldens = plan.goldens
    if goldens is None and image is not None:
        goldens = _golden_images(image, source.inputs[0].shape[0])
    return dataclasses.replace(plan, source=source, contract=_contract(plan, image, layout, labels, source), goldens=goldens)


def _telling(source: TaskSource) -> Feeds:
    """Inputs whose answers tell logits from probabilities: those of the model, and of images plain ones too."""
    if source.image is None:
        return source.examples
    shape = source.inputs[0].shape
    drawn = drawn_images(source.image.height, source.image.width, source.image.channels, EXAMPLE_IMAGES)
    drawn[-1], drawn[-2] = 255, 0
    return {IMAGE: drawn[: shape[0]] if isinstance(shape[0], int) else drawn}


def _contract(plan: Plan, image: ImageInput | None, layout: str, labels: Sequence[str], source: TaskSource) -> Contract:
    kind = RECOGNISER if image is not None and labels else MODEL
    options: dict[str, Any] = dict(plan.contract.options) if plan.contract else {}
    if image is not None:
        size = {"channels": image.channels, "image_size": [image.height, image.width]}
        options |= {**size, "image_input": dataclasses.replace(image, layout=layout).to_json()}
    if source.head is not None:
        options |= {"activation": source.head.activation, "scores": source.head.scores}
    known = f"Recognises {len(labels)} classes in images of any size" if kind is RECOGNISER else ""
    contract = plan.contract or Contract(kind=kind.name, name="")
    # What was measured, or promised, of the file as it came does not hold for this one.
    return contract.replace(
        kind=kind.name, labels=tuple(labels), options=options, description=contract.description or known, metrics={}, certificate={}
    )


def _golden_images(image: ImageInput, batch: int | str) -> list[Feeds]:
    """At the model's own size where it is small, and at another, so that a replay covers resizing too."""
    high, wide = min(image.height, GOLDEN_SIDE), min(image.width, GOLDEN_SIDE)
    count = batch if isinstance(batch, int) else 2
    sizes = ((high, wide, count), (max(1, high * 2 // 3), wide + 5, batch if isinstance(batch, int) else 1))
    return [{IMAGE: drawn_images(h, w, image.channels, n, seed=5 + k)} for k, (h, w, n) in enumerate(sizes)]
