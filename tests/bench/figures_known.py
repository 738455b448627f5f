"""How many digits, and how many other things, ``digits`` refuses as of no class: by its own score, and with the demo's rules before it.

python tests/bench/figures_known.py --data MNIST_FOLDER [--fonts FOLDER]

JSON. Letters and signs come from fonts and characters that were not trained on (train/data/others.py holds them out), and with ``--fonts``
from every .ttf and .otf in a folder of handwritten fonts, as Debian's fonts-breip, fonts-bwht, fonts-dkg-handwriting, fonts-femkeklaver,
fonts-humor-sans, fonts-kristi, fonts-rufscript, fonts-seto, fonts-sjfonts and fonts-tomsontalks install them under /usr/share/fonts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxferry.demo.images.content import figures
from onnxferry.runtime import Classifier
from onnxferry.runtime.tasks.loading import load_as
from onnxferry.train.data.images import load_images

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
HELD_OUT = [FONTS / name for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf")]
LETTERS = "ABCDEFGHJKLMNPQRTUVWXYabdefghkmnpqrtwxy"
SIGNS = "♥☺★#@&%?+=∞△□→"
HANDWRITTEN = ("breip", "bwht", "because", "dkg", "femke", "humor", "kristi", "rufscript", "seto", "sjfonts", "tomsontalks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fonts", type=Path)
    arguments = parser.parse_args()
    splits = load_images("mnist", arguments.data)
    model = load_as(Classifier, "digits")
    pairs = np.stack([np.concatenate([a, b], axis=1) for a, b in zip(splits.test.images[:500], splits.test.images[500:1000], strict=True)])
    shown = {
        "MNIST test digits": splits.test.images,
        "the same, inverted": 255 - splits.test.images,
        "letters": written(LETTERS, HELD_OUT),
        "signs and shapes": written(SIGNS, HELD_OUT),
        "noise": np.random.default_rng(0).integers(0, 256, (50, 112, 112, 1), np.uint8),
        "two digits": pairs,
        "blank": np.stack([np.full((64, 64, 1), level, np.uint8) for level in (0, 60, 128, 200, 255)]),
    }
    if arguments.fonts:
        found = sorted(path for path in arguments.fonts.rglob("*.[ot]tf") if any(name in str(path).lower() for name in HANDWRITTEN))
        shown |= {"handwritten letters": written(LETTERS, found), "handwritten digits": written("0123456789", found)}
    rows = {name: {"images": len(images), **refused(model, images)} for name, images in shown.items()}
    print(json.dumps({"threshold": model.contract.options["unknown_threshold"], "share refused": rows}, indent=2, ensure_ascii=False))


def refused(model: Classifier, images: np.ndarray) -> dict[str, float]:
    """The share that the file refuses, and that the demo does, which first counts the figures."""
    unknown = np.array([not prediction.known for prediction in model.predict(images)])
    several = np.array([figures(image) != 1 for image in images])
    return {"by the file": round(float(unknown.mean()), 4), "in the demo": round(float((unknown | several).mean()), 4)}


def written(characters: str, fonts: Sequence[Path]) -> np.ndarray:
    """Each character in each font that has it, uint8 (n, 280, 280, 1), dark on white."""
    made = []
    for path in fonts:
        font = ImageFont.truetype(str(path), 200)
        missing = drawn("\ufffe", font)
        for character in characters:
            image = drawn(character, font)
            if image.min() < 128 and not np.array_equal(image, missing):
                made.append(image)
    return np.stack(made)


def drawn(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    image = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(image).text((140, 140), character, font=font, fill=0, anchor="mm", stroke_width=4)
    return np.asarray(image)[..., None]


if __name__ == "__main__":
    main()
