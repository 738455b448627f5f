"""What a variant is calibrated and scored on: never the same samples.

Images come from a named set, a folder, or an .npz; a generator's noise and a decoder's latents are drawn here; a text is any
file. What is given is cut in two where it has no test part of its own: the first half calibrates, the second scores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxferry.export.optimize.text_samples import labelled_texts, padded_feeds
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.runtime.evaluation.labelled_boxes import find_labelled_boxes
from onnxferry.runtime.files import UNREADABLE, read_npz
from onnxferry.runtime.kinds import Kind
from onnxferry.runtime.onnx_file.made_inputs import noise_inputs
from onnxferry.runtime.tables.csv_file import CSV_SUFFIXES, read_table
from onnxferry.runtime.tables.feeds import as_feeds, check_text, chosen_columns
from onnxferry.runtime.tasks.autoencoder import decoder_path

if TYPE_CHECKING:
    from onnxferry.train.data.scenes import Scene


CALIBRATED = 256
"""Samples that ranges are taken from at most; more do not change them."""


SCORED = 10_000


TEXT_ROWS, TEXT_BYTES = 64, 256
"""A text is scored in so many pieces, spread over it, of so many bytes each."""


LABELS = ("label", "labels")


SCENES, SCENE_SIZE = 400, (160, 224)
"""Composed scenes that a detector of digits is scored on, and their height and width, pixels."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows by input name, and what they are."""

    feeds: Mapping[str, np.ndarray]  # a single number is for all rows
    words: str  # without local paths
    labels: np.ndarray | None = None  # int64 (rows,); of boxes float32 (rows, objects, 5), of translations bytes objects: see score.py

    def __len__(self) -> int:
        return count_rows(self.feeds)

    def take(self, rows: slice | np.ndarray) -> Samples:
        labels = None if self.labels is None else self.labels[rows]
        return Samples(rows_of(self.feeds, rows), self.words, labels)


def count_rows(feeds: Mapping[str, np.ndarray]) -> int:
    return min((len(array) for array in feeds.values() if array.ndim), default=0)


