"""What leaving scikit-learn brings: its own ``predict_proba`` beside the exported file in our engine, calls of both in turn.

    python tests/bench/bench_sklearn.py                 # prints JSON; --rounds

Each estimator is fitted on the wine data (13 features), exported with parity, and asked for one row and for 1,000. ``times``: how many
times as fast the file is, the median of pairs; both may use all cores that they want.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import sklearn
from sklearn.datasets import load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onnxferry.export import export_model
from onnxferry.runtime import Engine
from onnxferry.runtime.machine.cpu import cpu_name

ESTIMATORS: dict[str, Callable[[], Any]] = {
    "StandardScaler + LogisticRegression": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "StandardScaler + RandomForestClassifier(100)": lambda: make_pipeline(StandardScaler(), RandomForestClassifier(100, random_state=0)),
    "HistGradientBoostingClassifier(100)": lambda: HistGradientBoostingClassifier(max_iter=100, random_state=0),
}
ROWS = (1, 1000)


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measured(model: Any, engine: Engine, rows: np.ndarray, rounds: int) -> dict[str, float]:
    theirs, ours = (lambda: model.predict_proba(rows)), (lambda: engine.run({"X": rows}, ["probabilities"]))
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(rounds + 3)][3:]  # the first warm up
    return {
        "scikit_learn_us": round(1e6 * statistics.median(a for a, _ in pairs), 1),
        "onnxferry_us": round(1e6 * statistics.median(b for _, b in pairs), 1),
        "times": round(statistics.median(a / b for a, b in pairs), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    wine, kinds = load_wine(return_X_y=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in ESTIMATORS.items():
            model = make().fit(wine, kinds)
            path = Path(folder, "model.onnx")
            export_model(model, wine, path)
            with Engine(path, device="cpu") as engine:
                found[name] = {rows: measured(model, engine, np.resize(wine, (rows, wine.shape[1])), rounds) for rows in ROWS}
    versions = {"scikit-learn": sklearn.__version__, "onnxruntime": onnxruntime.__version__}
    print(json.dumps({"cpu": cpu_name(), **versions, "estimators": found}, indent=2))


if __name__ == "__main__":
    main()
