"""``onnxferry sample``: generate images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    command,
    new_app,
    print_json,
    print_next,
    progress_bar,
    stdout,
)
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import check_place, written_whole
from onnxferry.runtime.images.grid import image_grid, save_image
from onnxferry.runtime.tasks.image_generator import ImageGenerator
from onnxferry.runtime.tasks.loading import load_as

app = new_app()


MAX_IN_GRID = 10_000


@app.command()
def sample(
    model: ModelArgument,
    n: Annotated[
        int | None, typer.Option("-n", min=1, metavar="N", help="How many images; 10 for each class if not given.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", help="A class, by name or index; repeat for several, in turn. All classes if not given.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
    grid: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Write them as one image, a grid.", show_default=False)] = None,
    columns: Annotated[int, typer.Option(min=1, help="Columns of the grid.")] = 10,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Write them as an array, uint8 (n, height, width ...).", show_default=False)
    ] = None,
    walk: Annotated[
        int | None,
        typer.Option(
            metavar="SEED", help="Interpolate from the image of --seed to the image of this seed, in N steps.", show_default=False
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate images.

    ```
    onnxferry sample digits-gan -n 64 --label 7 --grid sevens.png
    onnxferry sample digits-gan --seed 1 --walk 2 -n 12 --label 5 --grid strip.png --columns 12
    onnxferry sample digits-gan -n 1000000 --out digits.npy
    ```

    With --json:

    ```
    {"model": "digits-gan", "device": "cpu", "n": 64, "seed": 0,
     "labels": ["7"], "size": 28, "channels": 1,
     "grid": "sevens.png", "out": null}
    ```
    """
    if grid is None and out is None:
        raise InputError("say where the images go: --grid FILE.png, or --out FILE.npy")
    for place in (grid, out):
        if place is not None:
            check_place(place)
    with load_as(ImageGenerator, model, device, threads) as generator:
        asked = [word if word in generator.labels or not word.isdecimal() else int(word) for word in label or []] or None
        names = [generator.labels[i] for i in generator.class_indices(asked)]
        if walk is None:
            count = n or 10 * len(names)
            if grid is not None and count > MAX_IN_GRID:
                raise InputError(f"a grid holds at most {MAX_IN_GRID} images, got -n {count}; write an array with --out FILE.npy")
            _write(generator, count, asked, seed, grid, out, columns)
        else:
            count = n or 10
            if count > MAX_IN_GRID:
                raise InputError(f"a walk has at most {MAX_IN_GRID} steps, got -n {count}")
            made = generator.walk(seed, walk, count, asked[0] if asked and len(asked) == 1 else asked)
            if grid is not None:
                save_image(image_grid(made, columns, scale=2), grid)
            if out is not None:
                _save_array(out, made.shape, [made])
        if as_json:
            print_json(
                {
                    "model": model,
                    "device": generator.engine.device,
                    "n": count,
                    "seed": seed,
                    "labels": names,
                    "size": generator.size,
                    "channels": generator.channels,
                    "grid": None if grid is None else str(grid),
                    "out": None if out is None else str(out),
                }
            )
            return
    stdout().print(
        f"{count} images of {generator.size} x {generator.size} in {' and '.join(str(p) for p in (grid, out) if p)}", soft_wrap=True
    )
    print_next(command("sample", model, "--seed", seed + 1, "--grid", grid or "samples.png"), command("inspect", model))


def _write(generator: ImageGenerator, count: int, asked: object, seed: int, grid: Path | None, out: Path | None, columns: int) -> None:
    """Batch by batch: memory does not grow with their number, except for a grid."""
    kept: list[np.ndarray] = []
    shape = (count, generator.size, generator.size, *((generator.channels,) if generator.channels > 1 else ()))
    batches = generator.sample_each(count, asked, seed)

    with progress_bar("generating images", count) as advance:

        def generated() -> Iterator[np.ndarray]:
            for batch in batches:
                flat = batch[..., 0] if generator.channels == 1 else batch
                if grid is not None:
                    kept.append(flat)
                yield flat
                advance(len(flat))

        if out is not None:
            _save_array(out, shape, generated())
        else:
            for _ in generated():
                pass
    if grid is not None:
        save_image(image_grid(np.concatenate(kept), min(columns, count), scale=2), grid)


def _save_array(path: Path, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> None:
    """An .npy file, written batch by batch."""
    if path.suffix.lower() != ".npy":
        raise InputError(f"an array is written as .npy, got {path.name!r}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it, or give another place")
    with written_whole(path) as part, part.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for batch in batches:
            file.write(np.ascontiguousarray(batch).tobytes())
