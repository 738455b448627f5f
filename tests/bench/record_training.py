"""Records a run of the demo's page "Train it here", which is shown where PyTorch is not installed.

    python tests/bench/record_training.py [--seconds 60] [--out demo/assets/training]

Trains as the page does, on this machine, and keeps what was seen and the exported file: some 150 kB.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from onnxferry.demo.training.frames import FILE, WATCHED, read_frames
from onnxferry.export.families.live import train

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "assets" / "training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), arguments.seconds)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in (WATCHED, FILE):
            shutil.copyfile(Path(folder) / name, arguments.out / name)
    frames = read_frames(arguments.out)
    if frames is None:
        raise SystemExit("nothing was recorded")
    sizes = {name: (arguments.out / name).stat().st_size for name in (WATCHED, FILE)}
    print(len(frames), "looks,", frames.record["test"], sizes)


if __name__ == "__main__":
    main()
