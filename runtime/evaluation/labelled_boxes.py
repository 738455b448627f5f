"""Images whose objects are known, as COCO JSON or in YOLO's folders.

=====================================  =================================================================================
``boxes.json``                         COCO: images in its folder, in ``images`` beside it, or where ``file_name`` says
``DIR`` with one .json file            the same
``DIR/train``, ``val``, ``test``       a .json file in each, images beside it
``DIR/annotations``                    .json files whose names say train, val or test, images in ``DIR/train`` … or ``DIR``
``DIR/images``, ``DIR/labels``         YOLO: a .txt file an image; with sub-folders train, val, test in both, or without
``DIR/train/images``, ``…/labels``     YOLO, the other way around
=====================================  =================================================================================

The names of YOLO's classes are read from ``data.yaml`` or ``classes.txt`` in ``DIR``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.errors import DataError, DataNotFoundError
from onnxferry.runtime.images.decode import IMAGE_SUFFIXES, decode_image, with_channels

PARTS: Mapping[str, Sequence[str]] = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""Part to how its folder may be called."""


WHOLE = "all"
"""The part of a set that is not split."""


SLACK = 1.0
"""Pixels by which a box may reach outside its image, from rounding: it is cut there."""


@dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """Images, not decoded yet, and what is in them; all of one length."""

    classes: tuple[str, ...]
    paths: Sequence[Path]
    boxes: Sequence[np.ndarray]  # float32 (objects, 4): left, top, right, bottom, pixels; YOLO's: shares of the sides
    labels: Sequence[np.ndarray]  # int64 (objects,)
    source: str  # for people
    shares: bool = False  # boxes are shares of the image's sides

    def __len__(self) -> int:
        return len(self.paths)

    def decoded(self, channels: int) -> Iterator[tuple[Path, np.ndarray, np.ndarray, np.ndarray]]:
        """Path, image uint8 (height, width, ``channels``), boxes in its pixels float32 (objects, 4), labels int64 (objects,).

        Raises DataError for a box outside its image, InputError for an image that cannot be read.
        """
        for path, boxes, labels in zip(self.paths, self.boxes, self.labels, strict=True):
            image = with_channels(decode_image(path), channels)
            sides = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
            placed = boxes * sides if self.shares else boxes
            outside = np.flatnonzero((placed < -SLACK).any(axis=1) | (placed > sides + SLACK).any(axis=1))
            if len(outside):
                edges = ", ".join(f"{edge:g}" for edge in placed[outside[0]])
                raise DataError(
                    f"{path.name}: a box reaches outside the image of {image.shape[1]} x {image.shape[0]} pixels: "
                    f"left, top, right, bottom are {edges}; correct the annotation"
                )
            yield path, image, np.clip(placed, 0, sides), labels


def find_labelled_boxes(place: str | os.PathLike[str]) -> dict[str, LabelledBoxes]:
    """The parts that are there, ``train``, ``validation`` and ``test``, or the one part ``all``.

        find_labelled_boxes("street/")["test"].classes

    Raises DataError where there is nothing of the kind, an image is missing, a category is unknown, a box has no area, or there is no image
    or no box at all.
    """
    place = Path(place)
    if not place.exists():
        raise DataNotFoundError(f"no such file or folder: {place}", place)
    inside = [place.parent / "images", place.parent]
    found = {WHOLE: _coco(place, inside)} if place.is_file() else _coco_parts(place) or _yolo_parts(place)
    if not found:
        raise DataError(
            f"{place}: no boxes were found: expected a COCO .json file, or YOLO's folders images and labels, as documented under "
            "onnxferry train detector"
        )
    classes = {part.classes for part in found.values()}
    if len(classes) > 1:
        raise DataError(f"{place}: its parts name different classes; give all of them the same categories in the same order")
    if not sum(map(len, found.values())):
        raise DataError(f"{place}: the set is empty: it names no image")
    if not sum(len(labels) for part in found.values() for labels in part.labels):
        raise DataError(f"{place}: no image has a box, so there is nothing to learn or to find")
    return found


