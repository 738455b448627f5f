"""What is shipped holds what its card and the project promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime import Autoencoder, Classifier, Detector, ImageGenerator, TextGenerator, load
from onnxferry.runtime.artifact.zoo import zoo_model, zoo_names
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.tasks.text_classifier import ByteTextClassifier

ZOO = Path(__file__).parents[1] / "runtime" / "zoo"


@pytest.mark.parametrize("name", zoo_names())
def test_a_shipped_model_passes_its_own_check_and_has_a_whole_card(name: str) -> None:
    card = zoo_model(name).card
    for key in ("description", "data", "data_sha256", "command", "figures", "figures_command", "license"):
        assert card[key], f"the card lacks {key}"
    with load(name, device="cpu") as model:
        assert model.contract is not None
        assert model.contract.name == name
        assert model.contract.provenance["data"]["sha256"] == card["data_sha256"]
        assert replay_goldens(model.run, model.contract).passed


def test_all_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) <= 30_000_000


def test_digits_reads_its_examples_as_its_card_says() -> None:
    shipped = zoo_model("digits")
    assert shipped.path.stat().st_size <= 1_500_000
    figures = json.loads((shipped.path.with_name("card.json")).read_text())["figures"]
    assert figures["accuracy"] >= 0.9965
    assert figures["200 pixels wide, in colour"] >= 0.987
    assert figures["inverted"] >= 0.98
    assert figures["decisions that differ from PyTorch"] == 0
    with np.load(shipped.path.with_name("examples.npz"), allow_pickle=False) as examples:
        images, labels, predicted = examples["images"], examples["labels"], examples["predicted"]
    mistakes = round((1 - figures["accuracy"]) * figures["test_images"])
    assert int((predicted != labels).sum()) == mistakes, "the examples hold all the mistakes that the card counts"
    with load("digits", device="cpu") as model:
        assert isinstance(model, Classifier)
        assert [p.index for p in model.predict(list(images))] == predicted.tolist()
        right = images[predicted == labels]
        inverted = [p.index for p in model.predict(list(255 - right))]
    assert inverted == labels[predicted == labels].tolist()


def test_digit_scenes_finds_what_its_card_says() -> None:
    shipped = zoo_model("digit-scenes")
    assert shipped.path.stat().st_size <= 3_000_000
    figures = shipped.card["figures"]
    assert figures["mAP 50-95"] >= 0.85
    assert figures["read whole"] >= 0.93
    assert figures["scenes whose objects differ from PyTorch"] == 0
    with np.load(shipped.path.with_name("examples.npz"), allow_pickle=False) as examples:
        images = examples["images"]
    with load("digit-scenes", device="cpu") as model:
        assert isinstance(model, Detector)
        light, dark = [dict(model.detect_each(enumerate(given))) for given in (images, 255 - images)]
        assert model.detect(np.full((60, 90), 255, np.uint8)) == []
    assert sum(map(len, light.values())) >= 3 * len(images)
    assert {number: found.text for number, found in light.items()} == {number: found.text for number, found in dark.items()}


def test_fashion_reads_its_examples_as_its_card_says() -> None:
    shipped = zoo_model("fashion")
    assert shipped.path.stat().st_size <= 2_000_000
    figures = shipped.card["figures"]
    assert figures["accuracy"] >= 0.94
    assert figures["decisions that differ from PyTorch"] == 0
    with np.load(shipped.path.with_name("examples.npz"), allow_pickle=False) as examples:
        images, labels, predicted = examples["images"], examples["labels"], examples["predicted"]
    assert set(labels) == set(range(10))
    with load("fashion", device="cpu") as model:
        assert isinstance(model, Classifier)
        assert [p.index for p in model.predict(list(images))] == predicted.tolist()
        assert model.labels[int(labels[0])] == "T-shirt/top"


def test_digits_ae_gives_back_digits_and_finds_what_is_none() -> None:
    shipped = zoo_model("digits-ae")
    assert shipped.path.stat().st_size <= 2_000_000
    figures = shipped.card["figures"]
    assert figures["share of PCA's"] <= 0.3
    assert figures["AUROC, digits against fashion"] >= 0.999
    assert figures["levels a pixel differs from PyTorch's, at most"] <= 1
    assert figures["share of pixels that differ"] <= 1e-4
    with np.load(shipped.path.with_name("examples.npz"), allow_pickle=False) as examples:
        images, strange = examples["images"], examples["strange"]
    with load("digits-ae", device="cpu") as model:
        assert isinstance(model, Autoencoder)
        made = model.reconstruct(images)
        assert model.encode(images).shape == (len(images), 32)
        # The card's mean over 10,000 is 0.0023; twenty of them differ from it by less than half.
        assert float(((made / 255.0 - images[..., 0] / 255.0) ** 2).mean()) < 0.0035
        assert np.abs(model.decode(model.encode(images)).astype(int) - made).max() <= 1
        assert (model.anomaly_score(images) > model.threshold).sum() <= 1
        # 99.7 % of all 10,000 do, as the card says; of these ten, a thin sandal does not.
        assert (model.anomaly_score(strange) > model.threshold).sum() >= len(strange) - 1


@pytest.mark.parametrize(("name", "agreement"), [("digits-gan", 0.97), ("fashion-gan", 0.85)])
def test_image_generators_make_what_is_asked_for(name: str, agreement: float) -> None:
    shipped = zoo_model(name)
    assert shipped.path.stat().st_size <= 2_000_000
    figures = shipped.card["figures"]
    assert figures["class agreement"] >= agreement
    assert figures["levels a pixel differs from PyTorch's, at most"] <= 1
    assert figures["share of pixels that differ"] <= 1e-4
    if name == "digits-gan":
        assert figures["coverage"] >= 0.85
        assert figures["frechet against the floor"] <= 10
    with load(name, device="cpu") as model, load(name.removesuffix("-gan"), device="cpu") as judge:
        assert isinstance(model, ImageGenerator)
        assert isinstance(judge, Classifier)
        asked = np.arange(300) % 10
        read = [p.index for p in judge.predict(list(model.sample(300, asked, seed=11)))]
    # Three standard deviations of 300 draws below what is promised.
    assert (read == asked).mean() >= agreement - 3 * (agreement * (1 - agreement) / 300) ** 0.5


def test_shakespeare_writes_as_its_card_says() -> None:
    shipped = zoo_model("shakespeare")
    assert shipped.size <= 11_000_000  # the file, and two variants of its size: for one row, and for many
    card = json.loads((shipped.path.with_name("card.json")).read_text())
    assert card["figures"]["known words, the mean of these"] >= 0.88
    assert card["figures"]["bytes of the file"] == shipped.path.stat().st_size
    with load("shakespeare", device="cpu") as model:
        assert isinstance(model, TextGenerator)
        # Uniform guessing costs 5.5 nats a byte, letter frequencies 3.3: a model that knows the plays is far below both on one's lines.
        assert model.score(b"First Citizen:\nBefore we proceed any further, hear me speak.\n") < 2.0
        for sample in card["samples"]:
            assert model.score(sample["text"].encode()) < 2.5
        written = model.generate("ROMEO:\n", 400, temperature=0.8, seed=1)
    assert "".join(load("shakespeare", device="cpu").stream("ROMEO:\n", max_bytes=400, temperature=0.8, seed=1)) == written


@pytest.mark.parametrize(("name", "better_by"), [("sentiment-zh", 0.01), ("sentiment-en", 0.0)])
def test_sentiment_judges_its_samples_as_its_card_says(name: str, better_by: float) -> None:
    shipped = zoo_model(name)
    assert shipped.path.stat().st_size <= 1_500_000
    figures = shipped.card["figures"]
    assert figures["accuracy"] >= figures["bag of words, logistic regression"] + better_by
    assert figures["decisions that differ from PyTorch's"] == 0
    samples = json.loads(shipped.path.with_name("card.json").read_text())["samples"]
    with load(name, device="cpu") as model:
        assert isinstance(model, ByteTextClassifier)
        for sample, found in zip(samples, model.classify([each["text"] for each in samples]), strict=True):
            assert (found.label, round(found.probability, 2)) == (sample["predicted"], round(sample["probability"], 2))
            words = [word.text for word in model.explain(sample["text"]).deciding(3)]
            assert words == sample["words that decided"]
