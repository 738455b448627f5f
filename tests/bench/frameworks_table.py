"""Writes the table of frameworks in docs/*/reference/frameworks.md: a small model of each kind is exported, and what was proved is counted.

python tests/bench/frameworks_table.py                 # all rows: 80 CPU seconds
python tests/bench/frameworks_table.py --under-load    # says so in the heading of the seconds

ONNXFERRY_TEST_TENSORFLOW names the Python of an environment with tensorflow-cpu and tf2onnx, as it does for the tests.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT)]

from foreign_files import block, photo_classifier  # noqa: E402

from onnxferry.export import convert_file, export_model, wrap_file  # noqa: E402
from onnxferry.export.parity.report import ParityReport  # noqa: E402
from onnxferry.export.sources.tensorflow.process import child_of  # noqa: E402

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
    before: Callable[[], Any] | None = None
    """Saves or fits the model, where this is not to be counted."""


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


def tensorflow_python() -> Path:
    given = os.environ.get("ONNXFERRY_TEST_TENSORFLOW")
    if not given:
        sys.exit("ONNXFERRY_TEST_TENSORFLOW must name the Python of an environment with tensorflow-cpu and tf2onnx")
    return Path(given)


@functools.cache
def saved_by(program: str) -> Path:
    """The folder of what one of the tests' programs saves with TensorFlow. It stays until this process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    command = [tensorflow_python(), ROOT / "tests/export/sources/tensorflow" / program, folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def saved(program: str, name: str) -> Any:
    """For a row: the export of a model that ``program`` saves, through a child process of its own, whose start is counted."""

    def export(folder: Path) -> ParityReport:
        python = tensorflow_python()
        try:
            return export_model(saved_by(program) / name, None, folder / "m.onnx", python=python)
        finally:
            child_of(python).end()

    return {"export": export, "before": lambda: saved_by(program)}


