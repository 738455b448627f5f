from __future__ import annotations

import base64
import contextlib
import io
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.errors import DataError, InputError
from onnxferry.runtime.images.decode import decode_image, with_channels
from onnxferry.runtime.images.folders import list_images, list_labelled_images


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestArrays:
    def test_grey_and_colour_pass_as_they_are(self) -> None:
        for shape in [(4, 5), (4, 5, 1), (4, 5, 3)]:
            array = noise(shape)
            np.testing.assert_array_equal(decode_image(array), array.reshape(4, 5, -1))

    def test_bool_is_black_and_white_and_uint16_is_scaled(self) -> None:
        np.testing.assert_array_equal(decode_image(np.array([[True, False]])), [[[255], [0]]])
        np.testing.assert_array_equal(decode_image(np.array([[0, 128, 129, 257, 65535]], np.uint16)), [[[0], [0], [1], [1], [255]]])

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (np.zeros((4, 4), np.float32), r"uint8.*float32.*\* 255"),
            (np.zeros((4, 4), np.int64), r"uint8.*int64; use x.astype\('uint8'\)"),
            (np.zeros((4, 4, 2), np.uint8), r"1 \| 3.*\(4, 4, 2\)"),
            (np.zeros((4, 4, 4), np.uint8), "alpha"),
            (np.zeros((3, 8, 8), np.uint8), "transpose"),
            (np.zeros((10, 28, 28), np.uint8), "many images alone, not inside a list"),
            (np.zeros(7, np.uint8), r"\(7,\)"),
            (np.zeros((0, 4), np.uint8), "no pixels"),
            (np.zeros((2, 2), object), "object"),
        ],
    )
    def test_wrong_arrays_say_what_to_do(self, array: np.ndarray, says: str) -> None:
        with pytest.raises(InputError, match=says):
            decode_image(array)


class TestFiles:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [("PNG", {}), ("BMP", {}), ("GIF", {}), ("PPM", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})],
    )
    def test_every_format(self, tmp_path: Path, kind: str, options: dict[str, object]) -> None:
        image = np.kron(noise((2, 3)), np.ones((8, 8), np.uint8))  # flat blocks survive JPEG
        path = tmp_path / "image.bin"  # the suffix tells nothing
        path.write_bytes(encoded(Image.fromarray(image), kind, **options))
        decoded = with_channels(decode_image(path), 1)
        assert decoded.dtype == np.uint8
        np.testing.assert_allclose(decoded[..., 0].astype(int), image, atol=3 if kind == "JPEG" else 0)
        np.testing.assert_array_equal(decoded, with_channels(decode_image(str(path)), 1))
        np.testing.assert_array_equal(decoded, with_channels(decode_image(path.read_bytes()), 1))

    def test_transparency_lies_over_white(self) -> None:
        rgba = np.zeros((1, 3, 4), np.uint8)
        rgba[0, :, 3] = [255, 128, 0]  # black: opaque, half, invisible
        decoded = decode_image(encoded(Image.fromarray(rgba)))
        np.testing.assert_array_equal(decoded[0], [[0] * 3, [127] * 3, [255] * 3])
        grey = Image.fromarray(rgba).convert("LA")
        np.testing.assert_array_equal(decode_image(encoded(grey))[0, :, 0], [0, 127, 255])
        np.testing.assert_array_equal(decode_image(Image.fromarray(rgba).convert("RGBa"))[0], [[0] * 3, [127] * 3, [255] * 3])

    def test_transparent_palette_entries_and_key_colours(self) -> None:
        palette = Image.new("P", (2, 1))
        palette.putpalette([10, 20, 30, 40, 50, 60])
        palette.putpixel((1, 0), 1)
        np.testing.assert_array_equal(decode_image(encoded(palette))[0], [[10, 20, 30], [40, 50, 60]])
        np.testing.assert_array_equal(decode_image(encoded(palette, transparency=1))[0], [[10, 20, 30], [255] * 3])
        grey = Image.fromarray(np.array([[7, 9]], np.uint8))
        np.testing.assert_array_equal(decode_image(encoded(grey, transparency=7))[0], [[255], [9]])
        deep = Image.fromarray(np.array([[700, 65535, 0]], np.uint16))
        np.testing.assert_array_equal(decode_image(encoded(deep, transparency=700))[0], [[255], [255], [0]])

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_16_bits_are_scaled_not_clipped(self, kind: str) -> None:
        deep = np.array([[0, 257 * 100, 257 * 200 + 100, 65535]], np.uint16)
        np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(deep), kind))[0, :, 0], [0, 100, 200, 255])

    def test_pixels_of_unknown_range_are_refused(self) -> None:
        for values in (np.zeros((2, 2), np.float32), np.full((2, 2), 10**6, np.int32), np.full((2, 2), -1, np.int32)):
            with pytest.raises(InputError, match="unknown range"):
                decode_image(encoded(Image.fromarray(values), "TIFF"))

    def test_black_and_white_bits(self) -> None:
        bits = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
        np.testing.assert_array_equal(decode_image(encoded(bits))[0, :, 0], [0, 255, 0])

    def test_cmyk_becomes_rgb(self) -> None:
        red = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")
        decoded = decode_image(encoded(red, "JPEG", quality=95))
        assert decoded.shape == (8, 8, 3)
        np.testing.assert_allclose(decoded[4, 4].astype(int), [255, 0, 0], atol=6)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_undone(self, orientation: int) -> None:
        upright = np.kron(noise((2, 3)), np.ones((16, 16), np.uint8))
        # How a camera stores the scene for each orientation; EXIF 2.32, tag 0x0112.
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.T,
            6: np.rot90(upright, 1),
            7: upright[::-1, ::-1].T,
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo = encoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=95, exif=exif)
        for given in (photo, Image.open(io.BytesIO(photo))):
            decoded = decode_image(given)
            assert decoded.shape == (32, 48, 1)
            np.testing.assert_allclose(decoded[..., 0].astype(int), upright, atol=3)

    def test_an_animation_gives_its_first_frame(self) -> None:
        frames = [Image.new("L", (3, 2), value) for value in (10, 200)]
        decoded = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
        np.testing.assert_array_equal(np.unique(decoded), [10])

    def test_the_callers_image_is_left_alone(self) -> None:
        image = Image.fromarray(noise((3, 4, 4)))
        before = image.tobytes(), image.mode
        decode_image(image)
        assert (image.tobytes(), image.mode) == before


