"""Images in front of a model: the nodes do what Pillow does, whatever the image's size."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from onnxferry.export.cli.image_options import image_from, labels_from
from onnxferry.export.tasks.image_graph import LEAST_OPSET, image_nodes
from onnxferry.export.tasks.image_input import ImageInput, as_image_input, drawn_images
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError

SIZES = ((28, 28), (45, 37), (1, 1), (3, 200), (333, 57), (20, 31))


def engine_of(image: ImageInput, layout: str, dtype: str = "float32", opset: int = 18) -> Engine:
    shapes = {
        "nchw": ["b", image.channels, image.height, image.width],
        "nhwc": ["b", image.height, image.width, image.channels],
        "nhw": ["b", image.height, image.width],
        "flat": ["b", image.height * image.width * image.channels],
    }
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", image.channels])]
    outputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shapes[layout])]
    graph = helper.make_graph(image_nodes(image, "image", "x", layout, dtype), "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return Engine(model.SerializeToString())


CASES = [
    ({"fit": fit, "interpolation": how, **more}, size)
    for fit, how in itertools.product(("stretch", "crop", "pad"), ("bilinear", "bicubic", "linear", "nearest"))
    for more, size in (({}, (28, 28)), ({}, (20, 31)), ({"resize": 32}, (24, 24)))
    if not more or fit == "crop"
]


@pytest.mark.parametrize(("fields", "size"), CASES)
def test_the_nodes_do_what_pillow_does(fields: dict[str, object], size: tuple[int, int]) -> None:
    values = {"scale": 1 / 255, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "color": "bgr", "pad_value": 100}
    image = ImageInput(height=size[0], width=size[1], channels=3, **values, **fields)
    with engine_of(image, "nchw") as engine:
        for height, width in SIZES:
            pixels = drawn_images(height, width, 3, 2)
            np.testing.assert_allclose(engine.run({"image": pixels})["x"], image.arranged(pixels, "nchw"), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("opset", [LEAST_OPSET, 13, 18, 21])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhw", "flat"])
def test_layouts_and_operator_sets(layout: str, opset: int) -> None:
    image = ImageInput(height=7, width=9, channels=1, scale=1 / 255, fit="pad", pad_value=255, interpolation="bicubic")
    pixels = drawn_images(23, 50, 1, 3)
    with engine_of(image, layout, opset=opset) as engine:
        np.testing.assert_allclose(engine.run({"image": pixels})["x"], image.arranged(pixels, layout), rtol=1e-5, atol=5e-6)


def test_an_image_of_the_size_asked_for_goes_in_as_it_is() -> None:
    pixels = drawn_images(28, 28, 1, 4)
    for fit in ("stretch", "crop", "pad"):
        with engine_of(ImageInput(height=28, width=28, channels=1, fit=fit), "nhwc") as engine:
            assert (engine.run({"image": pixels})["x"] == pixels).all()
        with engine_of(ImageInput(height=28, width=28, channels=1, fit=fit), "nhwc", "uint8") as engine:
            assert (engine.run({"image": pixels})["x"] == pixels).all()


def test_crop_is_what_torchvision_does() -> None:
    """Resize(40) and CenterCrop(32), on a photo-like image: within a level, as Pillow rounds to whole ones in between."""
    image = ImageInput(height=32, width=32, channels=3, fit="crop", resize=40)
    (pixels,) = drawn_images(90, 131, 3, 1)
    whole = Image.fromarray(pixels).resize((int(40 * 131 / 90), 40), Image.Resampling.BILINEAR)
    left, top = round((whole.width - 32) / 2), round((whole.height - 32) / 2)
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32)), np.float32)
    assert np.abs(image.arranged(pixels[None], "nhwc")[0] - expected).max() <= 1.0


def test_the_contract_brings_it_back() -> None:
    image = ImageInput.parse("224x200x3", scale=1 / 255, mean=(0.1, 0.2, 0.3), fit="crop", resize=256, layout="nchw")
    assert ImageInput.from_json(image.to_json()) == image
    with pytest.raises(InputError, match="makes no sense"):
        ImageInput.from_json({**image.to_json(), "std": [0]})
    with pytest.raises(InputError, match="makes no sense"):
        ImageInput.from_json({"height": 3})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": 2}, "1 or 3 channels"),
        ({"height": 0}, "height"),
        ({"fit": "squeeze"}, "unknown fit 'squeeze'; expected one of stretch, crop, pad"),
        ({"mean": (1, 2)}, "mean must be 1 finite number or 3"),
        ({"std": 0.0}, "not 0"),
        ({"resize": 256}, "expected fit='crop'"),
        ({"fit": "crop", "resize": 20}, "at least 28"),
        ({"layout": "nhw"}, "grey"),
        ({"color": "bgr", "channels": 1}, "3 channels"),
    ],
)
def test_fields_that_make_no_sense(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ImageInput(**{"height": 28, "width": 28, "channels": 3, **fields})


def test_what_stands_for_an_image_input() -> None:
    assert as_image_input("28x20x1") == as_image_input((28, 20, 1)) == ImageInput(height=28, width=20, channels=1)
    for wrong in ("28x28", "big", 28, (28, 28)):
        with pytest.raises(InputError, match="28x28x1"):
            as_image_input(wrong)


def test_options_of_the_command_line(tmp_path) -> None:
    image = image_from("224x224x3", "1/255", "0.485,0.456,0.406", "0.2", fit="crop", resize=None)
    assert image is not None
    assert (image.scale, image.mean, image.std, image.fit) == (1 / 255, (0.485, 0.456, 0.406), (0.2,), "crop")
    assert image_from(None, None, None, None, fit=None) is None
    assert image_from(None, "1/255", None, None, fit="crop", color=None) == {"scale": 1 / 255, "fit": "crop"}
    with pytest.raises(InputError, match=r"numbers such as 0\.5 or 1/255"):
        image_from("28x28x1", "1/0", None, None)
    (tmp_path / "names.txt").write_text("\ufeffcat\nsea lion, grey\n\n", encoding="utf-8")
    assert labels_from(str(tmp_path / "names.txt")) == ["cat", "sea lion, grey"]
    assert labels_from("a, b,c") == ["a", "b", "c"]
    for wrong in ("cats", "a,,b"):
        with pytest.raises(InputError, match="label"):
            labels_from(wrong)