def tensorflow_function(folder: Path) -> ParityReport:
    """TensorFlow is imported here too, from its environment: what is found beside onnxferry comes first."""
    python = tensorflow_python()
    where = "import tensorflow, pathlib; print(pathlib.Path(tensorflow.__file__).parents[1])"
    said = subprocess.run([python, "-c", where], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    sys.path.append(said.split()[-1])
    import tensorflow as tf

    scale = tf.Variable(np.arange(4, dtype=np.float32))

    @tf.function
    def scaled(x: Any, shift: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(x * scale + shift)}

    given = {"x": np.ones((2, 4), np.float32), "shift": np.ones((2, 1), np.float32)}
    axes = {"x": {0: "batch"}, "shift": {0: "batch"}}
    try:
        return export_model(scaled, given, folder / "m.onnx", dynamic_shapes=axes, python=python)
    finally:
        child_of(python).end()


@functools.cache
def boosted_model(name: str) -> tuple[Any, Any]:
    """The model of the tests, fitted, and its rows."""
    from tests.export.sources.boosted.boosted_models import MODELS

    return MODELS[name]()


def boosted(name: str) -> Callable[[Path], ParityReport]:
    def export(folder: Path) -> ParityReport:
        model, rows = boosted_model(name)
        return export_model(model, rows[:50], folder / "m.onnx")

    return export


def wrapped(folder: Path) -> ParityReport:
    file = photo_classifier(folder / "theirs.onnx", [None, 3, 32, 32])
    return wrap_file(file, folder / "m.onnx", labels=["a", "b", "c"], image={"scale": 1 / 255})


def converted(folder: Path) -> ParityReport:
    return convert_file(block(folder / "theirs.onnx"), folder / "m.onnx", opset=16)


CAPTURE = ("torch.export, our own judge", "torch.export，自有校验")
CHILD = ("tf2onnx in a child process, our own judge", "子进程中的 tf2onnx，自有校验")
TABLES = ("own tables, the rest by the torch backend", "自有的查找表，其余走 torch 后端")
MISSING = ("two classes, missing values", "二分类，有缺失值")
CATEGORIES = ("frame with categories, missing ones too", "含类别列的 DataFrame，也有缺失")
ONE_HOT = ("one-hot categories of text and numbers", "文本与整数类别，独热编码")
PIPELINE = ("in a pipeline of scikit-learn", "在 scikit-learn 管道中")
OWN_OBJECTIVE = ("objectives of one's own give raw scores only", "自定义目标只给出原始分数")
ESTIMATORS = ("estimators of one's own are refused", "拒绝自定义估计器")


def _boosted(framework: str, model: tuple[str, str], name: str, limits: tuple[str, str]) -> Row:
    how = ("own reading of the library's format", "自行读取该库的格式")
    if model is PIPELINE:
        how = (f"{how[0]}; other steps as below", f"{how[1]}；其余步骤见下文 scikit-learn")
    return Row(framework, model, how, "boosted", limits, boosted(name), cheap=model is MISSING, before=lambda: boosted_model(name))


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
        "Keras", ("TextVectorization, LSTM with masks", "TextVectorization、带掩码的 LSTM"), TABLES, "keras",
        ("hashing (FarmHash) is refused", "拒绝散列（FarmHash）"), **saved("save_keras.py", "masked LSTM.keras"),
    ),
    Row(
        "Keras", ("StringLookup, IntegerLookup, numbers", "StringLookup、IntegerLookup 与数值列"), TABLES, "keras",
        ("as above", "同上"), **saved("save_keras.py", "table.keras"),
    ),
    Row(
        "TensorFlow", ("SavedModel, convolution of any size", "SavedModel，任意尺寸的卷积"), CHILD, "tensorflow",
        ("text, tables, variables that change: refused", "文本、查找表、运行时改变的变量：拒绝"), **saved("save_models.py", "convolution"),
    ),
    Row(
        "TensorFlow", ("SavedModel, LSTM, open time", "SavedModel，LSTM，时间为动态轴"), CHILD, "tensorflow",
        ("as above", "同上"), **saved("save_models.py", "lstm"),
    ),
    Row(
        "TensorFlow", (".tflite, Conv2D, Dense", ".tflite，Conv2D、Dense"), CHILD, "tensorflow",
        ("what tf2onnx does not know is refused by name", "tf2onnx 不认识的算子按名拒绝"), **saved("save_models.py", "digits.tflite"),
    ),
    Row(
        "TensorFlow", ("tf.function", "tf.function"), CHILD, "tensorflow",
        ("from Python only, beside TensorFlow", "仅限 Python，须与 TensorFlow 同一环境"), tensorflow_function,
    ),
    _boosted("LightGBM", MISSING, "lightgbm two classes", OWN_OBJECTIVE),
    _boosted("LightGBM", CATEGORIES, "lightgbm frame", OWN_OBJECTIVE),
    _boosted("LightGBM", PIPELINE, "lightgbm pipeline", ESTIMATORS),
    _boosted("XGBoost", MISSING, "xgboost two classes", OWN_OBJECTIVE),
    _boosted("XGBoost", CATEGORIES, "xgboost frame", ("a new category is taken as missing", "新类别按缺失处理")),
    _boosted("XGBoost", PIPELINE, "xgboost pipeline", ESTIMATORS),
    _boosted("CatBoost", MISSING, "catboost two classes", OWN_OBJECTIVE),
    _boosted("CatBoost", ONE_HOT, "catboost one-hot categories", ("statistics of targets (CTR) are refused", "拒绝目标统计（CTR）")),
    _boosted("CatBoost", PIPELINE, "catboost pipeline", ESTIMATORS),
    Row(
        "scikit-learn", ("LogisticRegression", "LogisticRegression"), ("skl2onnx and own converters", "skl2onnx 与自有转换器"), "sklearn",
        ESTIMATORS, logistic, cheap=True,
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
    if row.before is not None:
        row.before()
    with tempfile.TemporaryDirectory() as folder:
        began = sum(os.times()[:4])
        report = row.export(Path(folder))
        seconds = sum(os.times()[:4]) - began  # with the child processes that it ended
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


SECONDS = (("CPU seconds", "CPU seconds, on a busy machine"), ("CPU 秒", "CPU 秒（机器繁忙时）"))


def table(found: Mapping[int, tuple[int, int, float]], language: int, under_load: bool) -> str:
    head = HEADS[language].replace(*SECONDS[language]) if under_load else HEADS[language]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *(line(ROWS[n], each, language) for n, each in found.items())])


def page(language: str) -> Path:
    return ROOT / "docs" / language / "reference" / "frameworks.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--under-load", action="store_true")
    under_load = parser.parse_args().under_load
    tensorflow_python()  # before minutes are spent
    found = {}
    for number, row in enumerate(ROWS):
        found[number] = measured(row)
        print(row.framework, row.model[0], found[number], flush=True)
    for number, language in enumerate(("en", "zh")):
        before, _, rest = page(language).read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page(language).write_text(f"{before}{BEGIN}\n\n{table(found, number, under_load)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
