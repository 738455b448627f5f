"""The shipped translator's figures, through the runtime.

    python tests/bench/figures_dates.py                          # the model of the zoo
    python tests/bench/figures_dates.py --model model.onnx
    python tests/bench/figures_dates.py --checkpoint RUN         # and how often PyTorch's own network gives something else

Exact translations of dates that training and the choice of the epoch have never seen, in formats that they have seen and in formats that
they have not, 200 of each in every language (see onnxferry.train.data.pairs.dates); with greedy search, and with four beams; and the size
of the file. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from onnxferry.runtime import Translator, load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.train.data.pairs.dates import load_dates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dates")
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    splits = load_dates(1)  # the test does not depend on how many are trained on
    sources, targets = zip(*splits.test, strict=True)
    with load(arguments.model, device="cpu") as model:
        if not isinstance(model, Translator):
            raise SystemExit(f"{arguments.model} is not a translator")
        bits = None if model.contract is None else model.contract.provenance.get("weight_bits")
        made = model.translate(sources)
        beams = model.translate(sources, beam=4)
    right = np.array([text.encode() == target for text, target in zip(made, targets, strict=True)])
    by_beam = np.array([text.encode() == target for text, target in zip(beams, targets, strict=True)])
    shares = {name: float(right[list(rows)].mean()) for name, rows in splits.groups.items()}
    figures: dict[str, object] = {
        "model": arguments.model,
        "test_pairs": len(targets),
        "exact": float(right.mean()),
        "exact, new dates in known formats": shares.pop("dates"),
        "exact, new dates in new formats": shares.pop("formats"),
        "exact, four beams": float(by_beam.mean()),
        "exact, each language": shares,
        "bytes of the file": find_model(arguments.model).stat().st_size,
    }
    if arguments.checkpoint:
        from onnxferry.export.families.rnn.bits import rounded
        from onnxferry.train.families.seq2seq import Seq2Seq, translate
        from onnxferry.train.loop.checkpoint import load_checkpoint

        network = load_checkpoint(arguments.checkpoint).model()
        assert isinstance(network, Seq2Seq)
        theirs = translate(rounded(network, None if bits == 16 else bits), sources)
        figures["other translations than PyTorch's"] = sum(a.encode() != b for a, b in zip(made, theirs, strict=True))
    print(json.dumps(figures, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
