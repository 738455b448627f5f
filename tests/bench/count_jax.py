"""How many of the sample functions of JAX, Flax and Equinox are carried and right: exports all, and prints each and the count.

python tests/bench/count_jax.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from onnxferry.export import export_model
from onnxferry.runtime.errors import OnnxFerryError
from tests.export.sources.jax.sample_functions import SAMPLES


def main() -> None:
    carried = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, make in SAMPLES.items():
            model, examples, axes = make()
            started = time.perf_counter()
            try:
                export_model(model, examples, Path(folder) / "m.onnx", dynamic_shapes=axes)
            except OnnxFerryError as error:
                said = str(error).splitlines()[0]
            else:
                carried, said = carried + 1, "right"
            print(f"{name}: {said} ({time.perf_counter() - started:.1f} s)", flush=True)
    print(f"{carried} of {len(SAMPLES)} are carried and right")


if __name__ == "__main__":
    main()
