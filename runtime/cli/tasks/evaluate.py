"""``onnxferry evaluate``: measure a classifier on labelled images, rows or texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    command,
    facts_table,
    new_app,
    new_table,
    plain,
    print_error,
    print_json,
    print_next,
    progress_bar,
    stdout,
)
from onnxferry.runtime.cli.tasks.evaluate_boxes import print_boxes_score, scored_boxes
from onnxferry.runtime.cli.tasks.evaluate_pairs import print_pair_score, scored_pairs
from onnxferry.runtime.cli.tasks.row_arguments import scored_rows
from onnxferry.runtime.cli.tasks.text_arguments import print_text_score, scored_text, scored_texts
from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.evaluation.confusion_plot import numbered_labels, write_confusion_plot
from onnxferry.runtime.evaluation.scores import BINS, Scores
from onnxferry.runtime.evaluation.test_set import LabelledImages, find_labelled_images, trained_on
from onnxferry.runtime.files import check_place
from onnxferry.runtime.images.folders import passed_over_words
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.detector import Detector
from onnxferry.runtime.tasks.loading import load, wrong_kind
from onnxferry.runtime.tasks.row_classifier import RowClassifier
from onnxferry.runtime.tasks.text_classifier import TextClassifier
from onnxferry.runtime.tasks.text_generator import TextGenerator
from onnxferry.runtime.tasks.translator import Translator

app = new_app()


_MAX_COLUMNS = 12  # of a confusion matrix that fits a terminal 80 characters wide


@app.command()
def evaluate(
    model: ModelArgument,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE",
            help="Sub-folders of images named by label, or MNIST's IDX files; for a detector COCO's .json or YOLO's folders; for a "
            "model of rows a .csv or .npz; for a text classifier sub-folders of texts, or a .csv, .tsv or .jsonl; for a text generator a "
            "text, or - for stdin; for a translator pairs: source, tab, target.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None, typer.Option("--target", metavar="COLUMN", help="Of a table: the column with the labels.", show_default=False)
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="COLUMN", help="Of a table of texts: the column with them.", show_default=False)
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of files of texts: utf-8, gbk, big5, …")] = "utf-8",
    split: Annotated[str, typer.Option(help="Which IDX files, or which of the folders DIR/test and DIR/train: test or train.")] = "test",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="Write the confusion matrix as an image.", show_default=False)
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", hidden=True)] = None,  # the older name of --plot
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Measure a classifier on labelled images, texts or rows, a detector on boxes, a text generator on a text, a translator on pairs.

    Accuracy with its 95% interval (Wilson), recall and precision of each class, the confusion matrix, and the expected
    calibration error (15 bins, Guo et al. 2017). Images that cannot be read are named and not counted; the exit code is then 1.
    Of a detector: mean average precision as COCO defines it, and in how many images all labels are right from left to right.
    Of a text: nats a byte, the mean negative log-likelihood of each byte after those before it. Of pairs (a line each, gzip or not): how
    many translations are exactly the target.

    ```
    onnxferry evaluate digits --data mnist/
    onnxferry evaluate photos.onnx --data photos/ --plot confusion.png
    onnxferry evaluate wine.onnx --data test.csv --target kind
    onnxferry evaluate digit-scenes --data street/
    onnxferry evaluate mail.onnx --data mail.csv.gz --text body --target folder
    onnxferry evaluate shakespeare --data held-out.txt
    onnxferry evaluate dates --data pairs.tsv.gz
    ```

    With --json: model, device, data, passed_over (files there that were not read, by suffix), trained_on (whether the file says that
    the model was trained on these images), images, correct, accuracy, interval95, calibration_error, mean_probability, bins, labels,
    classes, confusion (a row for each true class), errors, plot; and unknown, how many images are taken to be of no class, of a model that
    tells. Of a detector: model, device, data, map, map50, map75, classes (average precision by label), images, boxes, read, read_share.
    Of a text: model, device, data, bytes, nats_per_byte, bits_per_byte,
    perplexity. Of pairs: model, device, data, pairs, exact, exact_match, interval95, wrong.
    """
    plot = plot or picture
    if plot:
        check_place(plot)
    with load(model, device=device, threads=threads) as classifier:
        if isinstance(classifier, RowClassifier):
            scores, source, notes = scored_rows(classifier, data, target)
            return _report_rows(model, classifier.engine.device, scores, source, notes, plot, as_json)
        if isinstance(classifier, TextClassifier):
            scores, source, notes = scored_texts(classifier, data, text, target, encoding, split)
            return _report_rows(model, classifier.engine.device, scores, source, notes, plot, as_json, "texts")
        if text is not None:
            raise InputError("--text names a column of a table of texts, and this model does not classify texts; leave it out")
        if isinstance(classifier, TextGenerator):
            return _report_text(model, classifier, data, {"--target": target, "--plot": plot}, as_json)
        if isinstance(classifier, Translator):
            return _report_pairs(model, classifier, data, {"--target": target, "--plot": plot}, as_json)
        if isinstance(classifier, Detector):
            return _report_boxes(model, classifier, data, split, {"--target": target, "--plot": plot}, as_json)
        if not isinstance(classifier, Classifier):
            raise wrong_kind(classifier.contract, Classifier, model)
        if target is not None:
            raise InputError("--target names a column of a table, and this model classifies images: their folders are their labels")
        labelled = find_labelled_images(data, classifier.labels, split)
        scores, errors, refused = _score(classifier, labelled)
        device_used = classifier.engine.device
        learnt = _learnt(classifier, data, split, labelled)
    if not scores.count:
        raise DataError(f"none of the {len(labelled)} images in {data} can be read, the first: {errors[0][1]}")
    if plot:
        write_confusion_plot(scores, plot)
    if as_json:
        print_json(
            {
                "model": model,
                "device": device_used,
                "data": labelled.source,
                "passed_over": labelled.passed_over,
                "trained_on": learnt,
                **({} if refused is None else {"unknown": refused}),
                **_json(scores, errors),
                "plot": plot and str(plot),
            }
        )
    else:
        note = Text("the model was trained on these images; on others it will do worse", "yellow") if learnt else ""
        about = {"model": f"{model} on {device_used}", "data": labelled.source, "left out": passed_over_words(labelled.passed_over)}
        if refused is not None:
            about["as of no class"] = f"{refused / scores.count:.2%}  ({refused} of {scores.count}; counted by their likeliest class below)"
        _print_scores(scores, {**about, "note": note}, plot)
    for _, error in errors:
        print_error(str(error))
    if errors:
        print_error(f"{len(errors)} of {len(labelled)} images cannot be read and are not counted")
    elif not as_json:
        print_next(command("check", model), command("inspect", model))
    return 1 if errors else 0


