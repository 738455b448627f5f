"""``onnxferry predict``: classify images, rows of a table or texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from onnxferry.runtime.cli.tasks.row_arguments import predicted_rows, predicted_text_rows, takes_texts
from onnxferry.runtime.cli.tasks.text_arguments import described_texts, predicted_texts, print_described_texts
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.inputs import decode_each
from onnxferry.runtime.images.photo import without_background
from onnxferry.runtime.tasks.classifier import Classifier, Prediction
from onnxferry.runtime.tasks.loading import load, wrong_kind
from onnxferry.runtime.tasks.row_classifier import RowClassifier
from onnxferry.runtime.tasks.text_classifier import TextClassifier
from onnxferry.runtime.tasks.text_models import TextEmbedder, TextTagger

if TYPE_CHECKING:
    from onnxferry.runtime.bulk.job import BulkOptions

app = new_app()


_LEAST_ROOM, _OTHER_COLUMNS = 24, 44
"""Columns of a terminal that an image's name has at least, and those for its label, probability and the classes after it."""


@app.command()
def predict(
    model: ModelArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Images, folders of images, or - for one on stdin; for a model of rows .csv files; for a text classifier texts, files "
            "with one a line, or - for stdin.",
            show_default=False,
        ),
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Below this probability the answer is: not sure.")] = 0.0,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Show the K likeliest classes.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one row an image to a .jsonl, .csv or .parquet file; folders with all that is in them, and patterns.",
            show_default=False,
        ),
    ] = None,
    photo: Annotated[
        bool, typer.Option("--photo", help="Remove the background of photographs of writing first: shadows, ruled lines, a table.")
    ] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Of --out: processes; one a CPU if not given.", show_default=False)] = None,
    on: Annotated[
        str,
        typer.Option(help="Of --out: ray, for a Ray cluster (that of RAY_ADDRESS, or one on this machine).", show_default=False),
    ] = "",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Classify images, rows of a table, or texts.

    An image that cannot be read is reported by name and the others are still predicted; the exit code is then 1.

    ```
    onnxferry predict digits.onnx three.png seven.jpg
    onnxferry predict digits.onnx photos/ --threshold 0.9 --top 3
    onnxferry predict digits.onnx - --json < three.png
    onnxferry predict digits.onnx phone.jpg --photo
    onnxferry predict wine.onnx rows.csv
    onnxferry predict sentiment-en "a lovely film" "a waste of time"
    onnxferry predict sentiment-en reviews.txt
    onnxferry predict minilm-folder "one text" --json
    onnxferry predict digits.onnx 'photos/**/*.jpg' --out results.parquet
    ```

    With --out, a run that was interrupted goes on where it stopped when it is given again, and an image that cannot be read is a row with
    its error. --threshold adds a column `sure`, --top a column `top`; --threads are those of each process, one if not given.

    With --json:

    ```
    {"model": "digits.onnx", "device": "cpu", "threshold": 0.9,
     "predictions": [{"image": "three.png", "label": "3",
                      "index": 3, "probability": 0.998,
                      "top": [{"label": "3", "index": 3,
                               "probability": 0.998}],
                      "sure": true}],
     "errors": [{"image": "x.png", "error": "x.png: broken ..."}]}
    ```

    Of texts `text` instead of `image`. A text is a file's content if there is such a file: a .txt file has one text a line. A model of
    embeddings has `embedding`, a list of numbers, for each; a tagger `tags`: text, label, probability, start and end of each token.

    With --out and --json: path, rows, errors (rows with one), reused (rows of an interrupted run).
    """
    if out is not None:
        if photo:
            raise InputError("--photo does not go with --out; leave one of them out")
        from onnxferry.runtime.bulk.job import BulkOptions

        if on not in ("", "ray"):
            raise InputError(f"--on takes ray, got {on!r}; leave it out to use this machine's processes")
        asked = BulkOptions(model, processes, device, threads=threads, threshold=threshold, top=top, on_ray=on == "ray")
        return _to_file(images, out, asked, as_json)
    if on:
        raise InputError("--on goes with --out FILE")
    if processes is not None:
        raise InputError("--processes goes with --out FILE")
    errors: list[tuple[str, InputError]] = []
    notes: list[str] = []
    with load(model, device=device, threads=threads) as classifier:
        what = "image"
        if isinstance(classifier, RowClassifier | TextClassifier | TextEmbedder | TextTagger) and photo:
            raise InputError("--photo is for models of images; leave it out")
        if isinstance(classifier, TextEmbedder | TextTagger):
            return _described(classifier, model, images, as_json)
        if isinstance(classifier, RowClassifier) and takes_texts(classifier, images):
            what = "text"
            rows = predicted_text_rows(classifier, images)
        elif isinstance(classifier, RowClassifier):
            what = "row"
            rows, notes = predicted_rows(classifier, image_names(images))
        elif isinstance(classifier, TextClassifier):
            what = "text"
            rows = predicted_texts(classifier, images)
        elif isinstance(classifier, Classifier):
            names = image_names(images)
            predictions, errors = _predict_all(classifier, names, photo)
            rows = [(name, predictions[key_of(name)]) for name in names if key_of(name) in predictions]
        else:
            raise wrong_kind(classifier.contract, Classifier, model)
        if as_json:
            print_json(
                {
                    "model": model,
                    "device": classifier.engine.device,
                    "threshold": threshold,
                    "predictions": [
                        {what: name, **prediction.to_dict(top), "sure": is_sure(prediction, threshold)} for name, prediction in rows
                    ],
                    "errors": [{"image": name, "error": str(error)} for name, error in errors],
                }
            )
        elif rows:
            _print_table(rows, threshold, top, what)
    for note in notes if not as_json else ():
        stderr().print(f"note: {plain(note)}", soft_wrap=True)
    for _, error in errors:
        print_error(str(error))
    if not errors and not as_json:
        labelled = ("--data", "FOLDER") if what == "image" else ("--data", "FILE.csv", "--target", "COLUMN")
        print_next(command("inspect", model), command("evaluate", model, *labelled))
    return 1 if errors else 0


def _described(described: TextEmbedder | TextTagger, model: str, texts: Sequence[str], as_json: bool) -> int:
    found = described_texts(described, texts)
    if as_json:
        print_json({"model": model, "device": described.engine.device, "predictions": found})
    else:
        print_described_texts(found)
        print_next(command("inspect", model))
    return 0


def _to_file(images: Sequence[str], out: Path, asked: BulkOptions, as_json: bool) -> int:
    from onnxferry.runtime.bulk.job import as_document, expand_inputs, predict_to_file

    inputs = expand_inputs(images)
    with progress_bar("predicting", len(inputs)) as advance:
        result = predict_to_file(inputs, out, asked, advance)
    if as_json:
        print_json(as_document(result))
        return 0
    errors = f", {result.errors} with an error" if result.errors else ""
    reused = f" ({result.reused} of an interrupted run)" if result.reused else ""
    stdout().print(plain(f"{result.path}: {result.rows} rows{reused}{errors}"), soft_wrap=True)
    return 0


def _predict_all(classifier: Classifier, names: Sequence[str], photo: bool) -> tuple[dict[str, Prediction], list[tuple[str, InputError]]]:
    """Predictions by key, and the images that cannot be read."""
    predictions = {}
    with progress_bar("predicting", len(names)) as advance:
        unreadable = Unreadable(advance)
        images: Iterable[tuple[Any, Any]] = opened_images(names)
        if photo:
            images = ((key, without_background(image)) for key, image in decode_each(images, unreadable, None))
        for key, prediction in classifier.predict_each(images, on_error=unreadable):
            predictions[key] = prediction
            advance(1)
    return predictions, unreadable.errors


def is_sure(prediction: Prediction, threshold: float) -> bool:
    """Whether the image is of some class at all, as far as the model tells, and the likeliest one reaches ``threshold``."""
    return prediction.known and prediction.probability >= threshold


def _print_table(rows: Sequence[tuple[str, Prediction]], threshold: float, top: int, head: str) -> None:
    others = ("then",) if top > 1 else ()
    console = stdout()
    room = max(_LEAST_ROOM, console.width - _OTHER_COLUMNS) if console.is_terminal else None
    folder, names = shown_names([name for name, _ in rows], room) if head == "image" else ("", [plain(name) for name, _ in rows])
    table = new_table(head, "label", "probability", *others, right=("probability",), title=folder)
    for name, (_, prediction) in zip(names, rows, strict=True):
        label = Text(plain(prediction.label), "bold")
        if not prediction.known:
            label = Text(f"none of the classes ({plain(prediction.label)}?)", "yellow")
        elif not is_sure(prediction, threshold):
            label = Text(f"not sure ({plain(prediction.label)}?)", "yellow")
        then = [f"{plain(ranked.label)} {ranked.probability:.2%}" for ranked in prediction.top(top)[1:]]
        table.add_row(name, label, f"{prediction.probability:.2%}", *(["  ".join(then)] if others else []))
    console.print(table)
