from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError
from onnxferry.runtime.images import batches
from onnxferry.runtime.tasks.classifier import Classifier, Prediction
from onnxferry.runtime.tasks.loading import load, load_as
from onnxferry.runtime.tasks.model import Model

Make = Callable[..., Path]


def grey(value: int, shape: tuple[int, ...] = (4, 5)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def test_the_contract_decides_the_class(recogniser: Path, doubler: Path) -> None:
    with load(recogniser) as model:
        assert type(model) is Classifier
        assert model.labels == ("black", "dark", "light", "white")
        assert model.contract is not None
        assert repr(model) == "Classifier('brightness', device='cpu', 4 classes)"
    with load(str(doubler)) as foreign:
        assert type(foreign) is Model
        assert foreign.contract is None
        assert foreign.labels == ()
        np.testing.assert_array_equal(foreign.run({"x": np.ones((2, 3), np.float32)})["y"], np.full((2, 3), 2))


def test_arguments_reach_the_engine(recogniser: Path) -> None:
    with load(recogniser, device="cpu", threads=3) as model:
        assert (model.engine.device, model.engine.threads) == ("cpu", 3)
    with load(recogniser, providers=["cpu"]) as model:
        assert model.engine.providers == ("CPUExecutionProvider",)
    with pytest.raises(InputError, match="device"):
        load(recogniser, device="gpu")
    with pytest.raises((DeviceError, InputError)):
        load(recogniser, providers=["no-such"])


def test_a_closed_model_says_so(recogniser: Path) -> None:
    model = load(recogniser)
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.run({"image": np.zeros((1, 2, 2, 1), np.uint8)})


def test_one_prediction_for_each_form_of_one_image(recogniser: Path, tmp_path: Path) -> None:
    image = grey(30)
    Image.fromarray(image).save(tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    model = load_as(Classifier, recogniser)
    forms = [image, image[..., None], np.stack([image] * 3, axis=2), image[None, ..., None], [image]]
    forms += [tmp_path / "p.png", str(tmp_path / "p.png"), content, Image.open(io.BytesIO(content))]
    for form in forms:
        (prediction,) = model.predict(form)
        assert prediction.label == "black"
        assert prediction.index == 0
        assert prediction.probability == pytest.approx(float(prediction.probabilities[0]))
        assert prediction.probabilities.dtype == np.float32
        assert prediction.probabilities.shape == (4,)
    assert model.predict([]) == []


def test_a_prediction_is_small_to_look_at_and_cannot_be_changed(recogniser: Path) -> None:
    (prediction,) = load_as(Classifier, recogniser).predict(grey(250))
    assert repr(prediction) == f"Prediction(label='white', probability={prediction.probability:.4f})"
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.label = "black"  # type: ignore[misc]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_results_come_in_input_order_whatever_the_sizes(recogniser: Path, batch_size: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, 50).tolist()
    images = [grey(v, (int(rng.integers(1, 4)), int(rng.integers(1, 4)))) for v in values]
    predictions = load_as(Classifier, recogniser).predict(images, batch_size=batch_size)
    assert [p.index for p in predictions] == [min(v * 4 // 255, 3) for v in values]


def test_images_of_one_size_run_together(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_as(Classifier, recogniser)
    shapes = []
    run = model.engine.run
    monkeypatch.setattr(model.engine, "run", lambda feeds, outputs: shapes.append(feeds["image"].shape) or run(feeds, outputs))
    model.predict([grey(1, (2, 2)), grey(1, (3, 3))] * 5, batch_size=4)
    assert sorted(shapes) == [(1, 2, 2, 1), (1, 3, 3, 1), (4, 2, 2, 1), (4, 3, 3, 1)]


def test_large_images_do_not_pile_up(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_HELD_BYTES", 100)
    model = load_as(Classifier, recogniser)
    held: list[int] = []
    run = model.engine.run
    monkeypatch.setattr(model.engine, "run", lambda feeds, outputs: held.append(feeds["image"].nbytes) or run(feeds, outputs))
    predictions = model.predict([grey(v, (6, 6 + v % 3)) for v in range(0, 256, 5)])
    assert len(predictions) == 52
    assert max(held) <= 100 + 6 * 8


def test_predict_each_streams(recogniser: Path) -> None:
    model = load_as(Classifier, recogniser)
    given = 0

    def endless():
        nonlocal given
        while True:
            given += 1
            yield given, grey(0)[..., None]

    stream = model.predict_each(endless(), batch_size=4)
    assert [next(stream)[0] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert given == 8


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_brought_to_the_graphs(make_recogniser: Make, channels: int) -> None:
    model = load_as(Classifier, make_recogniser(channels=channels))
    assert model.channels == channels
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[..., 1] = 255  # green: 150 as luma, 85 as the mean of three channels
    (prediction,) = model.predict(colour)
    assert prediction.label == ("light" if channels == 1 else "dark")
    assert model.predict(grey(200))[0].label == "white"


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "4"])
def test_batch_size_is_checked(recogniser: Path, batch_size: object) -> None:
    with pytest.raises(InputError, match="batch_size must be a whole number >= 1"):
        load_as(Classifier, recogniser).predict(grey(1), batch_size=batch_size)  # type: ignore[arg-type]


def test_what_is_no_recogniser_is_told_apart(doubler: Path, make_recogniser: Make, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"doubler.onnx is not a recogniser, it carries no onnxferry contract; .*onnxferry inspect"):
        load_as(Classifier, doubler)
    other = make_recogniser(Contract("decoder", "other", labels=("a", "b")))
    with pytest.raises(ArtifactError, match="is not a recogniser, its contract says decoder"):
        load_as(Classifier, other)


def test_a_contract_that_the_graph_does_not_keep(make_model: Callable[..., Path], make_recogniser: Make) -> None:
    contract = metadata_from_contract(Contract("recogniser", "liar", labels=("a", "b")))
    value = helper.make_tensor_value_info
    image = value("image", TensorProto.UINT8, ["n", "h", "w", 1])

    flat = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", TensorProto.UINT8, ["n"])], [value("y", TensorProto.UINT8, ["n"])]
    )
    with pytest.raises(ArtifactError, match=r"has the one input image.*it has x uint8 \('n',\)"):
        load(make_model(flat, contract))

    silent = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["same"])], "g", [image], [value("same", TensorProto.UINT8, ["n", "h", "w", 1])]
    )
    with pytest.raises(ArtifactError, match="an output probabilities, float32"):
        load(make_model(silent, contract))

    with pytest.raises(ArtifactError, match="labels, one a class"):
        load(make_recogniser(Contract("recogniser", "bare", labels=()), classes=4))

    with pytest.raises(ArtifactError, match=r"probabilities \(1, 4\).*2 labels"):
        load_as(Classifier, make_recogniser(Contract("recogniser", "short", labels=("a", "b")), classes=4)).predict(grey(1))


def test_probabilities_that_are_not_numbers(make_recogniser: Make) -> None:
    with pytest.raises(ArtifactError, match="not finite"):
        load_as(Classifier, make_recogniser(sharpness=float("nan"))).predict(grey(1))


def test_prediction_is_a_plain_value() -> None:
    prediction = Prediction("a", 0, 0.5, np.array([0.5, 0.5], np.float32))
    assert not hasattr(prediction, "__dict__")


def test_the_likeliest_classes_best_first_and_the_predicted_one_before_its_equals() -> None:
    prediction = Prediction("c", 2, 0.375, np.array([0.125, 0.375, 0.375, 0.125], np.float32), ("a", "b", "c", "d"))
    assert prediction.top(3) == [("c", 0.375), ("b", 0.375), ("a", 0.125)]
    assert [ranked.label for ranked in prediction.top(99)] == ["c", "b", "a", "d"]
    with pytest.raises(InputError, match="k must be a whole number >= 1, got 0"):
        prediction.top(0)
    assert prediction.to_dict() == {"label": "c", "index": 2, "probability": 0.375}
    assert json.loads(json.dumps(prediction.to_dict(top=2))) == {
        "label": "c",
        "index": 2,
        "probability": 0.375,
        "top": [{"label": "c", "index": 2, "probability": 0.375}, {"label": "b", "index": 1, "probability": 0.375}],
    }
    assert Prediction("x", 1, 0.75, np.array([0.25, 0.75], np.float32)).top(2) == [("x", 0.75), ("0", 0.25)]


def test_predict_takes_grey_arrays_folders_and_generators(recogniser: Path, tmp_path: Path) -> None:
    values = np.array([10, 90, 150, 250, 20], np.uint8)
    labels = ["black", "dark", "light", "white", "black"]
    many = np.repeat(values, 30).reshape(5, 6, 5)  # (n, height, width)
    for i, value in enumerate(values):
        Image.fromarray(grey(int(value))).save(tmp_path / f"{i}.png")
    (tmp_path / "readme.txt").write_text("")
    with load_as(Classifier, recogniser) as model:
        for form in (many, many[..., None], tmp_path, str(tmp_path), (image for image in many), iter(many), sorted(tmp_path.glob("*.png"))):
            assert [prediction.label for prediction in model.predict(form)] == labels
        assert [prediction.label for prediction in model.predict(many[:3])] == labels[:3]
        assert len(model.predict(many[:, :, :3])) == 1  # (5, 6, 3) is one image in colour
        (best, *_) = model.predict(many)[1].top(2)
        assert best.label == "dark"


def test_predict_each_keeps_keys_and_goes_on_after_a_broken_image(recogniser: Path, tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.fromarray(grey(250)).save(good)
    broken.write_bytes(b"no image")
    with load_as(Classifier, recogniser) as model:
        assert [(key, prediction.label) for key, prediction in model.predict_each([("a", good), ("b", grey(0))])] == [
            ("a", "white"),
            ("b", "black"),
        ]
        assert [key for key, _ in model.predict_each([good, broken], on_error="skip")] == [good]
        errors: dict[Path, str] = {}
        stream = model.predict_each(tmp_path, on_error=lambda key, error: errors.update({key: str(error)}))
        assert [key for key, _ in stream] == [good]
        assert list(errors) == [broken]
        with pytest.raises(InputError, match=r"broken.png: not an image"):
            list(model.predict_each([good, broken]))
        with pytest.raises(InputError, match="on_error must be"):
            model.predict_each([good], on_error="log")  # type: ignore[call-overload]
        with pytest.raises(InputError, match="batch_size must be"):
            model.predict_each([good], 0)


def test_options_of_load_are_keywords(recogniser: Path) -> None:
    with pytest.raises(TypeError, match="positional"):
        load(recogniser, "cpu")  # type: ignore[misc]


@pytest.mark.parametrize("sizes", [1, 200])
def test_a_stream_of_thousands_of_images_takes_no_more_memory_than_its_batches(recogniser: Path, sizes: int) -> None:
    """40 MB of images pass through, of one size or of so many that no batch ever fills up."""
    # A process of its own: in this one, threads that other tests left behind count too.
    program = f"""
import sys, tracemalloc
import numpy as np
import onnxferry

def images():
    for i in range(4000):
        yield i, np.full((100 + i % {sizes}, 100, 1), i % 256, np.uint8)

with onnxferry.load(sys.argv[1]) as model:
    model.predict(np.zeros((4, 4, 1), np.uint8))
    tracemalloc.start()
    count = right = 0
    for i, prediction in model.predict_each(images()):
        count += 1
        right += prediction.index == i % 256 // 64
    print(count, right, tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", program, str(recogniser)], capture_output=True, text=True, timeout=120, check=True)
    count, right, peak = map(int, done.stdout.split())
    assert (count, right) == (4000, 4000)
    assert peak < (4 if sizes == 1 else 48) * 2**20  # what waits, its batches and their float32 copies


def test_a_file_that_is_not_what_it_says_leaves_no_session_open(
    make_recogniser: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Path | None] = []
    close = Engine.close

    def noted(self: Engine) -> None:
        closed.append(self.path)
        close(self)

    monkeypatch.setattr(Engine, "close", noted)
    path = make_recogniser(Contract("image-generator", "none", labels=("a", "b")))
    with pytest.raises(ArtifactError, match="says that it is an image generator"):
        load(path)
    assert closed == [path]


def test_one_image_gives_one_prediction(recogniser: Path) -> None:
    image = np.full((4, 5), 250, np.uint8)
    with load(recogniser, device="cpu") as model:
        assert isinstance(model, Classifier)
        assert model.predict_one(image).label == model.predict(image)[0].label == "white"
        with pytest.raises(InputError, match="got list"):
            model.predict_one([image])


def test_a_list_of_predictions_says_how_to_get_one_and_is_a_table_in_a_notebook(recogniser: Path) -> None:
    with load(recogniser, device="cpu") as model:
        assert isinstance(model, Classifier)
        found = model.predict(grey(200))
        for name in ("label", "probability", "top", "to_dict"):
            with pytest.raises(AttributeError, match=rf"predict returns a list, .* use predict_one\(…\)\.{name} for one"):
                getattr(found, name)
        assert not hasattr(found, "nonsense")
        assert isinstance(copy.deepcopy(found), list)
        assert [each.label for each in pickle.loads(pickle.dumps(found))] == [found[0].label]  # noqa: S301 (ours)
        many = model.predict([grey(value) for value in range(0, 250, 10)])
    html = many._repr_html_()
    assert html.count("<tr>") == 1 + 20
    assert f"<td>{many[0].label}</td>" in html
    assert html.endswith("<p>5 more</p>")
    bold = Prediction("<b>&", 0, 0.5, np.float32([0.5, 0.5]), ("<b>&", "x"))
    assert "<td>&lt;b&gt;&amp;</td><td>50.00%</td>" in type(many)([bold])._repr_html_()