def rows_of(feeds: Mapping[str, np.ndarray], rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Some of the rows; a single number goes with any. Of texts with their lengths, the padding that no row needs is left out."""
    chosen = {name: array[rows] if array.ndim else array for name, array in feeds.items()}
    if {"text", "text_length"} <= chosen.keys() and chosen["text"].ndim == 2:
        chosen["text"] = chosen["text"][:, : int(chosen["text_length"].max(initial=0))]
    return chosen


def samples_for(
    engine: Engine, kind: Kind, data: str | os.PathLike[str] | None, calibration: str | os.PathLike[str] | None, limit: int = SCORED
) -> tuple[Samples, Samples]:
    """What to calibrate on, and what to score on. Raises InputError, DataError in one line for what does not fit the model."""
    if kind.returns == "text":
        scored = _text(data)
        return scored, scored  # nothing is calibrated: its ranges are taken as it runs
    if kind.takes == "noise":
        return _noise(engine, seed=1, count=CALIBRATED), _noise(engine, seed=2, count=min(limit, 512))
    if kind.takes == "text" and _reads_bytes(engine) and not _is_npz(data):
        first, second = _labelled(engine, kind, data)
        return first, second.take(slice(0, limit))
    if data is None and kind.takes in ("image", "latent"):
        data = "digits-5k"
    if data is None:
        given = _own_examples(engine)
        half = max(1, len(given) // 2)
        return (given, given) if len(given) < 2 else (given.take(slice(0, half)), given.take(slice(half, None)))
    first, second = _read(engine, kind, data)
    if calibration is not None:
        first = _joined(*_read(engine, kind, calibration))
    rng = np.random.default_rng(0)
    first = first.take(np.sort(rng.permutation(len(first))[:CALIBRATED]))
    if len(second) > limit:
        second = second.take(np.sort(rng.permutation(len(second))[:limit]))
    return first, second


def _reads_bytes(engine: Engine) -> bool:
    """Whether text goes in as it is; a model whose tokenizer lies beside it takes arrays."""
    return [spec.name for spec in engine.inputs] == ["text"] and any(spec.name == "text_length" for spec in engine.optional_inputs)


def _is_npz(data: str | os.PathLike[str] | None) -> bool:
    return data is not None and Path(data).suffix.lower() == ".npz"


def _labelled(engine: Engine, kind: Kind, data: str | os.PathLike[str] | None) -> tuple[Samples, Samples]:
    """Texts with their classes or translations: those that were trained on, and those of the test."""
    first, second, words = labelled_texts(kind, data, engine.contract.labels if engine.contract else ())
    made = [Samples(padded_feeds(texts), words, answers) for texts, answers in (first, second)]
    return made[0], made[1]


def _read(engine: Engine, kind: Kind, data: str | os.PathLike[str]) -> tuple[Samples, Samples]:
    path = Path(data)
    if path.suffix.lower() in (".npz", *CSV_SUFFIXES):
        whole = _npz(engine, path) if path.suffix.lower() == ".npz" else _csv(engine, path)
        half = max(1, len(whole) // 2)
        pair = (whole.take(slice(0, half)), whole.take(slice(half, None))) if len(whole) > 1 else (whole, whole)
    elif kind.returns == "boxes":
        pair = _scenes(engine, str(data))
    elif kind.takes in ("image", "latent"):
        pair = _images(engine, kind, str(data))
    else:
        raise InputError(
            f"data for a model of this kind come as an .npz with an array, or a .csv with a column, for each input, got {path.name!r}"
        )
    return pair


def _images(engine: Engine, kind: Kind, data: str) -> tuple[Samples, Samples]:
    """The training part to calibrate on, the test part to score on."""
    from onnxferry.train.data.images import NAMES, load_images

    labels = engine.contract.labels if engine.contract else ()
    color = kind.takes == "image" and engine.inputs[0].shape[-1] == 3
    size = _side(engine)
    splits = load_images(data, size=size, color=color) if data in NAMES else load_images(None, data, size=size, color=color)
    with_labels = kind.returns == "class"
    if with_labels and labels and splits.classes != labels:
        raise DataError(f"{splits.name} has the classes {', '.join(splits.classes)}, and the model knows {', '.join(labels)}")
    made = []
    for part in (splits.train, splits.test):
        name = "image" if kind.takes == "latent" else engine.inputs[0].name
        made.append(Samples({name: part.images}, splits.source, part.labels if with_labels else None))
    if kind.takes == "latent":
        return _latents(engine, made[0].take(slice(0, 4 * CALIBRATED))), _farther(_latents(engine, made[1].take(slice(0, SCORED))))
    return made[0], made[1]


def _scenes(engine: Engine, data: str) -> tuple[Samples, Samples]:
    """Scenes composed of a named set's digits, or images with boxes; all of one size, smaller ones on the ground of their edges."""
    from onnxferry.train.data.idx_sets import has_idx_files
    from onnxferry.train.data.images import NAMES, load_images
    from onnxferry.train.data.scenes import Scene, compose_scene

    color = engine.inputs[0].shape[-1] == 3
    if not color and (data in NAMES or (Path(data).is_dir() and has_idx_files(Path(data)))):
        splits = load_images(data) if data in NAMES else load_images(None, data)
        digits = [(splits.train, CALIBRATED), (splits.test, SCENES)]
        parts = [
            [compose_scene(np.random.default_rng((29, part, number)), images, *SCENE_SIZE) for number in range(count)]
            for part, (images, count) in enumerate(digits)
        ]
        words = f"scenes composed of single digits: {splits.source}"
    else:
        found = find_labelled_boxes(data)
        scenes = {part: [Scene(*each[1:]) for each in labelled.decoded(3 if color else 1)] for part, labelled in found.items()}
        whole = [scene for each in scenes.values() for scene in each]
        tested = scenes.get("test") or whole[len(whole) // 2 :]
        parts = [scenes.get("train") or whole[: max(1, len(whole) // 2)], tested]
        words = "images of one's own with boxes"
    first, second = (_one_size(part) for part in parts)
    low = {"score_threshold": np.array(0.05, np.float32)}
    return Samples({"image": first[0]}, words), Samples({"image": second[0], **low}, words, second[1])


def _one_size(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, height, width, channels), and truth as score.py's mAP takes it."""
    height, width = (max(scene.image.shape[axis] for scene in scenes) for axis in (0, 1))
    most = max(1, *(len(scene.labels) for scene in scenes))
    images = np.zeros((len(scenes), height, width, scenes[0].image.shape[2]), np.uint8)
    truth = np.full((len(scenes), most, 5), -1, np.float32)
    for number, scene in enumerate(scenes):
        image = scene.image
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        images[number] = np.median(edge, axis=0).astype(np.uint8)
        images[number, : image.shape[0], : image.shape[1]] = image
        truth[number, : len(scene.labels), 0] = scene.labels
        truth[number, : len(scene.labels), 1:] = scene.boxes
    return images, truth


def _side(engine: Engine) -> int:
    """The images' size: the network's own, so that nothing is resampled twice."""
    options = engine.contract.options if engine.contract else {}
    size = options.get("image_size", [28, 28])
    return int(size[0]) if isinstance(size, list) and size and isinstance(size[0], int) and 28 <= size[0] <= 224 else 28


def _latents(engine: Engine, images: Samples) -> Samples:
    """What the encoder beside a decoder's file makes of images."""
    path = engine.path
    encoder = None if path is None else path.with_name(path.name.replace(".decoder.onnx", ".onnx"))
    if path is None or encoder is None or encoder == path or not encoder.is_file() or decoder_path(encoder) != path:
        raise DataError("latents to run a decoder on come from the encoder's file beside it; give an .npz with the array latent instead")
    with Engine(encoder, device="cpu") as beside:
        rows = [beside.run({"image": images.feeds["image"][i : i + 256]}, ["latent"])["latent"] for i in range(0, len(images), 256)]
    return Samples({"latent": np.concatenate(rows)}, f"the encoder's latents of {images.words}")


def _farther(latents: Samples) -> Samples:
    """And the same ones twice as far from their mean: people mix and draw latents, and a decoder must bear what they make."""
    rows = latents.feeds["latent"]
    middle = rows.mean(axis=0)
    both = np.concatenate([rows, middle + 2 * (rows - middle)]).astype(rows.dtype)
    return Samples({"latent": both}, f"{latents.words}, and those twice as far out")


def _noise(engine: Engine, seed: int, count: int) -> Samples:
    """What an image generator is fed, as its contract says: standard normal noise, all labels in turn."""
    classes = len(engine.contract.labels) if engine.contract else 1
    feeds = noise_inputs(engine.inputs, count, classes, np.random.default_rng(seed))
    return Samples(feeds, f"noise of its own, seed {seed}")


def _text(data: str | os.PathLike[str] | None) -> Samples:
    if data is None:
        raise InputError("a text generator is scored on a text: give --data FILE.txt, of text that it did not learn from")
    try:
        whole = np.frombuffer(Path(data).read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"cannot read the text {Path(data).name}: {error.strerror or error}") from error
    if len(whole) < 2 * TEXT_BYTES:
        raise DataError(f"the text {Path(data).name} has {len(whole)} bytes, expected at least {2 * TEXT_BYTES}")
    rows = min(TEXT_ROWS, len(whole) // TEXT_BYTES)
    starts = np.linspace(0, len(whole) - TEXT_BYTES, rows).astype(int)
    prompts = np.stack([whole[start : start + TEXT_BYTES] for start in starts])
    return Samples({"prompt": prompts}, f"{rows} pieces of {TEXT_BYTES} bytes of a text of {len(whole)} bytes")


def _npz(engine: Engine, path: Path) -> Samples:
    """Arrays by input name; ``images`` serves for ``image``; ``label`` or ``labels``, where no input is called so, are labels."""
    try:
        arrays = read_npz(path)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"no such file: {path.name}", path) from error
    except UNREADABLE as error:
        raise DataError(f"{path.name} cannot be read as an .npz archive of arrays ({error})") from error
    feeds = {}
    for spec in engine.inputs:
        array = arrays.get(spec.name, arrays.get(f"{spec.name}s"))
        if array is None:
            raise DataError(f"{path.name} has no array {spec.name!r}; expected {'; '.join(map(str, engine.inputs))}")
        if array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.shape):
            raise DataError(f"{path.name}: {spec.name!r} is {array.dtype} {array.shape}, and the model takes {spec}")
        for axis, size in enumerate(spec.shape):
            if isinstance(size, int) and axis and array.shape[axis] != size:
                raise DataError(f"{path.name}: {spec.name!r} has size {array.shape[axis]} on axis {axis}, and the model takes {spec}")
        feeds[spec.name] = array
    rows = {len(array) for array in feeds.values() if array.ndim}
    if len(rows) != 1 or 0 in rows:
        raise DataError(f"{path.name}: the inputs need the same number of rows, at least one; got {sorted(rows)}")
    inputs = {spec.name for spec in engine.inputs}
    labels = next((arrays[name] for name in LABELS if name in arrays and name not in inputs), None)
    if labels is not None and (labels.shape != (rows.pop(),) or labels.dtype.kind not in "iu"):
        raise DataError(f"{path.name}: labels must be whole numbers, one a row, got {labels.dtype} {labels.shape}")
    return Samples(feeds, f"samples of one's own ({path.name})", None if labels is None else labels.astype(np.int64))


def _csv(engine: Engine, path: Path) -> Samples:
    """Rows of a table; columns that are no inputs are left out. The column ``label`` or ``labels`` holds class names or their places."""
    table = read_table(path)
    chosen, left = chosen_columns(table, engine.inputs)
    check_text(chosen, engine.inputs)
    try:
        feeds = dict(as_feeds(chosen, engine.inputs))
    except InputError as error:
        raise DataError(f"{path.name}: {error}") from error
    known = engine.contract.labels if engine.contract else ()
    target = next((name for name in left if name.lower() in LABELS), None)
    cells = table.columns[target] if target else ()
    labels = np.array([known.index(cell) for cell in cells]) if cells and set(cells) <= set(known) else None
    return Samples(feeds, f"rows of one's own ({path.name})", labels)


def _own_examples(engine: Engine) -> Samples:
    """Another graph's golden samples, where nothing else is given."""
    goldens = engine.contract.goldens if engine.contract else ()
    names = [spec.name for spec in engine.inputs]
    rows = [golden.inputs for golden in goldens if all(n in golden.inputs and golden.inputs[n].ndim for n in names)]
    shapes = {tuple(row[n].shape[1:] for n in names) for row in rows}
    if not names or not rows or len(shapes) != 1:
        raise InputError("what to run this model on? Give --data FILE.npz, with an array for each of its inputs, a sample a row")
    return Samples({n: np.concatenate([row[n] for row in rows]) for n in names}, "the file's own golden samples")


def _joined(first: Samples, second: Samples) -> Samples:
    return Samples({n: np.concatenate([a, second.feeds[n]]) if a.ndim else a for n, a in first.feeds.items()}, first.words)