def _part_of(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((part for part, names in PARTS.items() if any(word.startswith(names[0]) for word in words)), None)


def _coco_parts(place: Path) -> dict[str, LabelledBoxes]:
    found = {}
    files = sorted((place / "annotations").glob("*.json"))
    for file in files:
        part = _part_of(file.stem)
        if part is not None:
            folders = [place / sub for name in PARTS[part] for sub in (name, f"images/{name}")]
            found[part] = _coco(file, [*(folder for folder in folders if folder.is_dir()), place / "images", place])
    if found:
        return found
    if len(files) == 1:
        return {WHOLE: _coco(files[0], [place / "images", place])}
    for part, names in PARTS.items():
        for name in names:
            inside = sorted((place / name).glob("*.json"))
            if len(inside) == 1:
                found[part] = _coco(inside[0], [place / name, place / name / "images"])
    if found:
        return found
    inside = sorted(place.glob("*.json"))
    if len(inside) > 1:
        raise DataError(f"{place}: holds {len(inside)} .json files; give the one with the boxes")
    return {WHOLE: _coco(inside[0], [place / "images", place])} if inside else {}


def _coco(file: Path, folders: Sequence[Path]) -> LabelledBoxes:
    content = _read_json(file)
    names, images = _table(content, "categories", file), _table(content, "images", file)
    classes = tuple(str(category.get("name", number)) for number, category in sorted(names.items()))
    index = {number: place for place, number in enumerate(sorted(names))}
    boxes: dict[Any, list[list[float]]] = {number: [] for number in images}
    labels: dict[Any, list[int]] = {number: [] for number in images}
    for each in content.get("annotations") or ():
        if not isinstance(each, dict):
            raise DataError(f"{file.name}: an annotation is a {type(each).__name__}, expected an object")
        which = f"{file.name}: annotation {each.get('id')}"
        if each.get("iscrowd"):
            continue
        if each.get("image_id") not in boxes:
            raise DataError(f"{which} belongs to the image {each.get('image_id')!r}, which the file does not have")
        if each.get("category_id") not in index:
            known = ", ".join(map(str, sorted(names)))
            raise DataError(f"{which} has the unknown category {each.get('category_id')!r}; the file's categories are {known}")
        left, top, width, height = _numbers(each.get("bbox"), 4, which, "bbox, [left, top, width, height]")
        if width <= 0 or height <= 0:
            raise DataError(f"{which} has a box without an area, {width:g} x {height:g} pixels; correct or remove it")
        boxes[each["image_id"]].append([left, top, left + width, top + height])
        labels[each["image_id"]].append(index[each["category_id"]])
    paths = [_image_of(images[number].get("file_name"), folders, file) for number in images]
    return LabelledBoxes(
        classes,
        paths,
        [np.array(boxes[number], np.float32).reshape(-1, 4) for number in images],
        [np.array(labels[number], np.int64) for number in images],
        f"{file}, {len(paths)} images with {sum(map(len, labels.values()))} boxes",
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or "images" not in content or "categories" not in content:
        raise DataError(f"{file}: is not a COCO file of boxes: expected an object with images, annotations and categories")
    return content


def _table(content: Mapping[str, Any], key: str, file: Path) -> dict[Any, dict[str, Any]]:
    rows = content[key]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), int) for row in rows):
        raise DataError(f"{file}: {key} must be a list of objects, each with a whole number as id")
    return {row["id"]: row for row in rows}


def _numbers(values: Any, count: int, which: str, what: str) -> list[float]:
    if isinstance(values, list) and len(values) == count and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        return [float(v) for v in values]
    raise DataError(f"{which}: expected {count} finite numbers as {what}, got {values!r:.60}")