def _report_text(model: str, generator: TextGenerator, data: Path, others: Mapping[str, object], as_json: bool) -> int:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} does not apply to a text generator, whose --data is a text")
    found = scored_text(generator, data)
    device = generator.engine.device
    if as_json:
        print_json({"model": model, "device": device, **found})
    else:
        print_text_score(model, device, found, command("generate", model), command("inspect", model))
    return 0


def _report_pairs(model: str, translator: Translator, data: Path, others: Mapping[str, object], as_json: bool) -> int:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} does not apply to a translator, whose --data are pairs of texts")
    found = scored_pairs(translator, data)
    device = translator.engine.device
    if as_json:
        print_json({"model": model, "device": device, **found})
    else:
        print_pair_score(model, device, found, command("translate", model, "TEXT"), command("inspect", model))
    return 0


def _report_boxes(model: str, detector: Detector, data: Path, split: str, others: Mapping[str, object], as_json: bool) -> int:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} does not apply to a detector, whose --data are images with boxes")
    found = scored_boxes(detector, data, split)
    device = detector.engine.device
    if as_json:
        print_json({"model": model, "device": device, **found})
    else:
        print_boxes_score(model, device, found, command("check", model), command("inspect", model))
    return 0


def _report_rows(
    model: str, device: str, scores: Scores, source: str, notes: Sequence[str], plot: Path | None, as_json: bool, counted: str = "rows"
) -> int:
    if plot:
        write_confusion_plot(scores, plot)
    if as_json:
        found = _json(scores, [])
        found[counted] = found.pop("images")
        print_json({"model": model, "device": device, "data": source, "notes": notes, **found, "plot": plot and str(plot)})
        return 0
    about: dict[str, str | Text] = {"model": f"{model} on {device}", "data": source, "left out": "; ".join(notes)}
    _print_scores(scores, about, plot, counted)
    print_next(command("check", model), command("inspect", model))
    return 0


