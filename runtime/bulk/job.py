"""A folder or a list of images to one file of predictions: several processes, flat memory, and a run that was killed goes on.

Inputs are cut into parts. Each part is written whole to ``NAME.parts/`` as it is done; the file is made of the parts at the end, and the
folder goes. A run with the same inputs, model and options goes on with the parts that lack; with others it is refused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.bulk.parts import PartOptions, PartPredictor
from onnxferry.runtime.errors import ArtifactError, InputError, MissingExtraError, OnnxFerryError
from onnxferry.runtime.files import check_place, write_text_whole, written_whole
from onnxferry.runtime.formats import json_text
from onnxferry.runtime.images.folders import find_images
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.runtime.onnx_file.reader import file_sha256
from onnxferry.runtime.tasks.classifier import UNKNOWN_THRESHOLD, Classifier
from onnxferry.runtime.tasks.loading import wrong_kind

PART = 512
"""Inputs a part: what is lost at most, of each process, when a run is killed."""

FORMATS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class BulkOptions:
    """How to predict."""

    model: str
    processes: int | None = None  # None for one a CPU
    device: str = "auto"
    part: int = PART
    threads: int | None = None  # of each process; None for one, and for all of a single process
    threshold: float = 0.0  # above 0: a column "sure" says whether the probability reaches it
    top: int = 1  # above 1: a column "top" holds the likeliest classes, in a .csv as JSON

    on_ray: bool = False  # on a Ray cluster: ``processes`` are actors, and None is one a CPU of the cluster but one

    def of_part(self, threads: int | None) -> PartOptions:
        """What each process needs to know."""
        return PartOptions(self.model, self.device, threads, self.threshold, self.top)


@dataclass(frozen=True)
class BulkResult:
    """What was written: ``path``, the rows in it, those of them with an error, and rows that an earlier run had left done."""

    path: Path
    rows: int
    errors: int
    reused: int


def expand_inputs(patterns: Sequence[str]) -> list[str]:
    """Files, folders (with all that is in them, sorted) and patterns (``photos/**/*.jpg``) → paths, each once, in that order.

    Raises InputError for what matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        files = find_images(pattern, deep=True)
        if files == [pattern] and not _exists(pattern):
            raise InputError(f"{pattern} matches no image; give files, folders or a pattern such as 'photos/**/*.jpg'")
        found.update(dict.fromkeys(files))
    return list(found)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def predict_to_file(
    inputs: Sequence[str], out: str | os.PathLike[str], options: BulkOptions, progress: Callable[[int], None] | None = None
) -> BulkResult:
    """Classifies every image and writes one row for each to ``out``, a .jsonl, .csv or .parquet file, in the order of ``inputs``.

    A row has the columns of ``options``; an image that cannot be read has its error and no label. ``progress`` is called with the number
    of rows of each part that is done.

    With ``on_ray`` on a Ray cluster (:mod:`onnxferry.runtime.bulk.on_ray`), whose errors it raises too.

    Raises InputError for another suffix, for parts of a run with other inputs or options, ArtifactError for a model that is no
    recogniser or where a process died, and MissingExtraError where .parquet is asked for and pyarrow is not installed.
    """
    target = Path(out)
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"results are written as {', '.join(FORMATS)}, got {target.name!r}")
    check_place(target)
    if target.suffix.lower() == ".parquet":
        _pyarrow()
    columns = options.of_part(None).columns(_tells_unknown(options.model))
    parts = target.with_name(f"{target.name}.parts")
    pieces = [list(inputs[start : start + options.part]) for start in range(0, len(inputs), options.part)]
    done = _begun(parts, _identity(inputs, options))
    if progress:
        progress(sum(len(pieces[number]) for number in done))
    missing = [number for number in range(len(pieces)) if number not in done]
    processes = min(options.processes or available_cpus(), max(1, len(missing)))
    try:
        _run_parts(parts, pieces, missing, options, processes, progress)
    except OnnxFerryError:
        if not any(parts.glob("*.jsonl")):  # nothing to go on with
            shutil.rmtree(parts)
        raise
    errors = _joined(parts, len(pieces), target, columns)
    shutil.rmtree(parts)
    return BulkResult(target, len(inputs), errors, sum(len(pieces[number]) for number in done))


def _identity(inputs: Sequence[str], options: BulkOptions) -> dict[str, Any]:
    digest = hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogateescape")).hexdigest()
    model = file_sha256(find_model(options.model))
    asked = {"part": options.part, "threshold": options.threshold, "top": options.top}
    return {"inputs": digest, "count": len(inputs), "model": model, **asked}


def _tells_unknown(model: str) -> bool:
    """Whether a recogniser tells that an image is of no class, from its contract alone: the processes open the model.

    Raises ArtifactError for what is no recogniser.
    """
    contract = describe(find_model(model)).contract
    if contract is None or kind_of(contract).task_class is not Classifier:
        raise wrong_kind(contract, Classifier, model)
    return UNKNOWN_THRESHOLD in contract.options


