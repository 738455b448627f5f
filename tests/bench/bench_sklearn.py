"""What leaving scikit-learn brings: its own ``predict_proba`` beside the exported file in our engine, calls of both in turn.

    python tests/bench/bench_sklearn.py                 # prints JSON and the paragraphs of the documentation; --rounds
    python tests/bench/bench_sklearn.py --write         # and puts those into docs/*/how-to/sklearn.md, on a quiet machine

Each estimator is fitted on the wine data (13 features), exported with parity, and asked for one row and for 1,000. ``times``: how many
times as fast the file is, the median of pairs; both may use all cores that they want.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import textwrap
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
ROOT, WIDTH = Path(__file__).parents[2], 140


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


def paragraph(found: dict[str, Any], cpu: str, language: str) -> str:
    """The documentation's sentence on speed, of these figures."""
    pairs = [(f"{rows[1]['scikit_learn_us']:,.0f}", f"{rows[1]['onnxferry_us']:,.0f}", rows[1000]["times"]) for rows in found.values()]
    (linear, own_linear, a), (forest, own_forest, b), (boosting, own_boosting, c) = pairs
    cores = len(os.sched_getaffinity(0))
    if language == "en":
        text = (
            f"**Speed.** One row takes {own_linear} µs instead of {linear} µs in scikit-learn for a scaled logistic regression, "
            f"{own_forest} µs instead of {forest} µs for a forest of 100 trees, and {own_boosting} µs instead of {boosting} µs for "
            f"histogram gradient boosting of 100 rounds. A thousand rows are {a}, {b} and {c} times as fast. Measured on {cores} cores "
            f"of an {cpu} with:"
        )
        return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return (
        f"**速度。** 经过缩放的逻辑回归，单行耗时 {own_linear} µs，scikit-learn 为 {linear} µs；100 棵树的森林为 {own_forest} µs，"
        f"而不是 {forest} µs；100 轮的直方图梯度提升为 {own_boosting} µs，而不是 {boosting} µs。"
        f"一千行时，速度分别为 {a} 倍、{b} 倍和 {c} 倍。"
        f"在 {cpu} 的 {cores} 个核心上以下列命令测得："
    )


def write(text: str, language: str) -> None:
    """Puts the paragraph in the place of the one that the page has."""
    page = ROOT / "docs" / language / "how-to" / "sklearn.md"
    parts = page.read_text("utf-8").split("\n\n")
    (place,) = [number for number, part in enumerate(parts) if part.startswith(text.split(" ", 1)[0])]
    parts[place] = text
    page.write_text("\n\n".join(parts), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--write", action="store_true", help="put the paragraphs into the documentation")
    options = parser.parse_args()
    rounds = options.rounds
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
    print(json.dumps({"cpu": cpu_name(), "load": os.getloadavg()[0], **versions, "estimators": found}, indent=2))
    for language in ("en", "zh"):
        text = paragraph(found, cpu_name(), language)
        print(f"\n{text}")
        if options.write:
            write(text, language)


if __name__ == "__main__":
    main()
