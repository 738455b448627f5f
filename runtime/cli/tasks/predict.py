"""``onnxferry predict``: classify images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

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
from onnxferry.runtime.cli.tasks.image_arguments import Unreadable, image_names, key_of, opened_images
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tasks.classifier import Classifier, Prediction
from onnxferry.runtime.tasks.loading import load_as

app = new_app()


@app.command()
def predict(
    model: ModelArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images, folders of images, or - for one on stdin.", show_default=False)
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Below this probability the answer is: not sure.")] = 0.0,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Show the K likeliest classes.")] = 1,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Classify images.

    An image that cannot be read is reported by name and the others are still predicted; the exit code is then 1.

    ```
    onnxferry predict digits.onnx three.png seven.jpg
    onnxferry predict digits.onnx photos/ --threshold 0.9 --top 3
    onnxferry predict digits.onnx - --json < three.png
    ```

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
    """
    names = image_names(images)
    with load_as(Classifier, model, device, threads) as classifier:
        predictions, errors = _predict_all(classifier, names)
        rows = [(name, predictions[key_of(name)]) for name in names if key_of(name) in predictions]
        if as_json:
            print_json(
                {
                    "model": model,
                    "device": classifier.engine.device,
                    "threshold": threshold,
                    "predictions": [
                        {"image": name, **prediction.to_dict(top), "sure": prediction.probability >= threshold} for name, prediction in rows
                    ],
                    "errors": [{"image": name, "error": str(error)} for name, error in errors],
                }
            )
        elif rows:
            _print_table(rows, threshold, top)
    for _, error in errors:
        print_error(str(error))
    if not errors and not as_json:
        print_next(command("inspect", model), command("evaluate", model, "--data", "FOLDER"))
    return 1 if errors else 0


def _predict_all(classifier: Classifier, names: Sequence[str]) -> tuple[dict[str, Prediction], list[tuple[str, InputError]]]:
    """Predictions by key, and the images that cannot be read."""
    predictions = {}
    with progress_bar("predicting", len(names)) as advance:
        unreadable = Unreadable(advance)
        for key, prediction in classifier.predict_each(opened_images(names), on_error=unreadable):
            predictions[key] = prediction
            advance(1)
    return predictions, unreadable.errors


def _print_table(rows: Sequence[tuple[str, Prediction]], threshold: float, top: int) -> None:
    others = ("then",) if top > 1 else ()
    table = new_table("image", "label", "probability", *others, right=("probability",))
    for name, prediction in rows:
        sure = prediction.probability >= threshold
        label = Text(plain(prediction.label), "bold") if sure else Text(f"not sure ({plain(prediction.label)}?)", "yellow")
        then = [f"{plain(ranked.label)} {ranked.probability:.2%}" for ranked in prediction.top(top)[1:]]
        table.add_row(plain(key_of(name)), label, f"{prediction.probability:.2%}", *(["  ".join(then)] if others else []))
    stdout().print(table)
