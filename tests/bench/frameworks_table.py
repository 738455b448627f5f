"""Writes the table of frameworks in docs/*/reference/frameworks.md: a small model of each kind is exported, and what was proved is counted.

python tests/bench/frameworks_table.py            # all rows: two minutes on two cores
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/bench"))

from foreign_files import block, photo_classifier  # noqa: E402

from onnxferry.export import convert_file, export_model, wrap_file  # noqa: E402
from onnxferry.export.parity.report import ParityReport  # noqa: E402

BEGIN, END = "<!-- the table: begin -->", "<!-- the table: end -->"


@dataclass(frozen=True)
class Row:
    """A kind of model of a framework. ``limits``: in English and Chinese."""

    framework: str
    model: tuple[str, str]
    how: tuple[str, str]
    extra: str
    limits: tuple[str, str]
    export: Callable[[Path], ParityReport]
    cheap: bool = False  # under a second: compared by a test


def perceptron(folder: Path) -> ParityReport:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    return export_model(model, torch.randn(2, 8), folder / "m.onnx", dynamic_shapes=[{0: "batch"}])


def recurrent(folder: Path) -> ParityReport:
    import torch

    torch.manual_seed(0)
    model = torch.nn.LSTM(6, 8, batch_first=True)
    return export_model(model, torch.randn(2, 5, 6), folder / "m.onnx", dynamic_shapes=[{0: "batch", 1: "time"}])


def jax_function(folder: Path) -> ParityReport:
    import jax
    import jax.numpy as jnp

    weights = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)

    def classify(x: Any) -> Any:
        return jax.nn.softmax(jnp.tanh(x) @ weights)

    return export_model(classify, {"x": np.ones((2, 8), np.float32)}, folder / "m.onnx", dynamic_shapes={"x": {0: "batch"}})


def keras_network(folder: Path) -> ParityReport:
    import os

    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    model = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)])
    return export_model(model, None, folder / "m.onnx")


def rows_of_numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 4))
    return rows, (rows[:, 0] + rows[:, 1] > 0).astype(int)


def logistic(folder: Path) -> ParityReport:
    from sklearn.linear_model import LogisticRegression

    rows, classes = rows_of_numbers()
    return export_model(LogisticRegression().fit(rows, classes), rows, folder / "m.onnx")


def forest(folder: Path) -> ParityReport:
    from sklearn.ensemble import RandomForestClassifier

    rows, classes = rows_of_numbers()
    return export_model(RandomForestClassifier(10, random_state=0).fit(rows, classes), rows, folder / "m.onnx")


def folders() -> Any:
    """The tests' own makers of model folders."""
    spec = importlib.util.spec_from_file_location("folders", ROOT / "tests/export/sources/transformers/test_folders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoder(folder: Path) -> ParityReport:
    made = folders()
    (folder / "f").mkdir()
    options = {"max_position_embeddings": 32, **made.named("bad", "fair", "good"), **made.SMALL}
    made.saved(folder / "f", "BertForSequenceClassification", "BertConfig", vocab_size=made.word_pieces(folder / "f"), **options)
    return export_model(folder / "f", None, folder / "m.onnx")


def decoder(folder: Path) -> ParityReport:
    made = folders()
    (folder / "f").mkdir()
    options = {"max_position_embeddings": 48, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, **made.SMALL}
    made.saved(folder / "f", "LlamaForCausalLM", "LlamaConfig", vocab_size=made.byte_pairs(folder / "f"), **options)
    return export_model(folder / "f", None, folder / "m.onnx")


def vision(folder: Path) -> ParityReport:
    folders().vision_folder(folder / "f")
    return export_model(folder / "f", None, folder / "m.onnx")


def wrapped(folder: Path) -> ParityReport:
    file = photo_classifier(folder / "theirs.onnx", [None, 3, 32, 32])
    return wrap_file(file, folder / "m.onnx", labels=["a", "b", "c"], image={"scale": 1 / 255})


def converted(folder: Path) -> ParityReport:
    return convert_file(block(folder / "theirs.onnx"), folder / "m.onnx", opset=16)


CAPTURE = ("torch.export, our own judge", "torch.export，自有校验")
ROWS = (
    Row("PyTorch", ("dense", "全连接"), CAPTURE, "export", ("branches on values need torch.cond", "依值分支需用 torch.cond"), perceptron),
    Row(
        "PyTorch", ("LSTM, open time", "LSTM，时间为动态轴"), CAPTURE, "export",
        ("PackedSequence is refused", "拒绝 PackedSequence"), recurrent,
    ),
    Row(
        "JAX", ("function", "函数"), ("own conversion of the jaxpr", "自有的 jaxpr 转换"), "jax",
        ("jax.random inside is refused", "内含 jax.random 时拒绝"), jax_function,
    ),
    Row(
        "Keras", ("Conv2D, Dense", "Conv2D、Dense"), ("the torch backend", "torch 后端"), "keras",
        ("GroupNormalization may be refused", "GroupNormalization 可能被拒绝"), keras_network,
    ),
    Row(
        "scikit-learn", ("LogisticRegression", "LogisticRegression"), ("skl2onnx and own converters", "skl2onnx 与自有转换器"), "sklearn",
        ("estimators of one's own are refused", "拒绝自定义估计器"), logistic, cheap=True,
    ),
    Row(
        "scikit-learn", ("RandomForestClassifier", "RandomForestClassifier"), ("own converter", "自有转换器"), "sklearn",
        ("as above", "同上"), forest, cheap=True,
    ),
    Row(
        "transformers", ("BERT, classes of text", "BERT，文本分类"), ("own capture of the folder", "自有的文件夹捕获"), "transformers",
        ("a text is cut at the model's length", "文本按模型长度截断"), encoder,
    ),
    Row(
        "transformers", ("Llama with its cache", "Llama 及其缓存"), ("own capture of the folder", "自有的文件夹捕获"), "transformers",
        ("rows of equal length", "各行等长"), decoder,
    ),
    Row(
        "transformers", ("ViT, classes of images", "ViT，图像分类"), ("own capture of the folder", "自有的文件夹捕获"), "transformers",
        ("images are not rounded after resizing", "缩放后不取整"), vision,
    ),
    Row(
        ".onnx", ("classifier of images, wrapped", "图像分类器，wrap"), ("the file as it is", "文件原样"), "export",
        ("outputs that are no tensors are refused", "拒绝非张量输出"), wrapped, cheap=True,
    ),
    Row(
        ".onnx", ("operator set 20 to 16", "算子集 20 到 16"), ("convert, operator by operator", "convert，逐算子"), "export",
        ("what no definition covers is refused by name", "无定义可用者按名拒绝"), converted, cheap=True,
    ),
)  # fmt: skip


def measured(row: Row) -> tuple[int, int, float]:
    """Inputs compared, those at sizes never traced, and CPU seconds of the export."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        report = row.export(Path(folder))
        seconds = time.process_time() - began
    assert report.passed
    return len(report.compared), sum(not case.traced for case in report.compared), seconds


def line(row: Row, found: tuple[int, int, float], language: int) -> str:
    compared, untraced, seconds = found
    said = f"{compared}, {untraced}"
    parts = row.framework, row.model[language], row.how[language], f"`{row.extra}`", said, f"{seconds:.1f}", row.limits[language]
    return f"| {' | '.join(parts)} |"


HEADS = (
    "| framework | model | how | extra | inputs compared, of them at sizes never traced | CPU seconds | known limits |",
    "| 框架 | 模型 | 做法 | 附加依赖 | 比较的输入数，其中从未追踪过的大小 | CPU 秒 | 已知局限 |",
)


def table(found: Mapping[int, tuple[int, int, float]], language: int) -> str:
    return "\n".join([HEADS[language], "|---|---|---|---|---|---|---|", *(line(ROWS[n], each, language) for n, each in found.items())])


def page(language: str) -> Path:
    return ROOT / "docs" / language / "reference" / "frameworks.md"


def main() -> None:
    found = {}
    for number, row in enumerate(ROWS):
        found[number] = measured(row)
        print(row.framework, row.model[0], found[number], flush=True)
    for number, language in enumerate(("en", "zh")):
        before, _, rest = page(language).read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page(language).write_text(f"{before}{BEGIN}\n\n{table(found, number)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