def _begun(parts: Path, identity: dict[str, Any]) -> set[int]:
    """The parts that are done. Raises InputError where they belong to another run."""
    note = parts / "run.json"
    if not note.is_file():
        parts.mkdir(exist_ok=True)
        write_text_whole(note, json.dumps(identity))
        return set()
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    if known != identity:
        raise InputError(f"{parts} has parts of a run with other inputs, another model or other options; remove it, or name another file")
    return {int(path.stem) for path in parts.glob("*.jsonl") if path.stem.isdecimal()}


def _run_parts(
    parts: Path,
    pieces: Sequence[list[str]],
    missing: Sequence[int],
    options: BulkOptions,
    processes: int,
    progress: Callable[[int], None] | None,
) -> None:
    if not missing:
        return
    if options.on_ray:
        from onnxferry.runtime.bulk.on_ray import run_parts

        def done(number: int, text: str) -> None:
            write_text_whole(parts / f"{number:08d}.jsonl", text)
            if progress:
                progress(len(pieces[number]))

        run_parts({number: pieces[number] for number in missing}, options.of_part(options.threads or 1), options.processes, done)
        return
    if processes == 1:
        _open_model(options.of_part(options.threads))
        for number in missing:
            _predict_part(pieces[number], parts / f"{number:08d}.jsonl")
            if progress:
                progress(len(pieces[number]))
        return
    # spawn: threads of ONNX Runtime, which this process may have, do not live through a fork
    context = multiprocessing.get_context("spawn")
    starts = (options.of_part(options.threads or 1),)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_open_model, initargs=starts) as pool:
        waiting: dict[Any, int] = {}
        rest = iter(missing)
        try:
            while True:
                for number in islice(rest, 2 * processes - len(waiting)):  # memory does not grow with the inputs
                    waiting[pool.submit(_predict_part, pieces[number], parts / f"{number:08d}.jsonl")] = number
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(future)
                    future.result()
                    if progress:
                        progress(len(pieces[number]))
        except BrokenProcessPool as error:
            raise ArtifactError(
                f"a process died while it predicted (out of memory, or killed); what is done is kept in {parts}: run it again to go on"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_predictor: PartPredictor | OnnxFerryError | None = None  # of a worker process, or why it has none


def _open_model(options: PartOptions) -> None:
    global _predictor
    try:
        _predictor = PartPredictor(options)
    except OnnxFerryError as error:  # an initializer that fails would only say that a process died
        _predictor = error


def _predict_part(names: Sequence[str], path: Path) -> None:
    """One part, written whole."""
    if isinstance(_predictor, OnnxFerryError):
        raise _predictor
    if _predictor is None:
        raise RuntimeError("the worker has no model")
    write_text_whole(path, _predictor.text(names))


def _rows(parts: Path, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        with (parts / f"{number:08d}.jsonl").open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _joined(parts: Path, count: int, target: Path, columns: Sequence[str]) -> int:
    """Writes the file, and returns the number of rows with an error."""
    errors = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal errors
        for row in _rows(parts, count):
            errors += row["error"] is not None
            yield row

    with written_whole(target) as part:
        if target.suffix.lower() == ".parquet":
            _write_parquet(counted(), part, columns)
        elif target.suffix.lower() == ".csv":
            # surrogateescape: the bytes of a name that is no UTF-8
            with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows({**row, "top": json_text(row["top"])} if row.get("top") else row for row in counted())
        else:
            with part.open("w", encoding="utf-8") as file:
                file.writelines(json_text(row) + "\n" for row in counted())
    return errors


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path, columns: Sequence[str]) -> None:
    arrow, parquet = _pyarrow()
    ranked = arrow.struct([("label", arrow.string()), ("index", arrow.int64()), ("probability", arrow.float32())])
    types = {
        "input": arrow.string(),
        "label": arrow.string(),
        "index": arrow.int64(),
        "probability": arrow.float32(),
        "unknown": arrow.float32(),
        "known": arrow.bool_(),
        "sure": arrow.bool_(),
        "top": arrow.list_(ranked),
        "error": arrow.string(),
    }
    schema = arrow.schema([(column, types[column]) for column in columns])
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, 10_000)):
            writer.write_table(arrow.Table.from_pylist([_in_utf8(row) for row in batch], schema=schema))


def _in_utf8(row: dict[str, Any]) -> dict[str, Any]:
    """With U+FFFD for bytes of a name that is no UTF-8, which a column of text cannot hold."""
    texts = {name: row[name] for name in ("input", "error") if row[name] is not None}
    return {**row, **{name: text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name, text in texts.items()}}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "bulk", "writing .parquet") from error
    return pyarrow, pyarrow.parquet


def as_document(result: BulkResult) -> dict[str, Any]:
    """For ``--json``."""
    return {**asdict(result), "path": str(result.path)}