def _image_of(name: object, folders: Sequence[Path], file: Path) -> Path:
    if not isinstance(name, str) or not name:
        raise DataError(f"{file}: an image has no file_name")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{file.name} names the image {name}, which is missing: looked in {', '.join(map(str, folders))}")


def _yolo_parts(place: Path) -> dict[str, LabelledBoxes]:
    pairs: dict[str, tuple[Path, Path]] = {}
    for part, names in PARTS.items():
        for name in names:
            for images, labels in ((place / "images" / name, place / "labels" / name), (place / name / "images", place / name / "labels")):
                if images.is_dir():
                    pairs[part] = images, labels
    if not pairs and (place / "images").is_dir() and (place / "labels").is_dir():
        pairs[WHOLE] = place / "images", place / "labels"
    if not pairs:
        return {}
    classes = _yolo_classes(place)
    return {part: _yolo(*folders, classes) for part, folders in pairs.items()}


def _yolo(images: Path, labels: Path, classes: tuple[str, ...]) -> LabelledBoxes:
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    there = {path.stem for path in paths}
    for file in sorted(labels.glob("*.txt")):
        if file.stem not in there and file.name != "classes.txt":
            raise DataError(f"{file} has boxes, and its image is missing: looked for {file.stem} with an image's suffix in {images}")
    rows = [_yolo_rows(labels / f"{path.stem}.txt", classes) for path in paths]
    return LabelledBoxes(
        classes,
        paths,
        [boxes for boxes, _ in rows],
        [index for _, index in rows],
        f"{images}, {len(paths)} images with {sum(len(index) for _, index in rows)} boxes",
        shares=True,
    )


def _yolo_rows(file: Path, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of one image; without a file or a line it has no object."""
    boxes, index = [], []
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        which = f"{file.name}, line {number}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise DataError(f"{which}: expected numbers, class x y width height, got {line!r:.60}") from None
        label, x, y, width, height = _numbers(values, 5, which, "class, x, y, width, height")
        if label != int(label) or not 0 <= label < len(classes):
            raise DataError(
                f"{which} has the unknown category {words[0]}; data.yaml or classes.txt names {len(classes)}, 0 to {len(classes) - 1}"
            )
        if width <= 0 or height <= 0:
            raise DataError(f"{which} has a box without an area, {width:g} x {height:g} of the image; correct or remove it")
        boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        index.append(int(label))
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(index, np.int64)


def _yolo_classes(place: Path) -> tuple[str, ...]:
    """Of ``classes.txt``, a name a line; or of ``names`` in ``data.yaml``: a list, or numbers and names."""
    for file in (place / "classes.txt", place / "labels" / "classes.txt"):
        if file.is_file():
            return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    settings = [path for path in (*place.glob("*.yaml"), *place.glob("*.yml")) if path.is_file()]
    names = _names_in_yaml(settings[0].read_text(encoding="utf-8", errors="replace")) if settings else ()
    if not names:
        raise DataError(f"{place}: the classes have no names: put a data.yaml with names, or a classes.txt with a name a line, into it")
    return names


def _names_in_yaml(text: str) -> tuple[str, ...]:
    """What YOLO's files say under ``names``; this part of YAML is all that is read."""
    match = re.search(r"^names:[ \t]*(.*)$((?:\n[ \t]*(?:-|\d+[ \t]*:).*|\n[ \t]*(?:#.*)?(?=\n))*)", text + "\n", re.MULTILINE)
    if match is None:
        return ()
    inside = match[1].partition("#")[0].strip()
    if inside:
        words = inside.strip("[]{}").split(",")
        return tuple(_unquoted(word.partition(":")[2] if inside.startswith("{") else word) for word in words if word.strip())
    lines = [line.strip() for line in match[2].splitlines() if line.strip() and not line.strip().startswith("#")]
    return tuple(_unquoted(line.removeprefix("-") if line.startswith("-") else line.partition(":")[2]) for line in lines)


def _unquoted(word: str) -> str:
    word = word.strip()
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word.partition(" #")[0].strip()
