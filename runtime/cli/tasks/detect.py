"""``onnxferry detect``: find objects in images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.text import Text

from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    command,
    new_app,
    new_table,
    plain,
    print_error,
    print_json,
    print_next,
    progress_bar,
    stdout,
)
from onnxferry.runtime.cli.tasks.image_arguments import Unreadable, image_names, key_of, opened_images, shown_names
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import check_place
from onnxferry.runtime.images.boxes import draw_boxes
from onnxferry.runtime.images.grid import save_image
from onnxferry.runtime.images.inputs import decode_each
from onnxferry.runtime.tasks.detector import Detections, Detector
from onnxferry.runtime.tasks.loading import load_as

app = new_app()


@app.command()
def detect(
    model: ModelArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images, folders of images, or - for one on stdin.", show_default=False)
    ],
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write the image with the boxes drawn into it.", show_default=False)
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out objects with a lower score; the model's own if not given.", show_default=False),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Of two boxes that share more than this part of their union keep the likelier; the model's own if not given.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Find objects in images: a label, a score and a box for each.

    Boxes are in pixels of the image: left, top, right, bottom. The labels from left to right, line by line, are the text: a number
    that was written by hand. An image that cannot be read is reported by name and the others are still searched; the exit code is then 1.

    ```
    onnxferry detect digit-scenes number.png --picture boxes.png
    onnxferry detect digit-scenes photos/ --score 0.6 --json
    ```

    With --json:

    ```
    {"model": "digit-scenes", "device": "cpu",
     "results": [{"image": "number.png", "text": "42",
                  "objects": [{"label": "4", "index": 4,
                               "score": 0.97,
                               "box": [12.1, 8.0, 33.9, 40.2]}]}],
     "picture": "boxes.png",
     "errors": [{"image": "x.png", "error": "x.png: broken ..."}]}
    ```
    """
    names = image_names(images)
    if picture is not None:
        check_place(picture)
        if len(names) > 1:
            raise InputError(f"--picture draws one image, and {len(names)} are given; give one, or leave --picture out")
    with load_as(Detector, model, device, threads) as detector:
        found: dict[str, Detections] = {}
        last: list[np.ndarray] = []
        with progress_bar("searching", len(names)) as advance:
            unreadable = Unreadable(advance)
            decoded = _kept(decode_each(opened_images(names), unreadable), last, picture is not None)
            for key, objects in detector.detect_each(decoded, score_threshold=score, iou_threshold=overlap):
                found[key] = objects
                advance(1)
        device_used = detector.engine.device
    rows = [(name, found[key_of(name)]) for name in names if key_of(name) in found]
    if picture is not None and last and rows:
        objects = rows[0][1]
        save_image(
            draw_boxes(last[0], [each.box for each in objects], [each.label for each in objects], [each.index for each in objects]), picture
        )
    written = str(picture) if picture is not None and rows else None
    if as_json:
        print_json(
            {
                "model": model,
                "device": device_used,
                "results": [{"image": name, **objects.to_dict()} for name, objects in rows],
                "picture": written,
                "errors": [{"image": name, "error": str(error)} for name, error in unreadable.errors],
            }
        )
    elif rows:
        _print_table(rows)
        if written:
            stdout().print(f"{plain(written)} written", soft_wrap=True)
    for _, error in unreadable.errors:
        print_error(str(error))
    if not unreadable.errors and not as_json:
        drawn = () if picture else (command("detect", model, images[0], "--picture", "boxes.png"),)
        print_next(command("inspect", model), *drawn)
    return 1 if unreadable.errors else 0


def _kept(decoded: Iterator[tuple[Any, np.ndarray]], kept: list[np.ndarray], keep: bool) -> Iterator[tuple[Any, np.ndarray]]:
    """The same, the images noted in ``kept`` if they are to be drawn into."""
    for key, image in decoded:
        if keep:
            kept.append(image)
        yield key, image


def _print_table(rows: Sequence[tuple[str, Detections]]) -> None:
    console = stdout()
    numbers = ("score", "left", "top", "right", "bottom")
    folder, names = shown_names([name for name, _ in rows], 24 if console.is_terminal else None)
    table = new_table("image", "label", *numbers, right=numbers, title=folder)
    for name, (_, objects) in zip(names, rows, strict=True):
        for number, each in enumerate(objects):
            edges = [f"{edge:.1f}" for edge in each.box]
            table.add_row(name if number == 0 else "", Text(plain(each.label), "bold"), f"{each.score:.2f}", *edges)
        if not objects:
            table.add_row(name, Text("nothing found", "yellow"), *[""] * len(numbers))
    console.print(table)
    for name, (_, objects) in zip(names, rows, strict=True):
        if objects:
            console.print(f"{name} reads: {' / '.join(plain(line) for line in objects.text.splitlines())}", soft_wrap=True)
