"""Puts a trained run into the zoo: its artifact, its card with measured figures, and held-out examples beside it.

    python tests/bench/ship.py digits runs/digits [--data DIR]
    python tests/bench/ship.py shakespeare runs/shakespeare --bits 8
    python tests/bench/ship.py dates runs/dates
    python tests/bench/ship.py sentiment-zh runs/sentiment-zh
    python tests/bench/ship.py digits-ae runs/digits-ae [--data DIR] [--fashion DIR]

``--data``: where the set's files are (IDX files, or the text); without it they are looked up or fetched.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export import export_checkpoint
from onnxferry.export.pipeline.provenance import shortened
from onnxferry.runtime import Classifier, TextGenerator, Translator, load
from onnxferry.runtime.tasks.text_classifier import ByteTextClassifier
from onnxferry.train.data.images import ImageSet, load_images
from onnxferry.train.data.scenes import compose_scene
from onnxferry.train.data.text_sets import load_text_set
from onnxferry.train.loop.checkpoint import load_checkpoint

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"
DATES = ("le 3 mars 2019", "Mar 3, '19", "2019年3月3日", "令和元年5月1日", "٣ مارس ٢٠١٩", "3 มีนาคม 2562", "3. III. 2019", "1ST OF MAY 1999")
PROMPTS = ("", "To be", "ROMEO:\nBut soft!")
LONGEST = 200  # bytes of a text in a card
Places = argparse.Namespace


@dataclass(frozen=True)
class Shipped:
    """What stands in a card by hand."""

    description: str
    family: str
    data: str  # how the set was cut, after its name; {trained} and {held_out} are numbers of images
    figures: str  # the script that measures
    extras: Callable[[Path, Places], dict[str, Any]]  # writes examples; what else stands in the card
    license: str = "Apache-2.0; the data set's licence stands in NOTICE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--start", type=Path, help="the run that this one was started from, by --init")
    parser.add_argument("--bits", type=int, choices=(8, 16, 32), help="of a text generator's or translator's weights")
    places = parser.parse_args()
    shipped = MODELS[places.name]
    model = ZOO / places.name / f"{places.name}.onnx"
    model.parent.mkdir(exist_ok=True)
    checkpoint = load_checkpoint(places.run, shipped.family)
    words = [] if places.bits is None else ["--bits", str(places.bits)]
    report = export_checkpoint(
        places.run,
        model,
        name=places.name,
        description=shipped.description,
        license="Apache-2.0",
        command=["onnxferry", "export", str(places.run), "-o", model.name, "--name", places.name, *words],
        bits=places.bits,
    )
    extras = shipped.extras(model, places)
    commands = [
        *([load_checkpoint(places.start).provenance["command"]] if places.start else []),
        checkpoint.provenance["command"],
        *([checkpoint.provenance["unknown"]["command"]] if "unknown" in checkpoint.provenance else []),
    ]
    held_out = int(checkpoint.metrics["validation"].get("n", 0))
    card = {
        "name": places.name,
        "description": shipped.description,
        "family": shipped.family,
        "data": f"{checkpoint.data['source']}: {shipped.data.format(trained=f'{60_000 - held_out:,}', held_out=f'{held_out:,}')}",
        "data_sha256": checkpoint.data["sha256"],
        "command": " && ".join(shlex.join(shortened(shlex.split(command))) for command in commands),
        "epoch": checkpoint.metrics["epoch"],
        "validation": checkpoint.metrics["validation"],
        "figures": measure(shipped, model, places),
        "bytes": {path.name: path.stat().st_size for path in sorted(model.parent.glob("*.onnx"))},
        "figures_command": f"python tests/bench/{shipped.figures} --model {places.name} --checkpoint runs/{places.name}",
        "parity": report.summary(),
        **extras,
        "license": shipped.license,
    }
    (model.parent / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    subprocess.run([sys.executable, str(Path(__file__).with_name("release.py")), "--sums"], check=True)
    print(json.dumps(card, indent=2))


def measure(shipped: Shipped, model: Path, places: Places) -> dict[str, Any]:
    """Runs the script of figures on the file just written, in a process of its own."""
    words = [word for name in ("data", "fashion") if (value := getattr(places, name)) for word in (f"--{name}", str(value))]
    script = str(Path(__file__).parent / shipped.figures)
    command = [sys.executable, script, "--model", str(model), "--checkpoint", str(places.run), *words]
    figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {name: value for name, value in figures.items() if name != "model"}


def recogniser_examples(name: str, right: int, wrong: int) -> Callable[[Path, Places], dict[str, Any]]:
    """The first ``right`` test images of each class that are read rightly, and at most ``wrong`` that are not."""

    def write(model: Path, places: Places) -> dict[str, Any]:
        test = load_images(name, places.data).test
        with load(model, device="cpu") as classifier:
            if not isinstance(classifier, Classifier):
                raise SystemExit("the run is not a recogniser's")
            indices = np.array([p.index for p in classifier.predict(list(test.images))])
        mistakes = np.flatnonzero(indices != test.labels)
        kept = mistakes[:: max(1, len(mistakes) // wrong)][:wrong]
        good = [np.flatnonzero((test.labels == label) & (indices == label))[:right] for label in range(len(classifier.labels))]
        chosen = np.concatenate([*good, kept])
        np.savez_compressed(
            model.with_name("examples.npz"), images=test.images[chosen], labels=test.labels[chosen], predicted=indices[chosen]
        )
        some = "all" if len(kept) == len(mistakes) else f"{len(kept)} of"
        words = f"examples.npz: held-out test images, {len(chosen) - len(kept)} read rightly and {some} {len(mistakes)} mistakes"
        return {"examples": words}

    return write


def first_of_each(test: ImageSet, count: int) -> np.ndarray:
    return np.concatenate([np.flatnonzero(test.labels == label)[:count] for label in np.unique(test.labels)])


def generator_examples(name: str) -> Callable[[Path, Places], dict[str, Any]]:
    def write(model: Path, places: Places) -> dict[str, Any]:
        test = load_images(name, places.data).test
        chosen = first_of_each(test, 8)
        np.savez_compressed(model.with_name("examples.npz"), images=test.images[chosen], labels=test.labels[chosen])
        return {"examples": f"examples.npz: {len(chosen)} real held-out images, to put beside those made"}

    return write


def autoencoder_examples(model: Path, places: Places) -> dict[str, Any]:
    test = load_images("mnist", places.data).test
    chosen = first_of_each(test, 2)
    clothes = load_images("fashion-mnist", places.fashion).test.images[:10]
    np.savez_compressed(model.with_name("examples.npz"), images=test.images[chosen], labels=test.labels[chosen], strange=clothes)
    return {"examples": "examples.npz: 20 held-out test images, and 10 of Fashion-MNIST, which are strange"}


def scene_examples(model: Path, places: Places) -> dict[str, Any]:
    """Scenes of one size, which the demo shows."""
    digits = load_images("mnist", places.data).test
    scenes = [compose_scene(np.random.default_rng((28, 4, number)), digits, 144, 208) for number in range(8)]
    np.savez_compressed(model.with_name("examples.npz"), images=np.stack([scene.image for scene in scenes]))
    return {"examples": "examples.npz: 8 scenes of held-out test digits"}


def text_samples(model: Path, places: Places) -> dict[str, Any]:
    with load(model, device="cpu") as generator:
        if not isinstance(generator, TextGenerator):
            raise SystemExit("the run is not a text generator's")
        texts = [{"prompt": prompt, "seed": 0, "text": generator.generate(prompt, 300, temperature=0.8)} for prompt in PROMPTS]
    return {"samples": texts}


def date_samples(model: Path, places: Places) -> dict[str, Any]:
    with load(model, device="cpu") as translator:
        if not isinstance(translator, Translator):
            raise SystemExit("the run is not a translator's")
        return {"samples": [{"text": text, "translation": translator.translate(text)} for text in DATES]}


def review_samples(name: str) -> Callable[[Path, Places], dict[str, Any]]:
    """Some answers on test texts, the first of each class that is right and the first that is wrong, with the words that decided."""

    def write(model: Path, places: Places) -> dict[str, Any]:
        test = load_text_set(name).test
        with load(model, device="cpu") as classifier:
            if not isinstance(classifier, ByteTextClassifier):
                raise SystemExit("the run is not a text classifier's")
            texts = [(text.decode(), label) for text, label in zip(test.texts, test.labels.tolist(), strict=True) if len(text) < LONGEST]
            found = classifier.classify([text for text, _ in texts])
            rows = []
            for label, right in ((0, True), (1, True), (0, False), (1, False)):
                place = next(i for i, (_, truth) in enumerate(texts) if truth == label and (found[i].index == truth) == right)
                explained = classifier.explain(texts[place][0])
                rows.append(
                    {
                        "text": texts[place][0],
                        "label": classifier.labels[label],
                        "predicted": found[place].label,
                        "probability": round(found[place].probability, 4),
                        "words that decided": [word.text for word in explained.deciding(3)],
                    }
                )
        return {"samples": rows}

    return write


IMAGES = "{trained} training images, {held_out} to choose the epoch by; tested on the 10,000 test images"

MODELS = {
    "digits": Shipped(
        "Reads a handwritten digit: any size, dark on light or light on dark, anywhere in the image",
        "cnn",
        IMAGES,
        "figures_digits.py",
        recogniser_examples("mnist", 6, 10_000),
    ),
    "digit-scenes": Shipped(
        "Finds handwritten digits, however many, and reads a telephone number written by hand",
        "detector",
        "scenes are composed of 55,000 training digits, those to choose the epoch by of 5,000 others; tested on 1,000 scenes and 1,000 "
        "numbers of the 10,000 test digits",
        "figures_scenes.py",
        scene_examples,
    ),
    "fashion": Shipped(
        "Recognises an article of clothing, light on a dark ground, ten kinds",
        "cnn",
        IMAGES,
        "figures_fashion.py",
        recogniser_examples("fashion-mnist", 4, 60),
    ),
    "shakespeare": Shipped(
        "Writes Shakespeare-like plays byte by byte, and scores texts; learnt from Tiny Shakespeare",
        "rnn",
        "learnt from the first nine tenths, tested on the last",
        "figures_text.py",
        text_samples,
        "Apache-2.0; the plays are in the public domain (NOTICE)",
    ),
    "dates": Shipped(
        "Reads a date as people write it in 27 languages, and writes it as ISO 8601 has it: 2019-03-03",
        "seq2seq",
        "250,000 to train on, 2,700 to choose the epoch by; tested on 10,800 of days, and half of them in formats, that no other part has",
        "figures_dates.py",
        date_samples,
        "Apache-2.0; the licence of the locale data stands in NOTICE",
    ),
    "sentiment-zh": Shipped(
        "Judges Chinese reviews, of books, hotels and computers: positive or negative, and which words decided",
        "text-classifier",
        "without copies, split by the texts: 8 tenths to learn from, 1 to choose the epoch by, 1 for the test",
        "figures_reviews.py",
        review_samples("reviews-zh"),
    ),
    "sentiment-en": Shipped(
        "Judges English sentences, of reviews, editorials and tweets: positive or negative, and which words decided",
        "text-classifier",
        "without those rated -0.5 to 0.5, and copies, split by the texts: 8 tenths to learn from, 1 to choose the epoch by, 1 for the test",
        "figures_reviews.py",
        review_samples("snippets-en"),
    ),
    "digits-gan": Shipped(
        "Makes handwritten digits out of noise, the ones you ask for", "gan", IMAGES, "figures_gan.py", generator_examples("mnist")
    ),
    "fashion-gan": Shipped(
        "Makes images of clothing out of noise, of the kinds you ask for",
        "gan",
        IMAGES,
        "figures_gan.py",
        generator_examples("fashion-mnist"),
    ),
    "digits-ae": Shipped(
        "Handwritten digits to 32 numbers and back, and how strange an image is among digits",
        "ae",
        IMAGES,
        "figures_latents.py",
        autoencoder_examples,
        "Apache-2.0; the data sets' licences stand in NOTICE",
    ),
}


if __name__ == "__main__":
    main()
