"""Arrays for any model's inputs."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from onnxferry.demo.your_file.inputs import (
    MAX_ELEMENTS,
    Input,
    from_audio,
    from_file,
    from_image,
    from_text,
    from_values,
    made_up,
    sized,
)
from onnxferry.runtime.errors import InputError


def saved(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_free_axes_take_the_sizes_given() -> None:
    spec = Input("x", "float32", ("batch", 3, None))
    assert spec.free_axes == (0, 2)
    assert sized(spec, {0: 4, 2: 5}) == (4, 3, 5)
    assert sized(spec, {}) == (1, 3, 1)
    assert sized(Input("x", "float32", None), {}) == ()


@pytest.mark.parametrize("shape", [(MAX_ELEMENTS + 1,), (2**31, 2**31), (-1,)])
def test_absurd_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at most"):
        sized(Input("x", "float32", shape), {})


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8", "bool"])
def test_made_up_has_the_dtype(dtype: str) -> None:
    made = made_up(Input("x", dtype, (2, 3)), {})
    assert (made.dtype, made.shape) == (np.dtype(dtype), (2, 3))
    assert not made_up(Input("x", dtype, (2, 3)), {}, zeros=True).any()


@pytest.mark.parametrize("dtype", ["str", "bfloat16", "sequence(tensor(float))", "object"])
def test_other_dtypes_are_not_made_up(dtype: str) -> None:
    with pytest.raises(InputError, match="upload arrays instead"):
        made_up(Input("x", dtype, (1,)), {})


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        (("b", None, None, 3), "uint8", (1, 8, 6, 3)),
        (("b", None, None, 1), "uint8", (1, 8, 6, 1)),
        (("b", 3, 4, 4), "float32", (1, 3, 4, 4)),
        ((1, 1, 28, 28), "float16", (1, 1, 28, 28)),
    ],
)
def test_a_image_as_the_input_takes_it(shape: tuple, dtype: str, expected: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    made = from_image(Input("x", dtype, shape), image)
    assert (made.shape, made.dtype) == (expected, np.dtype(dtype))
    assert made.flags.c_contiguous
    if dtype != "uint8":
        assert 0 <= made.min() <= made.max() <= 1
    elif shape[3] == 3:
        np.testing.assert_array_equal(made[0], image)


def test_what_takes_no_image() -> None:
    assert Input("x", "int64", (1, 3, 8, 8)).takes_image == ""
    assert Input("x", "float32", (1, 5, 8, 8)).takes_image == ""
    with pytest.raises(InputError, match="takes no image"):
        from_image(Input("x", "float32", (3,)), np.zeros((2, 2, 1), np.uint8))
    with pytest.raises(InputError, match="more than are made"):
        from_image(Input("x", "float32", (1, 3, 99_999, 99_999)), np.zeros((2, 2, 1), np.uint8))


def test_text_is_bytes() -> None:
    assert from_text("é").tolist() == [[0xC3, 0xA9]]
    assert Input("prompt", "uint8", (None, None)).takes_text


def test_arrays_by_name() -> None:
    x = np.arange(3, dtype=np.float32)
    inputs = [Input("x", "float32", (3,))]
    np.testing.assert_array_equal(from_file(saved(x=x), inputs)["x"], x)
    stream = io.BytesIO()
    np.save(stream, x)
    np.testing.assert_array_equal(from_file(stream.getvalue(), inputs)["x"], x)
    with pytest.raises(InputError, match="the file names 'y'"):
        from_file(saved(y=x), inputs)


def test_files_that_lie_are_refused() -> None:
    inputs = [Input("x", "float32", (3,))]
    with pytest.raises(InputError, match=r"take 8.1 kB, and at most 100 B"):
        from_file(saved(x=np.zeros(1000)), inputs, limit=100)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with pytest.raises(InputError, match="claims an array"):
        from_file(head.getvalue() + b"\0" * 100, inputs)
    import zipfile

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", head.getvalue() + b"\0" * 100)
    with pytest.raises(InputError, match="claims an array"):
        from_file(archive.getvalue(), inputs)


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00abc"])
def test_what_holds_no_arrays(data: bytes) -> None:
    with pytest.raises(InputError, match="no arrays that can be read"):
        from_file(data, [Input("x", "float32", (3,))])


@pytest.mark.parametrize(
    ("shape", "text", "expected"),
    [
        ((), "16000", np.array(16000.0)),
        ((2, 2), "0.5", np.full((2, 2), 0.5)),
        (("batch", 3), "1, 2 3; 4 5 6", np.array([[1, 2, 3], [4, 5, 6.0]])),
        ((2,), "true false", np.array([1.0, 0.0])),
    ],
)
def test_typed_values(shape: tuple, text: str, expected: np.ndarray) -> None:
    made = from_values(Input("x", "float32", shape), text, {})
    np.testing.assert_array_equal(made, expected.astype(np.float32))
    assert made.dtype == np.float32


@pytest.mark.parametrize("text", ["one", "", " , ", "1 2", "1e999999999x"])
def test_typed_values_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="'x'"):
        from_values(Input("x", "float32", (3,)), text, {})


def wav(samples: np.ndarray, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return stream.getvalue()


def test_a_sound_fills_an_input() -> None:
    samples = np.array([0, 16384, -32768])
    free = from_audio(Input("input", "float32", ("batch", "samples")), wav(samples))
    np.testing.assert_array_equal(free, np.array([[0, 0.5, -1]], np.float32))
    fixed = from_audio(Input("input", "float32", (1, 1, 512)), wav(np.repeat(samples, 2), channels=2))
    assert fixed.shape == (1, 1, 512)
    np.testing.assert_array_equal(fixed[0, 0, :4], [0, 0.5, -1, 0])
    for data in (b"", b"RIFF", wav(samples)[:20]):
        with pytest.raises(InputError, match=r"\.wav"):
            from_audio(Input("input", "float32", ("n",)), data)
