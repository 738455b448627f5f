"""Every kind of artifact and every family that is trained here, one row each.

This is the one place that says what a kind is called, which class runs it and which verb and demo page show it. Everything else
looks a row up. A new family takes a row of ``FAMILIES`` and, if what it does is new, one of ``KINDS``; then three modules, which
the rows name: the task class, the training module and the exporter.

A module is named by its dotted name and imported only when it is needed, because this table is below all of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

Value = Literal["image", "class", "boxes", "text", "translation", "noise", "latent", "arrays"]
"""What a kind takes or returns. ``text`` that is returned continues the one that was given. ``arrays`` is anything: a model about which
only its inputs and outputs are known."""


@dataclass(frozen=True)
class Kind:
    """What an artifact does, as the ``kind`` of its contract says."""

    name: str  # in the contract, and in its plain ``task`` key
    noun: str  # in sentences: "digits.onnx is not a recogniser"
    takes: Value
    returns: Value
    budget: str  # how much worse an optimized variant may be where nothing else is asked: see export/optimize/budget.py
    task: str = "onnxferry.runtime.tasks.model:Model"  # the class that ``load`` returns, module:class
    verb: str = ""  # the command that runs such a model; "" where there is none
    arguments: tuple[str, ...] = ()  # what follows the model in an example of that command

    @property
    def task_class(self) -> Any:
        """The class that ``load`` returns for this kind, imported now."""
        return imported(self.task)


# A budget of 35 dB is a mean difference of about 3 of 255 levels, which is not visible in an image of this size.
RECOGNISER = Kind(
    name="recogniser",
    noun="a recogniser",
    takes="image",
    returns="class",
    budget="top1 -0.1pt",
    task="onnxferry.runtime.tasks.classifier:Classifier",
    verb="predict",
    arguments=("IMAGE.png",),
)
DETECTOR = Kind(
    name="detector",
    noun="a detector",
    takes="image",
    returns="boxes",
    budget="map -0.5pt",
    task="onnxferry.runtime.tasks.detector:Detector",
    verb="detect",
    arguments=("IMAGE.png", "--picture", "boxes.png"),
)
TEXT_GENERATOR = Kind(
    name="text-generator",
    noun="a text generator",
    takes="text",
    returns="text",
    budget="nats +0.005",
    task="onnxferry.runtime.tasks.text_generator:TextGenerator",
    verb="generate",
    arguments=("--stream",),
)
IMAGE_GENERATOR = Kind(
    name="image-generator",
    noun="an image generator",
    takes="noise",
    returns="image",
    budget="psnr 35",
    task="onnxferry.runtime.tasks.image_generator:ImageGenerator",
    verb="sample",
    arguments=("--grid", "samples.png"),
)
ENCODER = Kind(
    name="encoder",
    noun="an autoencoder's encoder",
    takes="image",
    returns="latent",
    budget="psnr 35",
    task="onnxferry.runtime.tasks.autoencoder:Autoencoder",
    verb="reconstruct",
    arguments=("IMAGE.png",),
)
DECODER = Kind(name="decoder", noun="an autoencoder's decoder", takes="latent", returns="image", budget="psnr 35")
TRANSLATOR = Kind(
    name="translator",
    noun="a translator",
    takes="text",
    returns="translation",
    budget="top1 -0.1pt",
    task="onnxferry.runtime.tasks.translator:Translator",
    verb="translate",
    arguments=("TEXT",),
)
# Bytes of text, or text that a tokenizer beside the file cuts into tokens.
TEXT_CLASSIFIER = Kind(
    name="text-classifier",
    noun="a text classifier",
    takes="text",
    returns="class",
    budget="top1 -0.1pt",
    task="onnxferry.runtime.tasks.text_classifier:TextClassifier",
    verb="predict",
    arguments=("TEXT",),
)
# Models of text that was cut into tokens: the tokenizer lies beside the file.
TEXT_TAGGER = Kind(
    name="text-tagger", noun="a model", takes="text", returns="class", budget="rtol 1e-3",
    task="onnxferry.runtime.tasks.text_models:TextTagger",
)  # fmt: skip
TEXT_EMBEDDER = Kind(
    name="text-embedder", noun="a model", takes="text", returns="arrays", budget="rtol 1e-3",
    task="onnxferry.runtime.tasks.text_models:TextEmbedder",
)  # fmt: skip
TEXT_DECODER = Kind(
    name="text-decoder", noun="a model", takes="text", returns="arrays", budget="rtol 1e-3",
    task="onnxferry.runtime.tasks.text_models:TextDecoder",
)  # fmt: skip
MODEL = Kind(name="model", noun="a model", takes="arrays", returns="arrays", budget="rtol 1e-3")

KINDS = {
    kind.name: kind
    for kind in (
        RECOGNISER,
        DETECTOR,
        TEXT_GENERATOR,
        IMAGE_GENERATOR,
        ENCODER,
        DECODER,
        TRANSLATOR,
        TEXT_CLASSIFIER,
        TEXT_TAGGER,
        TEXT_EMBEDDER,
        TEXT_DECODER,
        MODEL,
    )
}
"""By name. ``model`` is any other graph, and what a file without a contract counts as."""


@dataclass(frozen=True)
class Family:
    """A network architecture that ``onnxferry train`` trains."""

    name: str  # in checkpoints and contracts, and after ``onnxferry train``
    kind: Kind  # of the artifact that it is exported to
    training: str  # the module whose ``model_from_config(config)`` rebuilds the network of a checkpoint
    exporter: str  # function(checkpoint, name, options) that says which files an export writes, module:function
    page: str  # the demo page that shows it: module in onnxferry.demo.pages, and path of the page


CNN = Family("cnn", RECOGNISER, "onnxferry.train.families.cnn", "onnxferry.export.families.cnn:classifier_plans", "recognise")
RNN = Family("rnn", TEXT_GENERATOR, "onnxferry.train.families.rnn", "onnxferry.export.families.rnn.export:text_plans", "write")
AUTOENCODER = Family(
    "ae", ENCODER, "onnxferry.train.families.autoencoder", "onnxferry.export.families.autoencoder:autoencoder_plans", "compress"
)
GAN = Family("gan", IMAGE_GENERATOR, "onnxferry.train.families.gan", "onnxferry.export.families.gan:generator_plans", "imagine")
SEQ2SEQ = Family(
    "seq2seq", TRANSLATOR, "onnxferry.train.families.seq2seq", "onnxferry.export.families.seq2seq.export:translator_plans", "translate"
)
DETECTOR_FAMILY = Family(
    "detector", DETECTOR, "onnxferry.train.families.detector", "onnxferry.export.families.detector:detector_plans", "find"
)

TEXT_FAMILY = Family(
    "text-classifier",
    TEXT_CLASSIFIER,
    "onnxferry.train.families.text_classifier",
    "onnxferry.export.families.text_classifier.export:text_classifier_plans",
    "review",
)

FAMILIES = {family.name: family for family in (CNN, RNN, AUTOENCODER, GAN, SEQ2SEQ, DETECTOR_FAMILY, TEXT_FAMILY)}
"""By name."""


def imported(place: str) -> Any:
    """What ``module:name`` names. Raises what importing the module raises."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
