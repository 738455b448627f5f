"""A table all the way: one CSV for export, verify, optimize, predict and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'onnxferry[sklearn]'")

from onnxferry.export.sources.input_spec import samples_from_file
from onnxferry.runtime import RowClassifier, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import DataError

MODULE = """
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

rows = pd.read_csv("rows.csv", sep=";", decimal=",")
known = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), ["city"]), ("n", StandardScaler(), ["age", "spent"])])
fitted = make_pipeline(known, LogisticRegression()).fit(rows[["age", "city", "spent"]], rows["kind"])
"""


def test_a_table_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    lines = ["age;city;spent;kind"]
    for age, city, spent in zip(rng.integers(18, 80, 40), rng.choice(["Bonn", "Ulm"], 40), rng.uniform(0, 90, 40), strict=True):
        lines.append(f"{age};{city};{spent:.2f};{'buys' if age + spent > 90 else 'leaves'}".replace(".", ","))
    Path("rows.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    Path("inputs.csv").write_text("\n".join(line.rpartition(";")[0] for line in lines), encoding="utf-8")
    Path("shop_of_rows.py").write_text(MODULE)
    assert main(["export", "shop_of_rows:fitted", "--samples", "inputs.csv", "-o", "shop.onnx"]) == 0
    assert "onnxferry predict shop.onnx ROWS.csv" in capsys.readouterr().out
    assert isinstance(load("shop.onnx"), RowClassifier)
    assert main(["evaluate", "shop.onnx", "--data", "rows.csv", "--target", "kind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    assert main(["verify", "shop.onnx", "shop_of_rows:fitted", "--samples", "inputs.csv"]) == 0
    assert main(["verify", "shop.onnx", "shop_of_rows:fitted", "--samples", "rows.csv"]) == 1
    assert "sample 0 has 'kind' besides the file's inputs ('age', 'city', 'spent')" in capsys.readouterr().err
    assert main(["optimize", "shop.onnx", "--data", "rows.csv", "--budget", "top1 -0.1pt", "--batch", "1", "--seconds", "0.01"]) == 0


def test_samples_have_any_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffa;b\n1,5;x\n2;y\n", encoding="utf-8")
    found = samples_from_file(tmp_path / "a.csv")
    assert (found["a"].tolist(), found["b"].tolist()) == ([1.5, 2.0], ["x", "y"])
    (tmp_path / "b.tsv").write_text("a\tb\n1\t2\n")
    assert samples_from_file(tmp_path / "b.tsv")["b"].tolist() == [2]
    (tmp_path / "c.csv").write_text("a,b\n1\n")
    with pytest.raises(DataError, match=r"c.csv, line 2: has 1 cells"):
        samples_from_file(tmp_path / "c.csv")
