"""The options of ``export`` that put an image in front of a model and classes behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxferry.export.tasks.image_input import CHANNELS, FITS, INTERPOLATIONS, LAYOUTS, ImageInput
from onnxferry.runtime.errors import DataError, InputError

PANEL = "Images and classes"


LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,C|FILE",
        help="Class names in the order of the model's outputs, or a text file with one a line.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="HxWxC",
        help="The file takes images of any size; this is the size that the model takes, such as 28x28x1 or 224x224x3. "
        "Not needed where the model's input says it.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


ScaleOption = Annotated[
    str | None,
    typer.Option("--scale", metavar="S", help="Multiplies each pixel, 0 to 255: 1/255.", rich_help_panel=PANEL, show_default=False),
]


MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="M[,M,M]",
        help="Subtracted after --scale; one number, or one a channel.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


StdOption = Annotated[
    str | None,
    typer.Option("--std", metavar="S[,S,S]", help="Divided by after --mean; as --mean.", rich_help_panel=PANEL, show_default=False),
]


FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help=f"How an image of another size fits: {', '.join(FITS)}. stretch if not given.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


ResizeOption = Annotated[
    int | None,
    typer.Option(
        "--resize",
        metavar="N",
        help="With --fit crop: the shorter side before the middle is cut out.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


InterpolationOption = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        help=f"{', '.join(INTERPOLATIONS)}. bilinear (as Pillow and torchvision) if not given; linear is OpenCV's and Keras'.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


ColorOption = Annotated[
    str | None,
    typer.Option(
        "--color",
        help=f"Order of the model's channels: {', '.join(CHANNELS)}. rgb if not given.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


LayoutOption = Annotated[
    str | None,
    typer.Option("--layout", help=f"{', '.join(LAYOUTS)}. What the model takes if not given.", rich_help_panel=PANEL, show_default=False),
]


ActivationOption = Annotated[
    str,
    typer.Option(
        "--activation",
        help="With --labels: softmax or sigmoid for logits, none for probabilities, auto by what the model gives.",
        rich_help_panel=PANEL,
    ),
]


ScoresOption = Annotated[
    str | None,
    typer.Option(
        "--scores",
        metavar="OUTPUT",
        help="With --labels: the output that they name, of several.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


def labels_from(text: str | None) -> list[str] | None:
    """Class names, from a list with commas or from a text file with one a line."""
    if text is None:
        return None
    path = Path(text)
    if "," not in text or path.is_file():
        if not path.is_file():
            raise InputError(f"--labels takes names with commas between them, or a file with one a line; there is no file {text}")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a text file of labels: {error}") from error
        names = [line.strip() for line in lines]
        while names and not names[-1]:
            names.pop()
    else:
        names = [name.strip() for name in text.split(",")]
    if not names or "" in names:
        raise InputError(f"a label is empty in {text!r}; expected one name for each class")
    return names


def image_from(
    size: str | None,
    scale: str | None,
    mean: str | None,
    std: str | None,
    **others: Any,
) -> ImageInput | dict[str, Any] | None:
    """The image that the options describe; None where there is none, and a dict of fields where the model says its size.

    ``others``: fields of :class:`ImageInput`, None if not given.
    """
    given = {name: value for name, value in others.items() if value is not None}
    for name, text in (("scale", scale), ("mean", mean), ("std", std)):
        if text is not None:
            numbers = tuple(_number(name, part) for part in text.split(","))
            given[name] = numbers if name != "scale" else numbers[0]
            if name == "scale" and len(numbers) > 1:
                raise InputError(f"--scale is one number, such as 1/255, got {text!r}; for one a channel use --std")
    if size is None:
        return given or None
    return ImageInput.parse(size, **given)


def _number(name: str, text: str) -> float:
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"--{name} takes numbers such as 0.5 or 1/255, got {text!r}") from error
