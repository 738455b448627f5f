"""The shipped text generator's figures, through the runtime.

    python tests/bench/figures_text.py                          # the model of the zoo
    python tests/bench/figures_text.py --model model.onnx --data FILE
    python tests/bench/figures_text.py --checkpoint RUN         # and what PyTorch's own network gives, rounded as the file is

The mean nats a byte of the last tenth of Tiny Shakespeare, read once from its start; the share of words that occur in the
corpus among 10 kB generated at temperature 0.8 (a word: what stands between white space, in lower case, without the
punctuation around it), for five seeds; the size of the file. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

from onnxferry.runtime import TextGenerator, load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.train.data.text import SHAKESPEARE, load_text

SEEDS = range(5)
GENERATED = 10_000
TEMPERATURE = 0.8


def words(text: str) -> list[str]:
    """Lower-cased words without the punctuation around them; what is punctuation alone is no word."""
    return [word for part in text.lower().split() if (word := part.strip(string.punctuation))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shakespeare")
    parser.add_argument("--data", type=Path, help="the text's file, or the folder that it is in; otherwise looked up or fetched")
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    splits = load_text(SHAKESPEARE, arguments.data, validation=0.0)
    whole = splits.train.tobytes() + splits.test.tobytes()
    known = set(words(whole.decode()))
    with load(arguments.model, device="cpu") as model:
        if not isinstance(model, TextGenerator):
            raise SystemExit(f"{arguments.model} is not a text generator")
        bits = None if model.contract is None else model.contract.provenance.get("weight_bits")
        nats = model.score(splits.test.tobytes())
        shares = []
        for seed in SEEDS:
            written = words(model.generate("", GENERATED, temperature=TEMPERATURE, seed=seed))
            shares.append(sum(word in known for word in written) / len(written))
    figures: dict[str, object] = {
        "model": arguments.model,
        "test_bytes": len(splits.test),
        "nats a byte": nats,
        "known words of 10 kB at temperature 0.8, seeds 0 to 4": [round(share, 4) for share in shares],
        "known words, the mean of these": round(sum(shares) / len(shares), 4),
        "bytes of the file": find_model(arguments.model).stat().st_size,
    }
    if arguments.checkpoint:
        from onnxferry.export.families.rnn.bits import rounded
        from onnxferry.train.families.rnn import Rnn, nats_per_byte
        from onnxferry.train.loop.checkpoint import load_checkpoint

        trained = load_checkpoint(arguments.checkpoint, "rnn").model()
        assert isinstance(trained, Rnn)
        network = rounded(trained, bits).eval()
        figures["bits of a weight"] = bits
        figures["nats a byte, difference from PyTorch"] = nats - nats_per_byte(network, splits.test)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