class TestBadFiles:
    def test_missing_folder_empty_and_foreign(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("not an image")
        for name, says in [
            ("absent.png", "no such image"),
            ("", "is a folder"),
            ("empty.png", "is empty, expected an image"),
            ("text.png", "not an image"),
        ]:
            with pytest.raises(InputError, match=says) as caught:
                decode_image(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="the image: is empty"):
            decode_image(b"")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    def test_truncated(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "cut"
        whole = encoded(Image.fromarray(noise((64, 64, 3))), kind)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"broken or truncated|not an image"):
            decode_image(path)

    def test_postscript_is_not_run(self) -> None:
        script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
        with pytest.raises(InputError, match="not an image"):
            decode_image(script)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_decompression_bombs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bomb = encoded(Image.new("L", (60, 40)))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2400)
        assert decode_image(bomb).shape == (40, 60, 1)
        for limit in (2399, 100):  # Pillow itself only warns up to twice the limit
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(InputError, match="too many pixels"):
                decode_image(bomb)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert decode_image(bomb).shape == (40, 60, 1)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_small_file_of_many_pixels_is_not_decoded(self) -> None:
        bomb = encoded(Image.new("1", (8193, 8192)))
        with pytest.raises(InputError, match=r"too many pixels \(8193 x 8192, at most 67108864 are decoded\)"):
            decode_image(bomb)
        small = encoded(Image.new("L", (60, 40)))
        with pytest.raises(InputError, match="at most 2399 are decoded"):
            decode_image(small, max_pixels=2399)
        assert decode_image(small, max_pixels=2400).shape == (40, 60, 1)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    def test_broken_bytes_raise_nothing_but_input_errors(self, kind: str) -> None:
        whole = encoded(Image.fromarray(noise((20, 20, 3))), kind)
        rng = random.Random(0)
        for _ in range(300):
            broken = bytearray(whole)
            for _ in range(rng.randint(1, 12)):
                broken[rng.randrange(min(len(broken), 200))] = rng.randrange(256)
            with contextlib.suppress(InputError):
                decoded = decode_image(bytes(broken))
                assert decoded.dtype == np.uint8
                assert decoded.ndim == 3


