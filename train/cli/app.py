"""``onnxferry train``: one sub-command per family."""

from __future__ import annotations

from onnxferry.runtime.cli.console import App
from onnxferry.train.cli.ae import ae
from onnxferry.train.cli.cnn import cnn
from onnxferry.train.cli.detector import detector
from onnxferry.train.cli.gan import gan
from onnxferry.train.cli.rnn import rnn
from onnxferry.train.cli.seq2seq import seq2seq
from onnxferry.train.cli.text_classifier import text_classifier
from onnxferry.train.cli.unknown import unknown

app = App(no_args_is_help=True)


@app.callback()
def _train() -> None:
    """Train a model family. Afterwards: onnxferry export RUN -o model.onnx

    Examples:

      onnxferry train cnn --dataset mnist --out runs/digits

      onnxferry train rnn --preset quick --out runs/text

      onnxferry train ae --preset quick --out runs/latents

      onnxferry train gan --preset quick --out runs/images

      onnxferry train seq2seq --preset quick --out runs/dates

      onnxferry train text-classifier --out runs/reviews
    """


for family in (cnn, rnn, ae, gan, seq2seq, detector, text_classifier, unknown):
    app.command()(family)
