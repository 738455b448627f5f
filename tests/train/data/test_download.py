from __future__ import annotations

import gzip
import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime.errors import DataError
from onnxferry.train.data import download
from onnxferry.train.data.download import fetch

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file"


def leftovers(wanted: Path) -> list[str]:
    return sorted(path.name for path in wanted.parent.iterdir() if path.suffix != ".lock")


def test_a_file_is_downloaded_once(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    assert fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted) == wanted
    assert wanted.read_bytes() == CONTENT
    assert leftovers(wanted) == ["file"]
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert mirror.requests == [("/file", None)]


def test_the_checksum_of_a_gzipped_file_is_that_of_its_content(mirror, wanted) -> None:
    mirror.files |= {"/fast": gzip.compress(CONTENT, 1), "/small": gzip.compress(CONTENT, 9)}
    for path in mirror.files:
        destination = wanted.with_name(path[1:])
        fetch("the file", [mirror.address + path], SHA256, SIZE, destination)
        assert destination.read_bytes() == mirror.files[path]


def test_a_broken_file_is_replaced(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    wanted.parent.mkdir()
    for broken in (CONTENT[:1000], gzip.compress(CONTENT)[:1000], b"\x1f\x8bno gzip"):
        wanted.write_bytes(broken)
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
        assert wanted.read_bytes() == CONTENT


def test_a_cut_off_download_goes_on_where_it_was(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [300_000, 200_000]
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert wanted.read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on_where_an_earlier_one_was_cut_off(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [400_000, 0]
    with pytest.raises(DataError, match="cut off after 400000 of 1000000 bytes"):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    (part,) = leftovers(wanted)
    assert (wanted.parent / part).read_bytes() == CONTENT[:400_000]
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert wanted.read_bytes() == CONTENT
    assert mirror.requests[-1] == ("/file", "bytes=400000-")
    assert leftovers(wanted) == ["file"]


def test_a_mirror_that_gives_nothing_more_is_not_asked_forever(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [10] * 100
    with pytest.raises(DataError, match="cut off"):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert len(mirror.requests) == download.TRIES


@pytest.mark.parametrize("begun", [CONTENT[:400_000], b"another file" * 1000], ids=["its own", "another's"])
def test_a_server_that_ignores_ranges_gives_the_whole(mirror, wanted, begun) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [1000, 0]
    with pytest.raises(DataError):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    (wanted.parent / leftovers(wanted)[0]).write_bytes(begun)
    mirror.gives_ranges = False
    mirror.requests.clear()
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert wanted.read_bytes() == CONTENT
    assert len(mirror.requests) == 1


@pytest.mark.parametrize(
    "begun",
    [b"old" * 1000, CONTENT, b"x" * len(CONTENT), CONTENT + b"more"],
    ids=["of a file since changed", "whole", "whole but wrong", "longer than the file"],
)
def test_a_part_that_was_begun_otherwise_does_no_harm(mirror, wanted, begun) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [1000, 0]
    with pytest.raises(DataError):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    (wanted.parent / leftovers(wanted)[0]).write_bytes(begun)
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert wanted.read_bytes() == CONTENT
    assert leftovers(wanted) == ["file"]


def test_a_part_that_is_whole_is_not_downloaded_again(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [1000, 0]
    with pytest.raises(DataError):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    (wanted.parent / leftovers(wanted)[0]).write_bytes(CONTENT)
    mirror.requests.clear()
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert mirror.requests == [("/file", f"bytes={len(CONTENT)}-")]


def test_mirrors_are_tried_in_order(mirror, wanted) -> None:
    mirror.files |= {"/wrong": b"a login page", "/file": CONTENT, "/never": CONTENT}
    urls = [f"{mirror.address}/{path}" for path in ("missing", "wrong", "file", "never")]
    fetch("the file", urls, SHA256, SIZE, wanted)
    assert wanted.read_bytes() == CONTENT
    assert [path for path, _ in mirror.requests] == ["/missing", "/wrong", "/file"]
    assert leftovers(wanted) == ["file"]


def test_a_part_is_not_continued_from_a_mirror_that_packs_differently(mirror, wanted) -> None:
    mirror.files |= {"/one": gzip.compress(CONTENT, 9), "/two": gzip.compress(CONTENT, 1)}
    mirror.cuts = [1000, 0]
    fetch("the file", [f"{mirror.address}/one", f"{mirror.address}/two"], SHA256, SIZE, wanted)
    assert mirror.requests[-1] == ("/two", None)
    assert wanted.read_bytes() == mirror.files["/two"]


def test_a_wrong_checksum_leaves_nothing(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT[:-1] + b"!"
    with pytest.raises(DataError) as caught:
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert f"1000000 bytes, does not have the SHA-256 {SHA256[:12]}" in str(caught.value)
    assert leftovers(wanted) == []


def test_an_answer_without_a_length_that_ends_early_is_not_taken(mirror, wanted) -> None:
    mirror.files["/file"] = gzip.compress(CONTENT)
    mirror.says_length = False
    mirror.cuts = [5000]
    with pytest.raises(DataError, match="SHA-256"):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert not wanted.exists()


def test_without_a_network_it_says_what_to_put_where(wanted) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(DataError) as caught:
            fetch("the file", [url], SHA256, SIZE, wanted)
    first, *others = str(caught.value).splitlines()
    assert first.startswith("the file could not be downloaded")
    assert f"put file in {wanted.parent}" in first
    assert others == [f"  {url}: Connection refused"]


def test_offline_nothing_is_asked(mirror, wanted, monkeypatch) -> None:
    mirror.files["/file"] = CONTENT
    monkeypatch.setenv("ONNXFERRY_OFFLINE", "1")
    with pytest.raises(DataError, match="ONNXFERRY_OFFLINE") as caught:
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted)
    assert f"put file in {wanted.parent}" in str(caught.value)
    assert mirror.requests == []
    wanted.parent.mkdir()
    wanted.write_bytes(CONTENT)
    assert fetch("the file", [], SHA256, SIZE, wanted) == wanted


def test_several_at_once_download_it_once(mirror, wanted) -> None:
    mirror.files["/file"] = CONTENT
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda _: fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted), range(4)))
    assert got == [wanted] * 4
    assert wanted.read_bytes() == CONTENT
    assert len(mirror.requests) == 1


def test_a_cache_that_cannot_be_written(mirror, tmp_path) -> None:
    mirror.files["/file"] = CONTENT
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written.*ONNXFERRY_HOME"):
        fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, tmp_path / "taken" / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_full_disk(mirror, wanted) -> None:
    url = f"{mirror.address}/file"
    mirror.files["/file"] = CONTENT
    wanted.parent.mkdir()
    part = wanted.with_name(f"file.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    part.symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        fetch("the file", [url], SHA256, SIZE, wanted)
    assert not wanted.exists()


def test_progress_goes_to_the_callback_and_nothing_is_printed(mirror, wanted, capfd) -> None:
    mirror.files["/file"] = CONTENT
    mirror.cuts = [300_000]
    calls = []
    fetch("the file", [f"{mirror.address}/file"], SHA256, SIZE, wanted, lambda *call: calls.append(call))
    assert calls[0] == ("the file", 0, len(CONTENT), "bytes")
    assert calls[-1] == ("the file", len(CONTENT), len(CONTENT), "bytes")
    assert [done for _, done, _, _ in calls] == sorted(done for _, done, _, _ in calls)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("packed", [False, True])
def test_a_mirror_that_sends_too_much_is_left(mirror, wanted, packed) -> None:
    content = CONTENT * 20
    mirror.files |= {"/long": gzip.compress(content, 1) if packed else content, "/right": CONTENT}
    calls: list[int] = []
    urls = [f"{mirror.address}/long", f"{mirror.address}/right"]
    fetch("the file", urls, SHA256, SIZE, wanted, lambda name, done, total, unit: calls.append(done))
    assert wanted.read_bytes() == CONTENT
    assert max(calls) <= SIZE + SIZE // 1000 + 1024
    assert leftovers(wanted) == ["file"]


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(mirror, wanted, monkeypatch) -> None:
    mirror.files["/bomb"] = gzip.compress(bytes(50_000_000), 1)
    read = []
    unpack = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(len(data := unpack(self, size))) or data)
    with pytest.raises(DataError, match="does not have the SHA-256"):
        fetch("the file", [f"{mirror.address}/bomb"], SHA256, SIZE, wanted)
    assert sum(read) <= SIZE + download.CHUNK