def test_luma_is_pillows() -> None:
    colour = noise((50, 50, 3))
    np.testing.assert_array_equal(with_channels(colour, 1)[..., 0], np.asarray(Image.fromarray(colour).convert("L")))
    grey = noise((4, 4, 1))
    np.testing.assert_array_equal(with_channels(grey, 3), np.concatenate([grey] * 3, axis=2))
    assert with_channels(grey, 1) is grey


class TestFolders:
    def test_images_are_sorted_and_others_passed_over(self, tmp_path: Path) -> None:
        for name in ("b.PNG", "a.jpg", "._a.jpg", ".DS_Store", "notes.txt"):
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]

    def test_labelled(self, tmp_path: Path) -> None:
        for label, names in {"dog": ["1.png"], "cat": ["2.png", "1.png"], ".git": ["x.png"]}.items():
            (tmp_path / label).mkdir()
            for name in names:
                (tmp_path / label / name).touch()
        (tmp_path / "readme.md").touch()
        found = list_labelled_images(tmp_path)
        assert {label: [p.name for p in paths] for label, paths in found.items()} == {"cat": ["1.png", "2.png"], "dog": ["1.png"]}

    def test_nothing_there_is_a_data_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no image lies in this folder"):
            list_images(tmp_path)
        with pytest.raises(DataError, match="no such folder"):
            list_images(tmp_path / "absent")
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="cannot be read as a folder"):
            list_images(tmp_path / "file")
        with pytest.raises(DataError, match="one sub-folder of images for each label"):
            list_labelled_images(tmp_path)
        (tmp_path / "cat").mkdir()
        with pytest.raises(DataError, match=r"cat.*no image"):
            list_labelled_images(tmp_path)
        with pytest.raises(DataError, match=r"sub-folders \(cat\)"):
            list_images(tmp_path)


def test_a_name_that_no_file_can_have_is_told() -> None:
    with pytest.raises(InputError, match="no such image"):
        decode_image("a\0b.png")


def tiff(array: np.ndarray, **tags: object) -> bytes:
    """A TIFF with one strip, as the tags declare it: ``bits``, ``format`` (1 unsigned, 2 signed), ``photometric`` (0: white is zero)."""
    height, width = array.shape
    data = array.tobytes()
    values = [(256, width), (257, height), (258, tags.get("bits", array.itemsize * 8)), (259, 1), (262, tags.get("photometric", 1))]
    values += [(273, 8), (277, 1), (278, height), (279, len(data)), (339, tags.get("format", 1))]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in values)
    data += b"\0" * (len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(values)) + entries + b"\0\0\0\0"


class TestWideSamples:
    RAMP = np.linspace(0, 65535, 20).round().astype(np.uint16).reshape(4, 5)

    def test_a_tiff_whose_white_is_zero_is_inverted_for_16_bits_too(self) -> None:
        plain, inverted = decode_image(tiff(self.RAMP)), decode_image(tiff(65535 - self.RAMP, photometric=0))
        np.testing.assert_array_equal(plain, decode_image(self.RAMP))
        np.testing.assert_array_equal(inverted, plain)

    def test_12_bits_reach_white(self) -> None:
        packed = bytes([0xFF, 0xF0, 0x00] * 4)  # two values of 12 bits in three bytes: 4095, 0
        row = tiff(np.frombuffer(packed, np.uint8).reshape(1, -1), bits=12)
        data = row.replace(struct.pack("<HHII", 256, 3, 1, 12), struct.pack("<HHII", 256, 3, 1, 8))
        np.testing.assert_array_equal(decode_image(data)[0, :, 0], [255, 0] * 4)

    @pytest.mark.parametrize(
        "image",
        [
            tiff(np.arange(20, dtype=np.uint32).reshape(4, 5)),
            tiff(np.arange(20, dtype=np.int32).reshape(4, 5), format=2),
            tiff(np.arange(20, dtype=np.int16).reshape(4, 5), format=2),
            tiff(np.arange(-10, 10, dtype=np.int8).reshape(4, 5), format=2),
            Image.fromarray(np.arange(20, dtype=np.int32).reshape(4, 5)),
        ],
        ids=["uint32", "int32", "int16", "int8", "array"],
    )
    def test_integers_of_unknown_range_are_refused(self, image: bytes | Image.Image) -> None:
        with pytest.raises(InputError, match="unknown range; convert it to 8 or 16 bits"):
            decode_image(image)

    @pytest.mark.parametrize("make", [lambda array: array, Image.fromarray], ids=["array", "PIL"])
    def test_8_bits_in_an_array_of_16_are_refused_and_not_read_as_black(self, make) -> None:
        values = np.array([[0, 90], [200, 255]], np.uint16)
        with pytest.raises(InputError, match=r"16-bit values, of which the largest is 255, .* use x.astype\('uint8'\)"):
            decode_image(make(values))
        assert decode_image(make(values * 257)).max() == 255
        assert decode_image(make(np.zeros((2, 2), np.uint16))).max() == 0
        file = io.BytesIO()
        Image.fromarray(values).save(file, "png")
        assert decode_image(file.getvalue()).max() == 1  # a file declares its 16 bits

    def test_a_pgm_of_16_bits_is_read(self) -> None:
        data = b"P5 5 4 65535\n" + self.RAMP.astype(">u2").tobytes()
        np.testing.assert_array_equal(decode_image(data), decode_image(self.RAMP))