def _learnt(classifier: Classifier, folder: Path, split: str, labelled: LabelledImages) -> bool:
    contract = classifier.engine.contract
    data = contract.provenance.get("data") if contract else None
    return isinstance(data, Mapping) and trained_on(str(data.get("sha256")), folder, split, labelled)


def _score(classifier: Classifier, labelled: LabelledImages) -> tuple[Scores, list[tuple[str, InputError]], int | None]:
    """Scores, the images that cannot be read, and how many the model takes to be of no class, if it tells."""
    scores = Scores(classifier.labels)
    errors: list[tuple[str, InputError]] = []
    refused = 0

    def unreadable(position: int, error: InputError) -> None:
        errors.append((labelled.names[position], error))
        advance(1)

    with progress_bar("evaluating", len(labelled)) as advance:
        for position, prediction in classifier.predict_each(enumerate(labelled.images), on_error=unreadable):
            scores.add(labelled.indices[position], prediction.index, prediction.probability)
            refused += not prediction.known
            advance(1)
    return scores, errors, refused if classifier.tells_unknown else None


def _json(scores: Scores, errors: list[tuple[str, InputError]]) -> dict[str, Any]:
    bins = zip(scores.bin_counts.tolist(), scores.bin_correct.tolist(), scores.bin_probability.tolist(), strict=True)
    return {
        "images": scores.count,
        "correct": scores.correct,
        "accuracy": scores.accuracy,
        "interval95": scores.interval,
        "calibration_error": scores.calibration_error,
        "mean_probability": scores.mean_probability,
        "bins": [
            {
                "above": i / BINS,
                "up_to": (i + 1) / BINS,
                "images": count,
                "correct": correct,
                "mean_probability": total / count if count else None,
            }
            for i, (count, correct, total) in enumerate(bins)
        ],
        "labels": scores.labels,
        "classes": [
            {"label": c.label, "images": c.count, "correct": c.correct, "recall": c.recall, "precision": c.precision, "f1": c.f1}
            for c in scores.classes
        ],
        "confusion": scores.confusion.tolist(),
        "errors": [{"image": name, "error": str(error)} for name, error in errors],
    }


def _print_scores(scores: Scores, about: Mapping[str, str | Text], plot: Path | None, counted: str = "images") -> None:
    console = stdout()
    low, high = scores.interval
    console.print(
        facts_table(
            {
                **about,
                "accuracy": Text(f"{scores.accuracy:.2%}", "bold") + Text(f"  ({scores.correct} of {scores.count})", "default"),
                "95% interval": f"{low:.2%} to {high:.2%}  (Wilson)",
                "calibration error": f"{scores.calibration_error:.2%}  (15 bins; mean probability {scores.mean_probability:.2%})",
            }
        )
    )
    table = new_table("class", counted, "right", "recall", "precision", "F1", right=(counted, "right", "recall", "precision", "F1"))
    for score in scores.classes:
        shares = (score.recall, score.precision, score.f1)
        table.add_row(plain(score.label), str(score.count), str(score.correct), *("-" if x is None else f"{x:.2%}" for x in shares))
    console.print(table)
    if len(scores.labels) <= _MAX_COLUMNS:
        console.print(f"Confusion matrix: a line for each class, columns for what its {counted} were taken for", style="bold")
        console.print(_confusion_table(scores))
    wrong = [f"{plain(c.true)} taken for {plain(c.predicted)} ({c.count})" for c in scores.confusions(5)]
    if wrong:
        console.print(f"most often wrong: {', '.join(wrong)}")
    if plot:
        console.print(f"confusion matrix: {plain(plot)}", soft_wrap=True)
        if key := numbered_labels(scores):
            shown = ", ".join(f"{i} is {plain(label)}" for i, label in key.items())
            console.print(f"in the image, where no font has their letters: {shown}", soft_wrap=True)


def _confusion_table(scores: Scores) -> Table:
    """Rows are what images are, columns what they were taken for; long labels head their columns by number."""
    numbered = max(map(len, scores.labels)) > 4
    heads = [str(i) if numbered else plain(label) for i, label in enumerate(scores.labels)]
    table = new_table()
    table.padding = (0, 1, 0, 0)
    table.add_column("is", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for i, (label, row) in enumerate(zip(scores.labels, scores.confusion, strict=True)):
        cells = [Text("·", "dim") if not n else Text(str(n), "green" if i == j else "red") for j, n in enumerate(row)]
        table.add_row(f"{i} {plain(label)}" if numbered else plain(label), *cells)
    return table
