"""What ``predict`` and its like accept: one image, many of them, a folder, pairs with keys; and what happens to a broken one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.images.inputs import decode_each, decode_images


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def shapes(images: Any, **options: Any) -> list[tuple[int, ...]]:
    return [image.shape for image in decode_images(images, **options)]


def test_many_come_out_in_order() -> None:
    batch = noise((3, 4, 5, 1))
    np.testing.assert_array_equal(np.stack(list(decode_images(batch))), batch)
    mixed = [noise((2, 3)), png(noise((4, 5, 3))), Image.fromarray(noise((6, 7)))]
    assert [p.shape for p in decode_images(mixed)] == [(2, 3, 1), (4, 5, 3), (6, 7, 1)]
    assert list(decode_images([])) == []
    assert list(decode_images(batch[:0])) == []


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((4, 5), [(4, 5, 1)]),
        ((4, 5, 1), [(4, 5, 1)]),
        ((4, 5, 3), [(4, 5, 3)]),  # and not four grey images of 5 x 3
        ((4, 5, 2), [(5, 2, 1)] * 4),
        ((2, 28, 28), [(28, 28, 1)] * 2),
        ((3, 28, 28), [(28, 28, 1)] * 3),
        ((0, 28, 28), []),
        ((4, 5, 3, 1), [(5, 3, 1)] * 4),
        ((2, 4, 5, 3), [(4, 5, 3)] * 2),
    ],
)
def test_one_image_or_many_by_the_shape_of_an_array(shape: tuple[int, ...], read: list[tuple[int, ...]]) -> None:
    array = noise(shape)
    assert shapes(array) == read
    if read:
        np.testing.assert_array_equal(np.stack(list(decode_images(array))).reshape(shape), array)


def test_shapes_that_may_be_two_things_are_refused_with_both() -> None:
    with pytest.raises(InputError, match=r"transpose\(1, 2, 0\) for one image, x\[\.\.\., None\] for three"):
        shapes(noise((3, 28, 28)), channels=3)
    assert shapes(noise((2, 28, 28)), channels=3) == [(28, 28, 1)] * 2
    with pytest.raises(InputError, match="alpha"):
        shapes(noise((8, 8, 4)))


def test_folders_generators_and_other_iterables(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        Image.fromarray(noise((4, 5 + (name == "a.png")))).save(tmp_path / name)
    (tmp_path / "note.txt").write_text("no image")
    assert shapes(tmp_path) == shapes(str(tmp_path)) == [(4, 6, 1), (4, 5, 1)]
    assert [key for key, _ in decode_each(tmp_path)] == [tmp_path / "a.png", tmp_path / "b.png"]
    assert shapes(noise((2, n)) for n in (1, 2)) == [(2, 1, 1), (2, 2, 1)]
    assert shapes(tmp_path.glob("*.png")) == shapes({tmp_path / "a.png": 1, tmp_path / "b.png": 2}.keys())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image lies in this folder"):
        shapes(tmp_path / "empty")
    with pytest.raises(InputError, match="is a folder, expected an image; give a folder alone"):
        shapes([tmp_path])


@pytest.mark.parametrize(("given", "says"), [({"a": 1}, "got dict"), (5, "got int"), (None, "got NoneType")])
def test_what_holds_no_images_is_refused(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"the image: expected a path, .*{says}"):
        shapes(given)


def test_a_tensor_of_another_library_is_told_how_to_become_an_array() -> None:
    class Tensor:
        def __iter__(self) -> Any:
            raise AssertionError("its rows are not images")

        def __array__(self) -> np.ndarray:
            raise AssertionError("it may lie on another device")

    with pytest.raises(InputError, match=r"got Tensor; use numpy.asarray\(x\)"):
        shapes(Tensor())


def test_keys_are_kept_or_made(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(noise((2, 2))))
    assert [key for key, _ in decode_each([("x", path), (7, noise((2, 2)))])] == ["x", 7]
    assert [key for key, _ in decode_each([path, noise((2, 2)), str(path), path.read_bytes()])] == [path, 1, str(path), 3]
    assert [key for key, _ in decode_each(path)] == [path]
    assert [key for key, _ in decode_each(noise((2, 5, 5)))] == [0, 1]
    with pytest.raises(InputError, match=r"image 0: expected .*, or a pair of a key and one of these, got a tuple of 3"):
        list(decode_each([("a", path, "b")]))


def test_a_broken_image_does_not_lose_the_others(tmp_path: Path) -> None:
    images = [("good", png(noise((2, 2)))), ("broken", b"no image"), ("gone", tmp_path / "gone.png"), ("fine", noise((3, 3)))]
    assert [key for key, _ in decode_each(images, "skip")] == ["good", "fine"]
    seen: list[tuple[Any, str]] = []
    note: Callable[[Any, InputError], None] = lambda key, error: seen.append((key, str(error)))  # noqa: E731
    assert [key for key, _ in decode_each(images, note)] == ["good", "fine"]
    assert [key for key, _ in seen] == ["broken", "gone"]
    assert seen[0][1].startswith("broken: not an image")
    assert seen[1][1] == f"no such image: {tmp_path / 'gone.png'}"
    with pytest.raises(InputError, match="broken: not an image"):
        list(decode_each(images))
    with pytest.raises(InputError, match="on_error must be 'raise', 'skip' or a function of a key and an error, got 'ignore'"):
        decode_each(images, "ignore")  # type: ignore[arg-type]


def test_a_list_names_the_position() -> None:
    with pytest.raises(InputError, match=r"image 1: .*float64"):
        list(decode_images([noise((2, 2)), np.zeros((2, 2))]))
    with pytest.raises(InputError, match=r"image 0: expected a path.*got list"):
        list(decode_images([[1, 2]]))
    with pytest.raises(InputError, match="not inside a list"):
        list(decode_images([noise((2, 4, 4, 1))]))


def test_open_files_are_images(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(image).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as one, (tmp_path / "a.png").open("rb") as other:
        (decoded,) = decode_images(one)
        np.testing.assert_array_equal(decoded[..., 0], image)
        assert len(list(decode_images([other, io.BytesIO((tmp_path / "a.png").read_bytes())]))) == 2
    with pytest.raises(InputError, match="open for text, expected binary"):
        list(decode_images(io.StringIO("text")))