def bmp_with_alpha(rgba: np.ndarray) -> bytes:
    """A 32-bit BMP with a mask for its alpha (BITMAPV4HEADER)."""
    height, width, _ = rgba.shape
    pixels = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def test_a_bmp_without_any_opaque_pixel_is_opaque() -> None:
    rgba = noise((4, 5, 4))
    rgba[..., 3] = 0
    np.testing.assert_array_equal(decode_image(bmp_with_alpha(rgba)), rgba[..., :3])
    rgba[0, 0, 3] = 255  # now alpha means something: all others are transparent
    assert (decode_image(bmp_with_alpha(rgba)).reshape(-1, 3)[1:] == 255).all()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\0\0\0\x1cftypavif\0\0\0\0", "is AVIF, which is not read; convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is JPEG 2000"),
        (b"\0\0\1\0\1\0", "is ICO"),
        (b"", "is empty"),
        (b"hello, world", "not an image"),
    ],
)
def test_formats_that_are_not_read_are_named(start: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        decode_image(start)


def test_arrays_of_another_byte_order_and_with_masks() -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    np.testing.assert_array_equal(decode_image(pixels.astype(">u2")), decode_image(pixels))
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(decode_image(np.ma.masked_array(grey, mask=False)), decode_image(grey))
    with pytest.raises(InputError, match=r"has masked pixels, which have no value; give x.filled\(255\)"):
        decode_image(np.ma.masked_array(grey, mask=grey > 3))
    with pytest.raises(InputError, match=r"give images of several sizes as list\(x\)"):
        decode_image(np.array([grey, grey[:2]], object))


def test_files_and_names_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (3, 4), 7).save(path)

    class Named:
        def __fspath__(self) -> bytes:
            return os.fsencode(path)

    assert decode_image(Named()).shape == (4, 3, 1)
    with path.open("rb") as file:
        pass
    with pytest.raises(InputError, match="the file cannot be read"):
        decode_image(file)
    with pytest.raises(InputError, match=r"no such image: ~/x.png; ~ is not expanded here"):
        decode_image("~/x.png")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><title>404", "a web page"),
        (b'{"image": "iVBOR"}', "is JSON"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)), "base64 text"),
        (base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(20)), "base64 text"),
        (base64.b64encode(b"RIFF" + bytes(20)), "base64 text"),
        (base64.b64encode(b"GIF89a" + bytes(20)), "base64 text"),
    ],
)
def test_what_is_sent_in_place_of_an_image_is_named(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        decode_image(data)


def test_an_open_file_that_has_been_read_says_so() -> None:
    file = io.BytesIO()
    Image.new("L", (3, 3)).save(file, "png")
    with pytest.raises(InputError, match=r"read to its end already; use file\.seek\(0\)"):
        decode_image(file)
    file.seek(0)
    assert decode_image(file).shape == (3, 3, 1)
    with pytest.raises(InputError, match="is empty"):
        decode_image(io.BytesIO())
