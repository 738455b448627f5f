"""One row, and 1,000 rows, through the exported file beside LightGBM's, XGBoost's and CatBoost's own ``predict``: 100 trees each.

    python tests/bench/bench_boosted.py                 # prints JSON; --rounds

Each is asked both ways, calls in turn: by its scikit-learn class, and by its booster alone, which is the faster. ``times``: how many times
as fast the file is, the median of pairs. Each may use the threads that it wants; --threads N gives all of them N.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import xgboost

from onnxferry.export import export_model
from onnxferry.runtime import Engine
from onnxferry.runtime.machine.cpu import cpu_name

FEATURES, ROWS = 20, (1, 1000)


def fitted(threads: int | None) -> dict[str, tuple[Any, dict[str, Callable[[np.ndarray], Any]]]]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, FEATURES)).astype(np.float32)
    kinds = (rows[:, :5].sum(1) + rng.standard_normal(2000) > 0).astype(int)
    given = {} if threads is None else {"n_jobs": threads}
    light = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1, **given).fit(rows, kinds)
    extreme = xgboost.XGBClassifier(n_estimators=100, **given).fit(rows, kinds)
    of_threads = {} if threads is None else {"thread_count": threads}
    cat = catboost.CatBoostClassifier(iterations=100, verbose=0, allow_writing_files=False, **of_threads).fit(rows, kinds)
    return {
        "LightGBM": (light, {"LGBMClassifier.predict_proba": light.predict_proba, "Booster.predict": light.booster_.predict}),
        "XGBoost": (extreme, {"XGBClassifier.predict_proba": extreme.predict_proba, "Booster.inplace_predict": booster_call(extreme)}),
        "CatBoost": (cat, {"CatBoostClassifier.predict_proba": cat.predict_proba}),
    }


def booster_call(model: Any) -> Callable[[np.ndarray], Any]:
    booster = model.get_booster()
    return lambda rows: booster.inplace_predict(rows)


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measured(theirs: Callable[[np.ndarray], Any], engine: Engine, rows: np.ndarray, rounds: int) -> dict[str, float]:
    pairs = [(seconds(lambda: theirs(rows)), seconds(lambda: engine.run({"X": rows}, ["probabilities"]))) for _ in range(rounds + 3)][
        3:
    ]  # the first warm up
    return {
        "own_us": round(1e6 * statistics.median(a for a, _ in pairs), 1),
        "file_us": round(1e6 * statistics.median(b for _, b in pairs), 1),
        "times": round(statistics.median(a / b for a, b in pairs), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # LightGBM's, of names that an array does not have
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, ways) in fitted(options.threads).items():
            path = Path(folder) / f"{name}.onnx"
            export_model(model, np.random.default_rng(1).standard_normal((200, FEATURES)).astype(np.float32), path)
            with Engine(path, device="cpu", threads=options.threads) as engine:
                for way, call in ways.items():
                    for count in ROWS:
                        rows = np.random.default_rng(count).standard_normal((count, FEATURES)).astype(np.float32)
                        found[f"{name}, {way}, {count} rows"] = measured(
                            call, engine, rows, options.rounds if count == 1 else options.rounds // 5
                        )
    versions = {"lightgbm": lightgbm.__version__, "xgboost": xgboost.__version__, "catboost": catboost.__version__}
    print(json.dumps({"cpu": cpu_name(), "load": os.getloadavg()[0], "versions": versions, "results": found}, indent=1))


if __name__ == "__main__":
    main()
