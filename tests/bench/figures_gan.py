"""A shipped image generator's figures, through the runtime: 10,000 images made, beside the 10,000 test images.

    python tests/bench/figures_gan.py --model digits-gan --data DIR      # the set's IDX files; without it they are looked up or fetched
    python tests/bench/figures_gan.py --model fashion-gan --checkpoint RUN      # and parity with PyTorch, on all of them

Classes as in the test images, noise of a seed that choosing never used. Quality in the features of the shipped recogniser of the
same set (what each figure is: onnxferry.train.families.gan_quality), beside the floor: as many training images instead of made ones.
Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from onnxferry.runtime import ImageGenerator, load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.train.data.images import draw_stratified, load_images
from onnxferry.train.families.gan_quality import NEIGHBOURS, judge_from_model, quality

SETS = {"digits-gan": ("mnist", "digits"), "fashion-gan": ("fashion-mnist", "fashion")}
"""Generator to its set and to the recogniser that judges it."""

SEED = 2026


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits-gan", help="a shipped name, or a file named as one: digits-gan.onnx")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    data, recogniser = SETS[Path(arguments.model).stem]
    splits = load_images(data, arguments.data, validation=0)
    test, judge = splits.test, judge_from_model(recogniser)
    model = load(arguments.model, device="cpu")
    if not isinstance(model, ImageGenerator):
        raise SystemExit(f"{arguments.model} is not an image generator")
    made = np.concatenate(list(model.sample_each(len(test), test.labels, SEED)))
    features, read = judge(made)
    real = judge(test.images)[0]
    ours = quality(real, features)
    floor = quality(real, judge(splits.train.images[draw_stratified(splits.train.labels, len(test), 0)])[0])
    figures: dict[str, object] = {
        "model": arguments.model,
        "made": len(made),
        "test_images": len(test),
        "judge": f"the {real.shape[1]} features of {recogniser}; neighbourhoods of k = {NEIGHBOURS}",
        "class agreement": float((read == test.labels).mean()),
        "class agreement of the test images themselves": float((judge(test.images)[1] == test.labels).mean()),
        **{name: round(value, 5) for name, value in ours.items()},
        **{f"{name}, training images": round(value, 5) for name, value in floor.items()},
        "frechet against the floor": round(ours["frechet"] / floor["frechet"], 2),
        "bytes of the file": find_model(arguments.model).stat().st_size,
    }
    if arguments.checkpoint:
        import torch

        from onnxferry.train.families.gan import GeneratorTask
        from onnxferry.train.loop.checkpoint import load_checkpoint

        source = GeneratorTask(load_checkpoint(arguments.checkpoint, "gan").model()).eval()  # type: ignore[arg-type]
        noise = np.random.Generator(np.random.PCG64(SEED)).standard_normal((len(test), model.noise), dtype=np.float32)
        with torch.inference_mode():
            parts = zip(torch.from_numpy(noise).split(500), torch.from_numpy(test.labels).split(500), strict=True)
            difference = np.abs(made.astype(int) - np.concatenate([source(*part).numpy() for part in parts]))
        figures["levels a pixel differs from PyTorch's, at most"] = int(difference.max())
        figures["share of pixels that differ"] = float(np.count_nonzero(difference) / difference.size)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
