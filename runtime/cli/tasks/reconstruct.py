"""``onnxferry reconstruct``: encode and decode images with an autoencoder, and score how unusual they are."""

from __future__ import annotations

from collections.abc import Iterator
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
    stderr,
    stdout,
)
from onnxferry.runtime.cli.tasks.image_arguments import Unreadable, image_names, key_of, opened_images, shown_names
from onnxferry.runtime.files import check_place
from onnxferry.runtime.images.decode import with_channels
from onnxferry.runtime.images.grid import image_grid, save_image
from onnxferry.runtime.images.inputs import decode_each
from onnxferry.runtime.tasks.autoencoder import Autoencoder
from onnxferry.runtime.tasks.loading import load_as

app = new_app()


COLUMNS = 10


_LEAST_ROOM, _OTHER_COLUMNS = 24, 42
"""Columns of a terminal that an image's name has at least, and those for its score and verdict."""


@app.command()
def reconstruct(
    model: ModelArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images, folders of images, or - for one on stdin.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write an image of the originals above their reconstructions.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, help="Scores above it are reported as strange; the model's own threshold if not given.", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Encode and decode images with an autoencoder, and score how unusual they are.

    The score is the mean squared error of the reconstruction, pixels in 0 to 1. Images of other sizes than the model's are
    resampled in the graph. One that cannot be read is reported by name, the others are still run; the exit code is then 1.

    ```
    onnxferry reconstruct digits-ae three.png shoe.png --out pairs.png
    onnxferry reconstruct digits-ae photos/ --json
    ```

    With --json:

    ```
    {"model": "digits-ae", "device": "cpu", "threshold": 0.016,
     "results": [{"image": "shoe.png", "anomaly_score": 0.08,
                  "strange": true, "resampled": false,
                  "latent": [0.1, ...]}],
     "out": "pairs.png",
     "errors": [{"image": "x.png", "error": "x.png: broken ..."}]}
    ```
    """
    names = image_names(images)
    if out is not None:
        check_place(out)
    with load_as(Autoencoder, model, device, threads) as opened:
        limit = opened.threshold if threshold is None else threshold
        originals: dict[str, np.ndarray] = {}
        resampled: set[str] = set()

        def noted(decoded: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
            for key, image in decoded:
                if out is not None:
                    originals[key] = centred_square(with_channels(image, opened.channels), opened.size)
                if image.shape[:2] != (opened.size, opened.size):
                    resampled.add(key)
                yield key, image

        made = {}
        with progress_bar("reconstructing", len(names)) as advance:
            unreadable = Unreadable(advance)
            decoded = noted(decode_each(opened_images(names), unreadable))
            for key, row in opened.run_each(decoded, ["reconstruction", "latent", "anomaly_score"]):
                made[key] = row
                advance(1)
        errors = unreadable.errors
        read = [(name, key_of(name)) for name in names if key_of(name) in made]
        if out is not None and made:
            save_image(pairs([originals[key] for _, key in read], [made[key]["reconstruction"] for _, key in read]), out)
        results = [
            {
                "image": name,
                "anomaly_score": float(made[key]["anomaly_score"]),
                "strange": bool(made[key]["anomaly_score"] > limit),
                "resampled": key in resampled,
                "latent": [float(value) for value in made[key]["latent"]],
            }
            for name, key in read
        ]
        written = str(out) if out is not None and made else None
        if as_json:
            print_json(
                {
                    "model": model,
                    "device": opened.engine.device,
                    "threshold": limit,
                    "results": results,
                    "out": written,
                    "errors": [{"image": name, "error": str(error)} for name, error in errors],
                }
            )
        elif results:
            _print_table(results, limit)
            if resampled:
                what = f"{len(resampled)} of {len(results)} were not {opened.size} x {opened.size}"
                stderr().print(f"{what}: their centred squares were resampled in the graph", soft_wrap=True)
            if written:
                stdout().print(f"{plain(written)} written", soft_wrap=True)
    for _, error in errors:
        print_error(str(error))
    if not errors and not as_json:
        print_next(command("inspect", model), *(() if out else (command("reconstruct", model, *images[:1], "--out", "pairs.png"),)))
    return 1 if errors else 0


def centred_square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 (height, width, channels) → (side, side, channels), to be shown: nearly what the graph reads."""
    from PIL import Image, ImageOps

    opened = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(ImageOps.fit(opened, (side, side), Image.Resampling.BOX)).reshape(side, side, image.shape[2])


def pairs(originals: list[np.ndarray], made: list[np.ndarray]) -> np.ndarray:
    """Rows of originals, each above the row of their reconstructions."""
    columns = min(COLUMNS, len(originals))
    empty = np.full_like(originals[0], 128)
    cells: list[np.ndarray] = []
    for first in range(0, len(originals), columns):
        for part in (originals, made):
            row = part[first : first + columns]
            cells += [*row, *[empty] * (columns - len(row))]
    return image_grid(np.stack(cells), columns, scale=2)


def _print_table(results: list[dict[str, Any]], limit: float) -> None:
    table = new_table("image", "anomaly score", f"verdict (at {limit:.4g})", right=("anomaly score",))
    console = stdout()
    room = max(_LEAST_ROOM, console.width - _OTHER_COLUMNS) if console.is_terminal else None
    folder, names = shown_names([result["image"] for result in results], room)
    table.title = folder or None
    for name, result in zip(names, results, strict=True):
        verdict = Text("strange", "bold yellow") if result["strange"] else Text("ordinary", "green")
        table.add_row(name, f"{result['anomaly_score']:.5f}", verdict)
    console.print(table)
